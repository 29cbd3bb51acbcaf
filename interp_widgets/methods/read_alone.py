"""Whether the last block may be run at the read position alone: seen on this very model before it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.errors import CancelledError
from interp_widgets.model.last_block import may_read_alone
from interp_widgets.model.places import first_block
from interp_widgets.model.residual import rounding

if TYPE_CHECKING:
    from interp_widgets.methods.explained import Explained

MANY = 4  # rows from which it pays to find out
_ROUNDING = 256.0
Once = Callable[[bool], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class _Seen:
    """Whether the last block at one position gave what the whole forward gives, on prompts up to so many tokens."""

    equal: bool
    length: int
    nbytes: int = 64


def reads_alone(what: Explained, once: Once) -> bool:
    """Whether the last block may be run at the position read alone: seen once on a prompt as long as this one.

    Args:
        what: what is explained.
        once: number and gradient of one row, with the last block alone (True) or in the whole forward.
    """
    live, last = what.live, what.live.anatomy.layers[-1].index
    if len(what.positions) != 1 or what.each is not None or not may_read_alone(live):
        return False
    if torch.finfo(live.dtype).bits < 32:
        return False  # rounding would hide what is wrong
    if any(first_block(live.anatomy, step.site) >= last for step in what.compiled(1)[0].steps):
        return False
    key = ("last block alone", live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, _Seen) and (not kept.equal or len(what.tokens) <= kept.length):
        return kept.equal
    found = _Seen(_same(what, once), len(what.tokens))
    live.cache.put(key, found)
    return found.equal


def _same(what: Explained, once: Once) -> bool:
    """Whether number and gradient are those of the whole forward, up to rounding."""
    whole = once(False)
    try:
        alone = once(True)
    except (CancelledError, torch.OutOfMemoryError):
        raise
    except Exception:  # noqa: BLE001  (a block that cannot be called so may raise anything; the whole forward is there)
        return False
    slack = _ROUNDING * rounding(what.live.dtype)
    pairs = zip(whole, alone, strict=True)
    return all(float((a - b).abs().max()) <= slack * max(float(a.abs().max()), 1e-30) for a, b in pairs)
