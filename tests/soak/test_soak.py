"""Twenty minutes of random use in a real JupyterLab: toggles, drags, prompts, generations, interrupts, reloads, restarts.

For the first third everything goes; after that one kernel and one page live to the end, and what they hold is measured, for memory
that begins anew every minute would hide a leak. `make soak` runs it and prints its figures; `IW_SOAK_MINUTES=5 IW_SOAK_SEED=3 make
soak` for another length and another user.

JupyterLab itself keeps about 0.18 MB and 800 listeners of every cell that is added, run and deleted (so that the deletion can be
undone), and ipywidgets 0.03 MB of every cell that is run again, without any widget of ours: a page of plain sliders goes through
the same number of both at the end, and what that page grew by is taken off.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Any

import psutil
import pytest
from playwright.sync_api import Dialog

from tests.browser.harness import Chromium, Json, Lab, Notebook

MINUTES = float(os.environ.get("IW_SOAK_MINUTES", "20"))
SEED = int(os.environ.get("IW_SOAK_SEED", "1"))
CHECK_EVERY = 25
STORMY = 1 / 3  # of the time
WARM = 3.0  # minutes in which a kernel fills its caches, its history of 200 states, and its heap
MOST = 1.0  # MB a minute, of the kernel, and of the page beyond what plain sliders make of it
PROMPTS = ("w5 w9 w12 w5 w30 w7", "w3 w4", "w8 w8 w8 w9 w10 w11 w12 w13", "w40 w41 w2")

OPEN = """
import ctypes, gc, hashlib, json, os, threading, torch, psutil
import interp_widgets as iw
from interp_widgets.model import gate
from tests.invariants import our_hooks
from tests.unit import tiny_models
model = tiny_models.gpt2()
ids = torch.tensor([[5, 9, 12, 7]])
def logits():
    with torch.no_grad():
        return model(ids).logits
plain = logits()
def weights():
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()
before = weights()
session = iw.open(model, tiny_models.tokenizer())
session.reference = ["w3 w4 w8 w11", "w20 w21 w22"]
session.ask("w5 w9 w12 w5 w30 w7", "w11", "w13")
vector = iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L1", name="push")
session.add_vector(vector, "push")
def look():
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is freed goes back: what is held is measured, not what the allocator keeps for later
    mine = [t.name for t in threading.enumerate() if t.name.startswith("interp_widgets")]
    return json.dumps({"plain": torch.equal(logits(), plain), "weights": weights() == before, "active": gate.active() is not None,
        "grad": torch.is_grad_enabled(), "threads": len(mine), "hooks": our_hooks(model), "rss": psutil.Process().memory_info().rss,
        "metric": session.answer.metric, "off": sorted(i.site.name for i in session.interventions if isinstance(i, iw.Ablate))})
"""
VIEWS = "heads = iw.HeadAblation(session, mode='zero'); heads"
MORE = ["iw.TokenAttribution(session, steps=8)", "iw.SteeringSliders(session, tokens=16)"]
LIVE = """() => { const roots = [...document.querySelectorAll('.iw-root')];
  return roots.length >= 3 && roots.every((n) => ['live', 'busy'].includes(n.dataset.connection)); }"""
CALM = "() => [...document.querySelectorAll('.iw-root')].every((n) => n.getAttribute('aria-busy') === 'false')"
SAME = """() => [...document.querySelectorAll('.iw-root [data-iw=metric]')]
  .every((n) => Math.abs(Number(n.dataset.value) - %r) < 1e-9)"""
DRAG = """async ([label, values]) => {
    const input = document.querySelector(`input[type=range][aria-label="${label}"]`);
    if (!input || input.matches(':disabled')) return;
    for (const value of values) {
        input.value = String(value);
        input.dispatchEvent(new Event('input', { bubbles: true }));
        await new Promise((done) => setTimeout(done, 10));
    }
    input.dispatchEvent(new Event('change', { bubbles: true }));
}"""
CLICK = """(label) => { const node = document.querySelector(`.iw-root button[aria-label="${label}"]`);
  if (node && !node.matches(':disabled')) node.click(); }"""
PRESS = """(text) => { const all = [...document.querySelectorAll('.iw-root button')].filter((n) => n.innerText.includes(text)
  && !n.matches(':disabled')); if (all.length) all[0].click(); }"""


PLAIN = [
    "import ipywidgets, torch\nplain = torch.zeros(1)\ndef logits(): return plain",
    "slider = ipywidgets.IntSlider(max=10_000); slider",
    "ipywidgets.IntSlider()",
    "ipywidgets.FloatSlider()",
]
CELL = (
    "import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: assert torch.equal(logits(), plain)"
)


@dataclass(frozen=True)
class Look:
    """What there was at one check: minutes, MB of the kernel and of the page's heap, cells added and run again until then."""

    at: float
    kernel: float
    page: float
    added: int
    again: int


