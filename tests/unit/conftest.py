"""Fixtures of the tests that need neither kernel nor browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model import gate
from interp_widgets.widgets import held
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import worker_of
from tests.invariants import compare, our_hooks, photograph
from tests.unit import tiny_models
from tests.unit.comm import Wire, install
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Recording comms in place of a kernel's; no widget of another test's comms is there."""
    monkeypatch.setattr(held, "_HELD", {})
    return install(monkeypatch)


@dataclass
class Bench:
    """A tiny model, opened, asked, and shown in three views on a page."""

    model: Any
    session: iw.Session
    page: Page
    wire: Wire
    heads: iw.HeadAblation
    tokens: iw.TokenAttribution
    sliders: iw.SteeringSliders

    def plain(self) -> float:
        """The metric of the present question by the model alone."""
        question = self.session.question
        assert question is not None
        first = question.first
        with torch.no_grad():
            logits = self.model(torch.tensor([list(first.ids)])).logits[0, first.position].float()
        return float(logits[first.target[0].id] - logits[first.foil[0].id])

    def zeroed(self, layer: int, head: int) -> float:
        """The same with one head zeroed, by a plain torch hook."""
        width = self.model.config.n_embd // self.model.config.n_head

        def cut(_module: Any, args: Any) -> Any:
            x = args[0].clone()
            x[..., head * width : (head + 1) * width] = 0
            return (x,)

        handle = self.model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(cut)
        try:
            return self.plain()
        finally:
            handle.remove()

    def whole(self) -> None:
        """V1 to V9 of the model and the page, with the session still open."""
        session, page = self.session, self.page
        assert gate.active() is None, "a run of ours is active outside of any run (V3)"
        if not mirror_of(session).views():
            iw.HeadAblation(session, mode="zero")
        page.calm()
        typed = None if session.question is None else session.question.first.prompt
        strengths = [(i.site.name, i.coefficient) for i in session.interventions if isinstance(i, iw.Steer)]
        # V5: the next wish is answered, and rightly.
        page.wish("clear", "clear")
        page.ablate("L1H2", mode="zero")
        page.calm()
        assert page.metric == pytest.approx(self.zeroed(1, 2), abs=1e-4), "the next answer is wrong (V5)"
        # V6: what is shown is what the kernel holds.
        assert [one["site"] for one in page.state["interventions"]] == ["L1H2"], "the page shows another state (V6)"
        # V8: nothing runs, nothing waits.
        assert worker_of(session.model).wait(5), "work is left over (V8)"
        # V9: what was typed is still there, and can be brought back.
        assert page.state["question"]["prompt"] == typed, "what was typed is lost (V9)"
        page.wish("undo", "undo")
        page.wish("undo", "undo")
        page.calm()
        assert [(i.site.name, i.coefficient) for i in session.interventions if isinstance(i, iw.Steer)] == strengths


def opened(wire: Wire, model: Any) -> Bench:
    """Open a model with three views and a page."""
    session = iw.open(model, tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    vector = iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name="push")
    heads = iw.HeadAblation(session, mode="zero")
    tokens = iw.TokenAttribution(session, steps=4)
    sliders = iw.SteeringSliders(session, vectors={"push": vector}, tokens=6)
    return Bench(model, session, open_page(wire, session), wire, heads, tokens, sliders)


def threads_of_ours() -> set[threading.Thread]:
    """The threads that work for open sessions; the one sender of the process is no session's."""
    ours = {one for one in threading.enumerate() if one.name.startswith("interp_widgets")}
    return {one for one in ours if one.name != "interp_widgets sender"}


@pytest.fixture
def others() -> set[threading.Thread]:
    """The threads of sessions that an earlier test has left behind: no fault of this one."""
    return threads_of_ours()


@pytest.fixture
def model() -> Any:
    """A tiny model with its user's own hooks, gradients and frozen weights: all of it must stay."""
    made = tiny_models.gpt2()
    made.transformer.h[1].register_forward_hook(lambda *_: None)
    made.transformer.h[1].register_forward_pre_hook(lambda *_: None, prepend=True)
    made.lm_head.register_full_backward_hook(lambda *_: None)
    made.transformer.wte.weight.grad = torch.ones_like(made.transformer.wte.weight)
    made.transformer.h[0].mlp.c_fc.weight.requires_grad_(requires_grad=False)
    return made


@pytest.fixture
def bench(wire: Wire, model: Any, others: set[threading.Thread]) -> Iterator[Bench]:
    """An open session with views; after the test every invariant of the catalogue (V1 to V9) is asserted."""
    before = photograph(model)
    made = opened(wire, model)
    yield made
    try:
        if not made.session.closed:
            made.whole()
    finally:
        made.session.close()
    compare(before, photograph(model), random=False)
    assert our_hooks(model) == 0, "hooks of ours stayed (V3)"
    for one in threads_of_ours() - others:
        one.join(10)
    assert threads_of_ours() <= others, "threads stayed (V8)"
