"""What a page's times are measured in: the plain forward of the model in its kernel, and the bare channel's round trip.

def test_a_click(measured: Notebook) -> None:        # the fixture of conftest: a page whose `session` asks such a model
    measured.replace("view = iw.HeadAblation(session); view")
    yardstick = Yardstick(measured)
    yardstick.measure()       # as often as wanted, between what is timed
    yardstick.allowed(1.5, 0)  # ms: one and a half forwards and one round trip
"""

from __future__ import annotations

import ast
import statistics
from dataclasses import dataclass, field

from tests.browser.harness import Notebook

# A model of GPT-2's kind with a prompt so long that one forward takes at least 100 ms on this machine.
MODEL = """
import statistics, time
import torch
import interp_widgets as iw
from comm import get_comm_manager
from tests.unit import tiny_models
model = tiny_models.gpt2(n_layer=12, n_head={heads}, n_embd={width}, n_positions=1024)
tokenizer = tiny_models.tokenizer()
def words(n):
    return " ".join("w" + str(3 + i % 40) for i in range(n))
def forward(n):
    ids = torch.tensor([tokenizer(words(n))["input_ids"]])
    start = time.perf_counter()
    with torch.no_grad():
        model(ids, use_cache=False)
    return (time.perf_counter() - start) * 1e3
def forwards(n, times=5):
    forward(n)
    return [forward(n) for _ in range(times)]
length = next((n for n in (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512) if min(forwards(n)) >= 105), 1024)
get_comm_manager().register_target("echo", lambda comm, _: comm.on_msg(lambda m: comm.send(m["content"]["data"])))
session = iw.open(model, tokenizer)
session.ask(words(length), target="w11", foil="w13")
"""
# A comm of our own in the same page: there and back through JupyterLab, its server and the kernel, and nothing else.
ECHO = """async () => {
  if (window.iwEcho === undefined) {
    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
    window.iwEcho = kernel.createComm('echo');
    window.iwEcho.open();
  }
  const start = performance.now();
  return new Promise((done) => {
    window.iwEcho.onMsg = () => { done(performance.now() - start); };
    window.iwEcho.send({ start });
  });
}"""


@dataclass
class Yardstick:
    """Forwards and round trips of one notebook, in ms."""

    notebook: Notebook
    forwards: list[float] = field(default_factory=list[float])
    echoes: list[float] = field(default_factory=list[float])

    def measure(self, times: int = 5) -> None:
        """Measure again: on a shared machine a figure holds for as long as it was taken beside what it is compared with."""
        self.forwards += ast.literal_eval(self.notebook.value(f"forwards(length, {times})"))

    def echo(self, times: int = 1) -> None:
        """One round trip of a bare comm, now."""
        self.echoes += [self.notebook.page.evaluate(ECHO) for _ in range(times)]

    @property
    def forward(self) -> float:
        """Ms of one plain forward."""
        return statistics.median(self.forwards)

    @property
    def trip(self) -> float:
        """Ms of one round trip."""
        return statistics.median(self.echoes)

    def allowed(self, forwards: float, ms: float) -> float:
        """So many forwards, so many ms, and one round trip."""
        return forwards * self.forward + ms + self.trip

    def __str__(self) -> str:
        return f"a forward is {self.forward:.0f} ms, a bare round trip {self.trip:.0f} ms"