@dataclass
class Soak:
    """One random user at one notebook, and what was seen."""

    notebook: Notebook
    rng: random.Random
    did: Counter[str] = field(default_factory=Counter[str])
    looks: list[Look] = field(default_factory=list[Look])
    stormy: bool = True
    slowest: float = 0.0
    added: int = 0
    dialogs: int = 0

    def __post_init__(self) -> None:
        self.notebook.page.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs += dialog.type != "beforeunload"
        dialog.accept()

    def act(self) -> None:
        """One random act."""
        acts: list[tuple[int, Callable[[], Any]]] = [
            (30, self.toggle), (20, self.drag), (8, self.undo), (6, self.ask), (8, self.generate), (4, self.run_again),
            (2, self.interrupt), (2, self.cell),
        ]  # fmt: skip
        acts += [(1, self.reload), (1, self.restart)] if self.stormy else []
        one = self.rng.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
        one()
        self.did[one.__name__] += 1

    def toggle(self) -> None:
        self.notebook.page.evaluate(CLICK, f"L{self.rng.randrange(3)}H{self.rng.randrange(4)}")

    def drag(self) -> None:
        self.notebook.page.evaluate(DRAG, ["push", [self.rng.uniform(-2, 2) for _ in range(self.rng.randrange(1, 60))]])

    def undo(self) -> None:
        self.notebook.page.evaluate(PRESS, self.rng.choice(["Undo", "Redo", "Clear"]))

    def ask(self) -> None:
        prompt = self.rng.choice((*PROMPTS, ""))
        self.notebook.page.evaluate(PRESS, "Edit question")
        box = self.notebook.page.locator(".iw-root textarea:visible").first
        if box.count():
            box.fill(prompt)
            self.notebook.page.evaluate(PRESS, "Ask")
            self.notebook.page.evaluate(PRESS, "Cancel")

    def generate(self) -> None:
        self.notebook.page.evaluate(PRESS, self.rng.choice(["Generate", "Stop"]))

    def run_again(self) -> None:
        self.notebook.page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1; }")
        self.notebook.command("notebook:run-cell", timeout=60)

    def interrupt(self) -> None:
        self.notebook.interrupt_kernel()

    def cell(self) -> None:
        self.run(CELL.format(seconds=1))

    def reload(self) -> None:
        self.notebook.save()
        self.notebook.reload()
        self.notebook.wait(LIVE, "live views after loading the page again", 60)

    def restart(self) -> None:
        self.notebook.page.evaluate(
            "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }"
        )
        self.notebook.wait(
            "() => [...document.querySelectorAll('.iw-root')].every((n) => n.dataset.connection === 'restarted')",
            "its word",
            2,
        )
        self.notebook.wait(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
            "an idle kernel",
            60,
        )
        self.notebook.run_all()
        self.notebook.wait(LIVE, "live views after a restart", 60)

    def calm_down(self) -> None:
        """From here on the kernel and the page stay; what they hold is measured."""
        self.restart()
        self.reload()
        self.stormy = False

    def run(self, code: str) -> list[Json]:
        """Add a cell, run it, and take it away again."""
        outputs = self.notebook.run(code)
        self.added += 1
        self.notebook.page.evaluate(
            """() => { const cells = window.jupyterapp.shell.currentWidget.model.sharedModel;
              while (cells.cells.length > 4) cells.deleteCell(cells.cells.length - 1); }"""
        )
        return outputs

    def check(self) -> None:
        """Everything that must hold, whatever was done."""
        begun = time.monotonic()
        self.notebook.wait(LIVE, "live views", 60)
        self.notebook.wait(CALM, "calm views", 60)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.dialogs += self.notebook.page.locator(".jp-Dialog").count()
        seen = json.loads(self.run("print(look())")[-1]["text"])
        assert seen["plain"], "the model's own numbers have changed"
        assert seen["weights"]
        assert not seen["active"]
        assert seen["grad"]
        assert seen["threads"] <= 2, f"{seen['threads']} threads of ours"
        self.notebook.wait(CALM, "calm views", 60)
        # What an interrupt kept from the page is shown once the cell that asked for it has ended.
        self.notebook.wait(SAME % seen["metric"], "the kernel's number in every view", 2)
        shown = self.notebook.page.evaluate(
            """() => [...document.querySelectorAll('.iw-root')].map((n) => [n.querySelector('[data-iw=metric]')?.dataset.value,
              [...n.querySelectorAll('button.iw-cell[aria-pressed=true]')].map((b) => b.getAttribute('aria-label')).sort()])"""
        )
        numbers = {float(value) for value, _ in shown}
        assert len(numbers) == 1, f"the views show {numbers}"
        assert numbers.pop() == pytest.approx(seen["metric"], abs=1e-9), "the page shows another number than the kernel"
        grids = [off for _, off in shown if off]
        assert all(off == seen["off"] for off in grids), f"a grid shows {grids}, the kernel holds {seen['off']}"
        if not self.stormy:
            now = time.monotonic() / 60
            self.looks.append(Look(now, seen["rss"] / 1e6, self.heap(), self.added, self.did["run_again"]))

    def heap(self) -> float:
        """What the page's JavaScript holds after its garbage was collected, MB."""
        devtools = self.notebook.page.context.new_cdp_session(self.notebook.page)
        for _ in range(2):  # what the first one finalises, the second frees
            devtools.send("HeapProfiler.collectGarbage")
        used = devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
        devtools.detach()
        return used


