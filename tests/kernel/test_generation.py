"""Generation in a real kernel: whatever ends it ends it within one step, keeps the text, and leaves the model untouched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.harness import Comm, Custom, Kernel

STEP = 0.1
SETUP = f"""
import time, threading, torch
import interp_widgets as iw
from tests.unit import tiny_models
from interp_widgets.worker import worker_of
from interp_widgets.widgets.channel import mirror_of
model = tiny_models.gpt2()
session = iw.open(model, tiny_models.tokenizer())
session.ask("w5 w9 w12 w5 w30 w7", "w11", "w13")
ids = torch.tensor([[5, 9, 12, 7]])
def forward():
    with torch.no_grad():
        return model(ids).logits
plain = forward()
class Slow:
    calls = 0
    def __call__(self, x):
        self.calls += 1; time.sleep({STEP}); return x * 1.5
def settled(slow):
    "How many steps were begun, and how many more in three steps' time."
    now = slow.calls; time.sleep({3 * STEP}); return now, slow.calls - now
import json
mirror = mirror_of(session).model_id
"""


class Page:
    """A page's store at the session widget's comm."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.comm: Comm = kernel.comms[json.loads(kernel.run("print(json.dumps(mirror))").stdout)]
        self.seq = 0
        self.comm.send({"kind": "hello", "client": "text", "version": "0"})

    def wish(self, panel: str, action: str) -> None:
        self.seq += 1
        args = {"panel": panel, "action": action}
        key = f"panel:{panel}"
        self.comm.send({"kind": "intent", "client": "text", "seq": self.seq, "name": "panel", "key": key, "args": args})

    def panel(self, panel: str, holds: Any, what: str) -> Any:
        """The first news of a panel that holds."""

        def of(m: Custom) -> bool:
            return m.content["kind"] == "panel" and m.content["panel"] == panel and holds(m.content)

        return self.comm.wait(of, what, 30).content


def written(content: Any) -> int:
    """How many edited tokens a panel's news holds."""
    edited = (content["data"] or {}).get("branch:1")
    return len(edited["tokens"]) if edited else 0


@pytest.fixture(scope="module")
def opened(shared_kernel: Kernel) -> Iterator[Kernel]:
    shared_kernel.run(SETUP, timeout=120)
    yield shared_kernel
    shared_kernel.run("session.close()")


@pytest.fixture
def kernel(opened: Kernel) -> Iterator[Kernel]:
    opened.run("slow = Slow(); edit = iw.Edit('L1', slow, name='slow')")
    yield opened
    opened.run("session.clear(); [view.close() for view in mirror_of(session).views()]")
    assert opened.value("worker_of(session.model).wait(20)")
    assert opened.value("torch.equal(forward(), plain)"), "the model is not as it was"
    assert opened.value("settled(slow)[1]") == 0, "a generator is still running"


@pytest.fixture
def running(kernel: Kernel) -> tuple[Page, str]:
    """A Generation view in the middle of its text."""
    kernel.run("session.set(edit); texts = iw.Generation(session, tokens=40)")
    page, panel = Page(kernel), kernel.value("texts.panel")
    page.panel(panel, lambda c: written(c) >= 3, "three tokens")
    return page, panel


@pytest.mark.timeout(120)
def test_an_interrupt_ends_the_loop_of_a_cell_within_a_step_and_keeps_the_text(kernel: Kernel) -> None:
    cell = kernel.start(
        "run = session.model.generate('w5 w9 w12', [edit], 50, ignore_eos=True)\n"
        "for token in run: print(token.id, flush=True)"
    )
    kernel.wait(lambda: len(cell.stdout.split()) >= 4, "four tokens")
    kernel.interrupt()
    kernel.wait(lambda: cell.done, "the end of the cell", 20)
    assert cell.error is not None
    assert cell.error["ename"] == "KeyboardInterrupt"
    shown = [int(word) for word in cell.stdout.split()]
    kept = kernel.value("[t.id for t in run.tokens]")
    assert kept[: len(shown)] == shown
    assert len(kept) - len(shown) <= 1
    assert kernel.value("slow.calls") <= len(kept) + 1
    assert kernel.value("settled(slow)[1]") == 0


@pytest.mark.timeout(120)
def test_an_exception_at_token_5_ends_it_and_keeps_four_tokens(kernel: Kernel) -> None:
    kernel.run(
        "def breaks(x):\n"
        "    slow.calls += 1\n"
        "    if slow.calls == 5: raise RuntimeError('no fifth token')\n"
        "    return x * 1.5\n"
        "run = session.model.generate('w5 w9 w12', [iw.Edit('L1', breaks, name='breaks')], 50, ignore_eos=True)\n"
        "try:\n"
        "    list(run)\n"
        "except Exception as error:\n"
        "    said = str(error)\n"
    )
    assert "no fifth token" in kernel.value("said")
    assert kernel.value("len(run.tokens)") == 4
    assert kernel.value("run.ended") == "error"


@pytest.mark.timeout(120)
def test_a_consumer_that_leaves_has_left_nothing_behind(kernel: Kernel) -> None:
    kernel.run(
        "threads = threading.active_count()\n"
        "run = session.model.generate('w5 w9 w12', [edit], 50, ignore_eos=True)\n"
        "for n, token in enumerate(run):\n"
        "    between = forward()\n"
        "    if n == 2: break\n"
        "del run"
    )
    assert kernel.value("settled(slow)") == [3, 0]
    assert kernel.value("torch.equal(between, plain)"), "the user's forward between two tokens was edited"
    assert kernel.value("threading.active_count() <= threads")


@pytest.mark.timeout(120)
def test_stop_in_the_page_ends_the_text_within_a_step_and_keeps_it(kernel: Kernel, running: tuple[Page, str]) -> None:
    page, panel = running
    page.wish(panel, "stop")
    last = page.panel(panel, lambda c: c["status"] == "done" and written(c) >= 3, "the end")
    assert last["data"]["branch:1"]["ended"] == "stopped"
    assert written(last) < 40
    assert kernel.value("settled(slow)[1]") == 0


@pytest.mark.timeout(120)
def test_an_interrupt_ends_the_text_of_a_view_within_a_step_and_says_so(
    kernel: Kernel, running: tuple[Page, str]
) -> None:
    page, panel = running
    kernel.interrupt()
    said = page.panel(panel, lambda c: c["status"] == "failed", "a sentence")
    assert "interrupted" in said["message"]
    before, more = kernel.value("settled(slow)")
    assert more == 0
    assert before < 40
    assert kernel.value("len(texts._branches[1].tokens)") >= 3


@pytest.mark.timeout(120)
def test_a_closed_view_writes_no_more(kernel: Kernel, running: tuple[Page, str]) -> None:
    del running
    before = kernel.value("(texts.close(), slow.calls)[1]")
    after, more = kernel.value("settled(slow)")
    assert after - before <= 2
    assert more == 0
