"""Fixtures of the tests that run in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.harness import Kernel


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel of its own for one test."""
    with Kernel() as started:
        yield started


@pytest.fixture(scope="session")
def shared_kernel() -> Iterator[Kernel]:
    """One kernel for all tests that leave nothing behind: what takes long in a new one is to load torch."""
    with Kernel() as started:
        yield started
