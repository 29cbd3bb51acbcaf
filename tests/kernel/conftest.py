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


@pytest.fixture(scope="module")
def shared_kernel() -> Iterator[Kernel]:
    """One kernel for the tests of a module that leave nothing behind."""
    with Kernel() as started:
        yield started
