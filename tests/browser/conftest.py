"""One JupyterLab and one Chromium for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import harness
from tests.browser.harness import Chromium, Lab, Notebook
from tests.browser.yardstick import MODEL


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


@pytest.fixture(scope="session")
def page_of_a_large_model(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    """A page whose `session` asks a model that takes 100 ms for a forward."""
    with chromium.open(lab, [MODEL.format(heads=12, width=768)], width=1400, height=2000) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def measured(page_of_a_large_model: Notebook) -> Iterator[Notebook]:
    """That page for one test, which calls its view `view`."""
    yield page_of_a_large_model
    page_of_a_large_model.value("view.close()\nsession.clear()")
