"""Fixtures of the tests that need neither kernel nor browser."""

from __future__ import annotations

import pytest

from tests.unit.comm import Wire, install


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Recording comms in place of a kernel's."""
    return install(monkeypatch)
