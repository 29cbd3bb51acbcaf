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

CARRIES = """
import anywidget, pathlib
code = (pathlib.Path(iw.__file__).parent / 'static' / 'head_ablation.js').read_text('utf-8')
class Carries(anywidget.AnyWidget):
    _esm = code[:code.rindex('export')] + ';export default { render({ el }) { el.textContent = "shown"; } };'
"""
SLOW = """
import threading
calls = []
def slow(x):
    calls.append(time.time()); time.sleep(0.05); return x * 1.5
def note():
    while True:
        open("calls.new", "w").write(str(calls[-1] if calls else 0)); os.replace("calls.new", "calls.txt"); time.sleep(0.1)
"""
# A view, a plain slider, and the cells that are run again and again: how they are told to be shown, beside the first view.
METRICS = "() => document.querySelectorAll('.iw-root [data-iw=metric]').length === {}"
VIEW, SLIDER = 1, 2
KINDS = {
    # First, for a page that has just been opened fills caches of its own.
    "slider": ("ipywidgets.IntSlider()", "() => document.querySelectorAll('.widget-slider').length === 2"),
    "ours": ("iw.HeadAblation(session, mode='zero')", METRICS.format(2)),
    "opened": (
        "s = iw.open(session.model.module, session.model.tokenizer); s.ask('w5 w9', 'w11', 'w13'); iw.HeadAblation(s)",
        METRICS.format(3),
    ),
    # The negative control: a view that brings its own code along, and does not even run it.
    "carrying": ("Carries()", "() => document.body.innerText.includes('shown')"),
}
CELLS = [
    OPEN + "import ipywidgets\nheads = iw.HeadAblation(session, mode='zero')" + CARRIES + SLOW,
    "heads",
    "ipywidgets.IntSlider()",
    *(cell for cell, _ in KINDS.values()),
    """
texts = iw.SteeringSliders(session, vectors={"push": vector}, tokens=500)
session.set(iw.Edit("L0", slow, name="slow"))
threading.Thread(target=note, daemon=True).start()
texts
""",
]


@pytest.fixture(scope="module")
def shown(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1200) as notebook:
        for cell in (0, VIEW, SLIDER):
            run(notebook, cell)
        notebook.wait(METRICS.format(1), "the view", 60)
        notebook.calm()
        yield notebook


def run(notebook: Notebook, cell: int) -> None:
    notebook.page.evaluate("(n) => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = n; }", cell)
    notebook.command("notebook:run-cell", timeout=60)


AGAIN = """async ([at, times]) => {
    const panel = window.jupyterapp.shell.currentWidget, cell = panel.content.widgets[at], saved = cell.model.outputs.toJSON();
    for (let n = 0; n < times; n++) {
        cell.model.outputs.clear();
        await new Promise((done) => setTimeout(done, 5));
        cell.model.outputs.fromJSON(saved);
        for (let k = 0; k < 200 && !cell.node.querySelector('.iw-root, .widget-slider'); k++)
            await new Promise((done) => setTimeout(done, 5));
    }
}"""


# The listeners on the model of a cell's view, by event.
HEARD = """(at) => {
    const views = [], walk = (widget) => { if (widget._view) views.push(widget._view); for (const one of widget.children()) walk(one); };
    walk(window.jupyterapp.shell.currentWidget.content.widgets[at].outputArea);
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
        for _ in range(2):
            self.devtools.send("HeapProfiler.collectGarbage")
            self.page.wait_for_timeout(60)
        return self.devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e3


@pytest.mark.case("L07")
def test_a_view_removed_and_shown_two_hundred_times_leaves_its_listeners_constant(shown: Notebook) -> None:
    counters = Counters(shown)
    shown.page.evaluate(AGAIN, [VIEW, 20])
    shown.calm()
    before, heard = counters.settled(), shown.page.evaluate(HEARD, VIEW)
    shown.page.set_default_timeout(120_000)
    shown.page.evaluate(AGAIN, [VIEW, 100])
    halfway = counters.settled()
    shown.page.evaluate(AGAIN, [VIEW, 100])
    shown.calm()
    after, still = counters.settled(), shown.page.evaluate(HEARD, VIEW)
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


def test_a_plain_slider_removed_and_shown_leaves_one_listener_on_its_model_each_time(shown: Notebook) -> None:
    """The control: what is left of our views on the widget's model is ipywidgets' own."""
    shown.page.evaluate(AGAIN, [SLIDER, 5])
    heard = shown.page.evaluate(HEARD, SLIDER)
    shown.page.evaluate(AGAIN, [SLIDER, 50])
    still = shown.page.evaluate(HEARD, SLIDER)
    assert still[THEIRS] == heard[THEIRS] + 50
    assert {**still, THEIRS: 0} == {**heard, THEIRS: 0}


def left_by_runs(notebook: Notebook, cell: int, shown: str) -> float:
    """How many kB of the page's JavaScript stay each time a cell is run again: the median of three times five."""
    counters = Counters(notebook)

    def five() -> float:
        for _ in range(5):
            run(notebook, cell)
        notebook.wait(shown, "the view")
        notebook.calm()
        return counters.heap()

    sizes = [five() for _ in range(4)]
    return statistics.median((b - a) / 5 for a, b in itertools.pairwise(sizes))


@pytest.mark.case("L03")
@pytest.mark.timeout(400)
def test_a_cell_that_is_run_again_leaves_in_the_page_about_what_a_plain_sliders_cell_leaves(shown: Notebook) -> None:
    kinds = enumerate(KINDS.items(), SLIDER + 1)
    left = {kind: left_by_runs(shown, cell, there) for cell, (kind, (_, there)) in kinds}
    print("run again: " + ", ".join(f"{kb:.0f} kB stay of {kind}" for kind, kb in left.items()))
    assert left["ours"] <= left["slider"] + 40
    assert left["opened"] <= 2 * left["slider"] + 80  # three widgets: a view, its layout, and the session
    assert left["carrying"] > left["slider"] + 40


@pytest.mark.case("E09")
def test_a_tab_that_is_shut_stops_what_the_kernel_computed_for_it(shown: Notebook) -> None:
    """The last of this page: there is none afterwards."""
    shown.value("session.clear()")
    run(shown, len(CELLS) - 1)
    texts = shown.view("SteeringSliders")
    texts.locator('xpath=self::*[@aria-busy="true"]').wait_for(timeout=60_000)
    shown.page.wait_for_timeout(500)
    assert texts.get_attribute("aria-busy") == "true", "it has ended: the test shows nothing"
    shown.page.context.new_page()  # the browser stays open
    with Hiccups() as hiccups:
        shut = time.time()
        shown.page.close(run_before_unload=False)
        time.sleep(1.0)
    last = float((shown.lab.folder / "calls.txt").read_text())
    print(f"tab shut: the last step began {last - shut:+.2f} s after it")
    assert last > shut - 1
    assert last <= shut + 0.05 + 0.05 + 0.2 + hiccups.allowed  # one step, the bound, and what closing a page takes