def slope(looks: Sequence[Look], of: Callable[[Look], float]) -> float:
    """Growth in MB a minute by least squares."""
    if len(looks) < 3:
        return 0.0
    return linear_regression([look.at for look in looks], [of(look) for look in looks]).slope


def control(lab: Lab, chromium: Chromium, added: int, again: int) -> float:
    """By how many MB a page of plain sliders grows while as many cells are added and taken away, and run again."""
    with chromium.open(lab, PLAIN, width=1400, height=2800, check=False) as notebook:
        notebook.run_all()
        user = Soak(notebook, random.Random(SEED))

        def go(added: int, again: int) -> float:
            for _ in range(added):
                user.run(CELL.format(seconds=0.05) + "\nfor n in range(50): slider.value = n")
            for _ in range(again):
                user.run_again()
            notebook.page.wait_for_timeout(1000)
            return user.heap()

        return -go(5, 5) + go(added, again)


@pytest.mark.case("G14", "D12", "L03")
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_a_random_user_finds_nothing_wrong(lab: Lab, chromium: Chromium) -> None:
    with chromium.open(lab, [OPEN, VIEWS, *MORE], width=1400, height=2800, check=False) as notebook:
        notebook.run_all()
        notebook.wait(LIVE, "live views", 60)
        soak = Soak(notebook, random.Random(SEED))
        begun, n = time.monotonic(), 0
        while time.monotonic() < begun + MINUTES * 60:
            n += 1
            if soak.stormy and time.monotonic() > begun + MINUTES * 60 * STORMY:
                soak.calm_down()
            soak.act()
            if n % CHECK_EVERY == 0:
                soak.check()
        soak.check()
        notebook.run("session.close()")
        left = int(notebook.run("our_hooks(model)")[-1]["data"]["text/plain"])
        errors = [error for error in notebook.witness.errors if "Comm not found" not in error]
    looks = [look for look in soak.looks if look.at >= soak.looks[0].at + WARM] or soak.looks
    first, last = looks[0], looks[-1]
    grown = control(lab, chromium, last.added - first.added, last.again - first.again)
    plain = grown / max(last.at - first.at, 1e-9) if last is not first else 0.0
    kernel, page = slope(looks, lambda look: look.kernel), slope(looks, lambda look: look.page)
    figures = {
        "minutes": MINUTES, "seed": SEED, "acts": sum(soak.did.values()), **soak.did, "checks": n // CHECK_EVERY + 1,
        "slowest calm, s": round(soak.slowest, 2), "minutes measured": round(last.at - first.at, 1),
        "kernel, MB": round(last.kernel), "kernel, MB a minute": round(kernel, 2),
        "page, MB": round(last.page), "page, MB a minute": round(page, 2),
        "plain sliders, MB a minute": round(plain, 2), "page beyond them, MB a minute": round(page - plain, 2),
        "cells added": last.added - first.added, "cells run again": last.again - first.again,
        "console errors": len(errors), "dialogs": soak.dialogs,
        "free memory, GB": round(psutil.virtual_memory().available / 1e9, 1),
    }  # fmt: skip
    print("\nsoak: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    assert errors == []
    assert soak.dialogs == 0
    assert left == 0
    if MINUTES >= 15:
        assert len(looks) > 10, "too few looks at the memory: it shows nothing"
        assert kernel < MOST, f"the kernel grows: {looks}"
        assert page - plain < MOST, f"the page grows: {looks}"
