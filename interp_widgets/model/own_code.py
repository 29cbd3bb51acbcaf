"""Code of the user's own that a run of ours calls: it sees the plain model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from interp_widgets.model.gate import _ACTIVE  # pyright: ignore[reportPrivateUsage]


@contextmanager
def suspended() -> Generator[None]:
    """No program is active in this block, in this context: what it calls of a hooked model runs plain, and nothing counts it."""
    token = _ACTIVE.set(None)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
