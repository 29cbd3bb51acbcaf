"""Views that come and go in a real page leave nothing behind, and a tab that is shut stops what computed for it (group L)."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.browser.harness import Chromium, Lab, Notebook
from tests.browser.test_truth import OPEN
from tests.timing import Hiccups


@pytest.fixture
def shown(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, [OPEN + "heads = iw.HeadAblation(session, mode='zero')", "heads"], width=1200) as notebook:
        notebook.run_all()
        notebook.wait("() => document.querySelector('.iw-root [data-iw=metric]')", "the view", 60)
        notebook.calm()
        yield notebook


AGAIN = """async (times) => {
    const panel = window.jupyterapp.shell.currentWidget, cell = panel.content.widgets[1], saved = cell.model.outputs.toJSON();
    for (let n = 0; n < times; n++) {
        cell.model.outputs.clear();
        await new Promise((done) => setTimeout(done, 5));
        cell.model.outputs.fromJSON(saved);
        for (let k = 0; k < 200 && !cell.node.querySelector('.iw-root, .widget-slider'); k++)
            await new Promise((done) => setTimeout(done, 5));
    }
}"""


# The listeners on the model of the second cell's view, by event.
HEARD = """() => {
    const views = [], walk = (widget) => { if (widget._view) views.push(widget._view); for (const one of widget.children()) walk(one); };
    walk(window.jupyterapp.shell.currentWidget.content.widgets[1].outputArea);
    return Object.fromEntries(Object.entries(views.at(-1).model._events).map(([event, all]) => [event, all.length])); }"""
# ipywidgets hangs this one on the model with every view, and never takes it off.
THEIRS = "msg:custom"


class Counters:
    """What a page holds, once what waits to be collected has been."""

    def __init__(self, notebook: Notebook) -> None:
        self.page = notebook.page
        self.devtools = notebook.page.context.new_cdp_session(notebook.page)

    def settled(self) -> dict[str, int]:
        """The counters when two looks in a row agree: a loaded page collects what it has let go of only bit by bit."""
        last: dict[str, int] = {}
        for _ in range(40):
            self.devtools.send("HeapProfiler.collectGarbage")
            self.page.wait_for_timeout(250)
            now = self.devtools.send("Memory.getDOMCounters")
            if now == last:
                break
            last = now
        return last

    def heap(self) -> float:
        """The page's JavaScript, kB, once what finalisers let go of is collected too."""
        for _ in range(3):
            self.devtools.send("HeapProfiler.collectGarbage")
            self.page.wait_for_timeout(60)
        return self.devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e3


@pytest.mark.case("L07")
def test_a_view_removed_and_shown_two_hundred_times_leaves_its_listeners_constant(shown: Notebook) -> None:
    counters = Counters(shown)
    shown.page.evaluate(AGAIN, 20)
    shown.calm()
    before, heard = counters.settled(), shown.page.evaluate(HEARD)
    shown.page.set_default_timeout(120_000)
    shown.page.evaluate(AGAIN, 100)
    halfway = counters.settled()
    shown.page.evaluate(AGAIN, 100)
    shown.calm()
    after, still = counters.settled(), shown.page.evaluate(HEARD)
    print(f"200 views: {before} -> {after}; on the widget's model {sum(heard.values())} -> {sum(still.values())}")
    assert heard["change:colour"] == 1, "our own listeners are not seen: the test shows nothing"
    assert {**still, THEIRS: 0} == {**heard, THEIRS: 0}
    assert still[THEIRS] <= heard[THEIRS] + 200
    one = shown.page.evaluate("() => document.querySelectorAll('.iw-root *').length")
    # What is left by each view is left in both halves; the document of one view that waits to be collected is in one of them.
    left = [b["jsEventListeners"] - a["jsEventListeners"] for a, b in itertools.pairwise([before, halfway, after])]
    assert min(left) <= 10, f"a hundred views left {left} listeners"
    assert max(left) <= 200, f"a hundred views left {left} listeners"
    assert after["nodes"] <= before["nodes"] + 2 * one
    assert shown.page.locator(".iw-root").count() == 1
    shown.page.locator("button[aria-label=L1H1]").first.click()
    shown.wait(
        "() => document.querySelector('button[aria-label=L1H1]').getAttribute('aria-pressed') === 'true'", "a click"
    )


