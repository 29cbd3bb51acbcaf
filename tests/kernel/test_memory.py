"""What a kernel keeps of a long use: nothing that grows with it, beside what Jupyter itself keeps of every message and cell."""

from __future__ import annotations

import random
import time

import pytest

from tests.kernel.harness import Kernel
from tests.kernel.test_reliability import SETUP, Page

WARM, LONG = 300, 600
# Bytes that Python code holds, by whose code asked for them; what is freed again does not count.
TRACE = """
import gc, tracemalloc
def start():
    gc.collect(); tracemalloc.start(1)
def held(stop=True):
    gc.collect()
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    sizes = [(one.traceback[0].filename, one.size) for one in taken.statistics("filename")]
    if stop:
        tracemalloc.stop()
    return [sum(size for name, size in sizes if "interp_widgets" in name), sum(size for _, size in sizes)]
"""


@pytest.mark.case("L06", "G14")
@pytest.mark.timeout(240)
def test_six_hundred_wishes_leave_less_than_a_quarter_of_a_megabyte_and_jupyter_itself_about_as_much(
    shared_kernel: Kernel,
) -> None:
    kernel = shared_kernel
    kernel.run(SETUP, timeout=120)
    kernel.run(TRACE)
    page, rng = Page(kernel), random.Random(4)

    def use(n: int) -> None:
        for k in range(n):
            act = rng.random()
            if act < 0.3:
                page.ablate(f"L{rng.randrange(3)}H{rng.randrange(4)}", off=rng.random() < 0.6)
            elif act < 0.9:
                page.drag(rng.uniform(-2, 2))
            elif act < 0.95:
                page.wish("undo", "undo")
            else:
                page.wish("ask", "ask", prompt=rng.choice(["w5 w9 w12", "w3 w4"]), target="w11", foil="w13")
            time.sleep(0.006)  # faster than a hand: what is not answered is history all the same
            if k % 50 == 49:
                page.answered(page.wish("mode", "mode", mode="zero"), 60)
                page.comm.messages.clear()

    # Traced from the first wish on: what takes the place of something older in a full cache leaves nothing.
    kernel.run("start()")
    use(WARM)  # the history of 200 states, and the caches, are full
    before = kernel.value("held(stop=False)", 120)
    use(LONG)
    ours, every = (late - early for late, early in zip(kernel.value("held()", 120), before, strict=True))
    print(f"memory: {LONG} wishes left {ours / 1e3:.0f} kB of ours, {every / 1e3:.0f} kB in all")
    assert ours < 250_000
    assert every < 750_000
    per_message = _control(kernel)
    print(f"memory: a plain slider leaves {per_message * LONG / 1e3:.0f} kB for as many messages")
    assert per_message * LONG > 25_000, "Jupyter has learnt to forget: hold ours to less"
    kernel.run("session.close()")


def _control(kernel: Kernel) -> float:
    """Bytes that a kernel keeps for each message to an ordinary widget of ipywidgets, which does nothing."""
    cell = kernel.run("import ipywidgets; slider = ipywidgets.IntSlider(max=10**6); slider")
    slider = kernel.widget(cell)
    kernel.run("start()")
    sent = [slider.set(value=n) for n in range(300)]
    kernel.wait(lambda: kernel.handled(sent[-1]), "the last message handled", 60)
    return kernel.value("held()", 120)[1] / 300
