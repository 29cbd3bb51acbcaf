"""One JupyterLab and one Chromium for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import harness
from tests.browser.harness import Chromium, Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The JupyterLab server of this run."""
    with Lab() as started:
        yield started


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """The browser of this run."""
    with harness.chromium() as started:
        yield started