def test_a_plain_slider_removed_and_shown_leaves_one_listener_on_its_model_each_time(
    lab: Lab, chromium: Chromium
) -> None:
    """The control: what is left of our views on the widget's model is ipywidgets' own."""
    with chromium.open(lab, ["import ipywidgets; slider = ipywidgets.IntSlider()", "slider"], width=1200) as notebook:
        notebook.run_all()
        notebook.page.evaluate(AGAIN, 5)
        heard = notebook.page.evaluate(HEARD)
        notebook.page.evaluate(AGAIN, 50)
        still = notebook.page.evaluate(HEARD)
    assert still[THEIRS] == heard[THEIRS] + 50
    assert {**still, THEIRS: 0} == {**heard, THEIRS: 0}


CARRIES = """
import anywidget, pathlib
code = (pathlib.Path(iw.__file__).parent / 'static' / 'head_ablation.js').read_text('utf-8')
class Carries(anywidget.AnyWidget):
    _esm = code[:code.rindex('export')] + ';export default { render({ el }) { el.textContent = "shown"; } };'
"""


KINDS = {
    # First, for a page that has just been opened fills caches of its own.
    "slider": ("import ipywidgets; ipywidgets.IntSlider()", "() => document.querySelector('.widget-slider')"),
    "ours": ("iw.HeadAblation(session, mode='zero')", "() => document.querySelector('.iw-root [data-iw=metric]')"),
    "opened": (
        "s = iw.open(session.model.module, session.model.tokenizer); s.ask('w5 w9', 'w11', 'w13'); iw.HeadAblation(s)",
        "() => document.querySelectorAll('.iw-root [data-iw=metric]').length === 2",
    ),
    # The negative control: a view that brings its own code along, and does not even run it.
    "carrying": ("Carries()", "() => document.body.innerText.includes('shown')"),
}


def left_by_runs(notebook: Notebook, cell: int, shown: str) -> float:
    """How many kB of the page's JavaScript stay each time a cell is run again: the median of three times five."""
    counters = Counters(notebook)

    def five() -> float:
        for _ in range(5):
            notebook.page.evaluate(
                "(n) => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = n; }", cell
            )
            notebook.command("notebook:run-cell", timeout=60)
        notebook.wait(shown, "the view")
        notebook.calm()
        return counters.heap()

    sizes = [five() for _ in range(4)]
    return statistics.median((b - a) / 5 for a, b in itertools.pairwise(sizes))


@pytest.mark.case("L03")
@pytest.mark.timeout(400)
def test_a_cell_that_is_run_again_leaves_in_the_page_about_what_a_plain_sliders_cell_leaves(
    lab: Lab, chromium: Chromium
) -> None:
    with chromium.open(lab, [OPEN + CARRIES, *(cell for cell, _ in KINDS.values())], width=1200) as notebook:
        notebook.page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
        notebook.command("notebook:run-cell", timeout=60)
        left = {kind: left_by_runs(notebook, at, shown) for at, (kind, (_, shown)) in enumerate(KINDS.items(), 1)}
    print("run again: " + ", ".join(f"{kb:.0f} kB stay of {kind}" for kind, kb in left.items()))
    assert left["ours"] <= left["slider"] + 40
    assert left["opened"] <= 2 * left["slider"] + 80  # three widgets: a view, its layout, and the session
    assert left["carrying"] > left["slider"] + 40


@pytest.mark.case("E09")
def test_a_tab_that_is_shut_stops_what_the_kernel_computed_for_it(lab: Lab, chromium: Chromium) -> None:
    code = [
        OPEN
        + """
calls = []
def slow(x):
    calls.append(time.time()); time.sleep(0.05); return x * 1.5
sliders = iw.SteeringSliders(session, vectors={"push": vector}, tokens=500)
import os, threading
def note():
    while True:
        open("calls.new", "w").write(str(calls[-1] if calls else 0)); os.replace("calls.new", "calls.txt"); time.sleep(0.1)
threading.Thread(target=note, daemon=True).start()
""",
        "session.set(iw.Edit('L0', slow, name='slow')); sliders",
    ]
    with chromium.open(lab, code, check=False) as notebook:
        notebook.run_all()
        notebook.wait(
            "() => document.querySelector('.iw-root')?.getAttribute('aria-busy') === 'true'", "a view that computes", 60
        )
        notebook.page.wait_for_timeout(500)
        assert notebook.page.locator(".iw-root").first.get_attribute("aria-busy") == "true", (
            "it has ended: the test shows nothing"
        )
        other = notebook.page.context.new_page()  # the browser stays open
        with Hiccups() as hiccups:
            shut = time.time()
            notebook.page.close(run_before_unload=False)
            time.sleep(1.0)
        last = float((lab.folder / "calls.txt").read_text())
        other.close()
    print(f"tab shut: the last step began {last - shut:+.2f} s after it")
    assert last > 0
    assert last <= shut + 0.05 + 0.05 + 0.2 + hiccups.allowed  # one step, the bound, and what closing a page takes
