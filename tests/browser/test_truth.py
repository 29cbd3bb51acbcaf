"""What a page says is true: of its kernel, of its connection, of what failed, of what is old (group H and V6)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator

from tests.browser.harness import Chromium, Lab, Notebook

OPEN = """
import os, time, torch
import interp_widgets as iw
from tests.unit import tiny_models
session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
session.reference = ["w3 w4 w8 w11", "w20 w21 w22"]
session.ask("w5 w9 w12 w5 w30 w7", "w11", "w13")
vector = iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L1", name="push")
"""
CELLS = [
    OPEN,
    "heads = iw.HeadAblation(session, mode='zero'); heads",
    "sliders = iw.SteeringSliders(session, vectors={'push': vector}, tokens=6); sliders",
    "heads",
]
# Every root on the page, and whether each says what it should and lets nothing be clicked.
SAYS = """(status) => { const roots = [...document.querySelectorAll('.iw-root')];
  return roots.length >= 3 && roots.every((root) => root.dataset.connection === status
    && root.querySelector('[data-status]').innerText.length > 10
    && [...root.querySelectorAll('button, input, select, textarea')].every((node) => node.matches(':disabled'))); }"""
# The connection breaks, and every attempt to have it again fails until the settings are given back.
UNPLUG = """() => {
    window.iwKernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    window.iwSettings = window.iwKernel.serverSettings;
    const nowhere = function () { return new WebSocket("ws://127.0.0.1:49151/"); };
    Object.assign(nowhere, { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 });
    window.iwKernel.serverSettings = { ...window.iwSettings, WebSocket: nowhere };
    window.iwKernel._ws.close();
}"""
LIVE = "() => [...document.querySelectorAll('.iw-root')].every((n) => ['live', 'busy'].includes(n.dataset.connection))"
CALM = "() => [...document.querySelectorAll('.iw-root')].every((n) => n.getAttribute('aria-busy') === 'false')"


def says(notebook: Notebook, status: str, since: float) -> float:
    """Wait until every view says `status`; how long after `since` that was."""
    notebook.page.wait_for_function(SAYS, arg=status, timeout=10_000, polling=20)
    return time.monotonic() - since


@pytest.fixture(scope="module")
def shown(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1400, height=2600) as notebook:
        notebook.run_all()
        ready(notebook)
        yield notebook
        # What a dead kernel's comm still says or is asked, JupyterLab logs by itself.
        notebook.witness.errors[:] = [error for error in notebook.witness.errors if "Comm not found" not in error]


def ready(notebook: Notebook) -> None:
    notebook.wait("() => document.querySelectorAll('.iw-root [data-iw=metric]').length >= 3", "three views", 60)
    notebook.wait(LIVE, "live views")
    notebook.wait(CALM, "calm views", 60)


def python(notebook: Notebook, code: str) -> str:
    """Run code in a cell that goes again: JupyterLab takes views out of the page that are scrolled out of sight. Its value."""
    outputs = notebook.run(code)
    notebook.page.evaluate(
        """() => { const cells = window.jupyterapp.shell.currentWidget.model.sharedModel;
          while (cells.cells.length > 4) cells.deleteCell(cells.cells.length - 1); window.scrollTo(0, 0); }"""
    )
    notebook.wait("() => document.querySelectorAll('.iw-root').length >= 3", "every view in sight")
    shown = [output["data"]["text/plain"] for output in outputs if "data" in output]
    return str(shown[-1]) if shown else ""


def roots(notebook: Notebook, widget: str) -> list[Locator]:
    return notebook.page.locator(f'.iw-root[data-widget="{widget}"]').all()


@pytest.mark.case("D11", "V6")
def test_two_views_of_one_widget_and_another_widget_agree_within_a_second(shown: Notebook) -> None:
    first, second = roots(shown, "HeadAblation")
    first.get_by_role("button", name="L1H2", exact=True).click()
    begun = time.monotonic()
    shown.wait(
        """() => { const numbers = [...document.querySelectorAll('.iw-root [data-iw=metric]')].map((n) => n.dataset.value);
          return new Set(numbers).size === 1 && [...document.querySelectorAll('button[aria-label=L1H2]')]
            .every((n) => n.getAttribute('aria-pressed') === 'true'); }""",
        "the same number and the same heads off everywhere",
        1.0,
    )
    print(f"agreement: two views and another widget after {time.monotonic() - begun:.2f} s")
    assert second.get_by_role("button", name="L1H2", exact=True).get_attribute("aria-pressed") == "true"
    number = float(python(shown, "session.answer.metric"))
    assert float(first.locator('[data-iw="metric"]').get_attribute("data-value") or "nan") == pytest.approx(
        number, abs=1e-9
    )
    python(shown, "session.clear()")
    shown.wait(CALM, "calm views")


@pytest.mark.case("V7")
def test_a_request_that_fails_says_so_in_every_view_and_goes_again(shown: Notebook) -> None:
    python(shown, "def bad(x): raise ArithmeticError('the edit gave up')\nsession.set(iw.Edit('L1', bad, name='bad'))")
    shown.wait(
        "() => [...document.querySelectorAll('.iw-root')].every((n) => n.innerText.includes('the edit gave up'))",
        "the sentence in every view",
    )
    alert = roots(shown, "HeadAblation")[0].locator('[role="alert"]').filter(has_text="the edit gave up").first
    assert alert.is_visible()
    shown.wait(CALM, "no view that seems to compute")
    python(shown, "session.clear()")
    shown.wait(
        "() => [...document.querySelectorAll('.iw-root')].every((n) => !n.innerText.includes('the edit gave up'))",
        "the sentence gone",
    )
    shown.wait(CALM, "calm views")


@pytest.mark.case("E13")
def test_what_was_measured_before_the_last_change_is_marked_until_it_is_measured_again(shown: Notebook) -> None:
    python(
        shown, "def slow(x):\n    time.sleep(0.2)\n    return x * 1.1\nsession.set(iw.Edit('L0', slow, name='slow'))"
    )
    shown.wait(
        "() => [...document.querySelectorAll('.iw-root')].some((n) => n.innerText.includes('before your last change'))",
        "the mark of what is old",
    )
    assert any(root.get_attribute("aria-busy") == "true" for root in roots(shown, "HeadAblation"))
    python(shown, "session.clear()")
    shown.wait(CALM, "calm views", 60)
    shown.wait(
        "() => [...document.querySelectorAll('.iw-root')].every((n) => !n.innerText.includes('before your last change'))",
        "nothing old left",
    )


@pytest.mark.case("H02")
def test_a_lost_connection_is_said_within_two_seconds_and_what_was_missed_is_made_up_for(shown: Notebook) -> None:
    begun = time.monotonic()
    shown.page.evaluate(UNPLUG)
    try:
        told = says(shown, "reconnecting", begun)
    finally:
        shown.page.evaluate("() => { window.iwKernel.serverSettings = window.iwSettings; }")
    shown.wait(LIVE, "live views again", 60)
    print(f"lost connection: said after {told:.2f} s, live again after {time.monotonic() - begun:.2f} s")
    assert told <= 2.0
    python(shown, "session.toggle('L2H1', mode='zero')")
    shown.wait(
        "() => document.querySelector('button[aria-label=L2H1]').getAttribute('aria-pressed') === 'true'", "the change"
    )
    python(shown, "session.clear()")
    shown.wait(CALM, "calm views")
    # Chromium and JupyterLab log what cannot be reached while there is no network.
    noise = ("WebSocket", "ERR_INTERNET_DISCONNECTED", "Connection lost", "NetworkError", "Failed to fetch")
    shown.witness.errors[:] = [error for error in shown.witness.errors if not any(word in error for word in noise)]


@pytest.mark.case("H03")
def test_a_page_that_is_loaded_again_shows_what_was_there_and_is_live(shown: Notebook) -> None:
    python(shown, "session.toggle('L0H3', mode='zero')")
    shown.wait(CALM, "calm views")
    shown.save()
    shown.reload()
    ready(shown)
    number = float(python(shown, "session.answer.metric"))
    head = roots(shown, "HeadAblation")[0]
    assert head.get_by_role("button", name="L0H3", exact=True).get_attribute("aria-pressed") == "true"
    assert float(head.locator('[data-iw="metric"]').get_attribute("data-value") or "nan") == pytest.approx(
        number, abs=1e-9
    )
    head.get_by_role("button", name="L0H3", exact=True).click()
    shown.wait(
        "() => document.querySelector('button[aria-label=L0H3]').getAttribute('aria-pressed') === 'false'",
        "the click taken in",
    )
    shown.wait(CALM, "calm views")
    assert python(shown, "session.interventions") == "()"


@pytest.mark.case("H01", "V9")
def test_after_a_restart_every_view_says_so_within_two_seconds_and_is_off_until_its_cell_runs_again(
    shown: Notebook,
) -> None:
    value = roots(shown, "HeadAblation")[0].locator('[data-iw="metric"]').get_attribute("data-value")
    begun = time.monotonic()
    shown.page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }")
    told = says(shown, "restarted", begun)
    print(f"restart: every view said so after {told:.2f} s")
    assert told <= 2.0
    text = roots(shown, "HeadAblation")[0].locator("[data-status]").inner_text()
    assert "restarted" in text
    assert "again" in text
    assert roots(shown, "HeadAblation")[0].locator('[data-iw="metric"]').get_attribute("data-value") == value, (
        "the last result is gone"
    )
    shown.wait(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
        "an idle kernel",
        60,
    )
    shown.run_all()
    ready(shown)


@pytest.mark.case("F15")
def test_a_kernel_that_is_killed_is_said_within_two_seconds_of_its_end_being_known(shown: Notebook) -> None:
    pid = int(python(shown, "os.getpid()"))
    shown.page.evaluate(
        """() => { window.iwEnd = null;
          window.jupyterapp.shell.currentWidget.sessionContext.statusChanged.connect((_, status) => {
            const gone = ['autorestarting', 'restarting', 'dead'].includes(status);
            if (window.iwEnd === null && gone) window.iwEnd = performance.now(); }); }"""
    )
    os.kill(pid, signal.SIGKILL)
    shown.page.wait_for_function("() => window.iwEnd !== null", timeout=30_000, polling=20)
    begun = time.monotonic()
    shown.page.wait_for_function(
        """() => [...document.querySelectorAll('.iw-root')].every((n) => ['restarted', 'dead'].includes(n.dataset.connection)
          && [...n.querySelectorAll('button, input')].every((c) => c.matches(':disabled')))""",
        timeout=2000,
        polling=20,
    )
    assert time.monotonic() - begun <= 2.0
    shown.page.keyboard.press("Escape")
