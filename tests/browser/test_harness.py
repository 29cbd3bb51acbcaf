"""The browser harness itself, with an anywidget of four lines: what it reports is what a user would see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.harness import Chromium, Lab, Notebook

COUNTER = '''
import anywidget, traitlets
class Counter(anywidget.AnyWidget):
    _esm = """
    export default { render({ model, el }) {
      const button = document.createElement("button");
      const paint = () => { button.textContent = "count is " + model.get("count"); };
      button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
      model.on("change:count", paint); paint(); el.append(button);
    } };
    """
    count = traitlets.Int(0).tag(sync=True)
counter = Counter(); counter
'''


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, ["1"]) as notebook:
        yield notebook


@pytest.fixture
def notebook(page: Notebook) -> Notebook:
    page.replace(COUNTER)
    return page


def test_a_click_reaches_python_and_a_change_in_python_reaches_the_page(notebook: Notebook) -> None:
    button = notebook.page.get_by_role("button", name="count is")
    button.click()
    button.click()
    notebook.page.get_by_role("button", name="count is 2").wait_for()
    assert notebook.run("counter.count")[0]["data"]["text/plain"] == "2"
    notebook.run("counter.count = 40")
    notebook.page.get_by_role("button", name="count is 40").wait_for()


def test_a_cell_that_raises_fails_with_its_traceback(notebook: Notebook) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.replace("1 / 0")


def test_console_errors_and_requests_that_leave_the_machine_are_reported(notebook: Notebook) -> None:
    notebook.page.evaluate("() => { console.error('a mishap'); }")
    notebook.page.evaluate("() => fetch('http://192.0.2.1/x').catch(() => {})", None)
    try:
        assert any("a mishap" in error for error in notebook.witness.errors)
        assert notebook.witness.foreign == ["http://192.0.2.1/x"]
        with pytest.raises(AssertionError, match="192.0.2.1"):
            notebook.assert_clean()
    finally:
        notebook.witness.errors.clear()
        notebook.witness.foreign.clear()


def test_a_restarted_kernel_is_a_new_one(notebook: Notebook) -> None:
    assert notebook.value("counter.count") == "0"
    notebook.restart_kernel()
    assert notebook.value("'counter' in globals()") == "False"


def test_a_reloaded_page_finds_the_widget_alive(notebook: Notebook) -> None:
    notebook.page.get_by_role("button", name="count is 0").click()
    notebook.page.get_by_role("button", name="count is 1").wait_for()
    notebook.save()
    notebook.reload()
    notebook.page.get_by_role("button", name="count is 1").click()
    notebook.page.get_by_role("button", name="count is 2").wait_for()


def test_the_theme_switches_and_shows_in_pictures(notebook: Notebook, tmp_path: Path) -> None:
    pictures: list[bytes] = []
    for theme in ("dark", "light"):
        notebook.theme(theme)
        pictures.append(notebook.screenshot(tmp_path / f"{theme}.png", ".jp-OutputArea").read_bytes())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
