"""Code of the user's own inside a run: what it calls of the model is the plain model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.dose_response import dose_response
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.methods.patching import patching
from interp_widgets.methods.position_effects import position_effects
from interp_widgets.model.errors import CancelledError
from interp_widgets.model.interventions import Edit, Steer
from interp_widgets.model.question import Question
from tests.unit import tiny_models

PROMPT = "w5 w9 w12 w5 w30 w7"
IDS = torch.tensor([[5, 9, 12, 5, 30, 7]])


@pytest.fixture(scope="module")
def session() -> Iterator[iw.Session]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    yield session
    session.close()


def test_a_lens_inside_an_edit_is_neither_steered_nor_counted(session: iw.Session) -> None:
    model: Any = session.model.module
    seen: list[torch.Tensor] = []

    def lens(x: torch.Tensor) -> torch.Tensor:
        seen.append(model.lm_head(model.transformer.ln_f(x)))
        return x

    steer = Steer("L2", torch.ones(32), 4.0, positions="all")
    run = session.model.run(PROMPT, [Edit("L0", lens), steer], read=["L0"])
    right = model.lm_head(model.transformer.ln_f(run["L0"]))
    assert torch.equal(seen[0], right.detach())
    assert run.receipts[1].fired == 1
    assert torch.equal(run.logits, session.model.run(PROMPT, [steer]).logits)


def test_an_embedding_looked_up_inside_an_edit_is_not_what_is_read(session: iw.Session) -> None:
    model: Any = session.model.module
    edit = Edit("L1", lambda x: x + model.transformer.wte(torch.tensor([3]))[0])
    run = session.model.run(PROMPT, [edit], read=["embed"])
    assert run["embed"].shape == (6, 32)
    plain = session.model.run(PROMPT, read=["embed"])
    assert torch.equal(run["embed"], plain["embed"])


@pytest.mark.parametrize("own_call", [True, False])
def test_an_edit_may_call_the_whole_model(session: iw.Session, own_call: bool) -> None:
    model: Any = session.model.module
    edit = Edit("L1", lambda x: x + 0 * model(IDS[:, :3]).logits.sum() + 1)
    want = session.model.run(PROMPT, [Edit("L1", lambda x: x + 1)]).logits
    if own_call:
        session.set(edit)
        with torch.no_grad(), session.applied() as receipts:
            got = model(IDS).logits[0]
        assert (receipts[0].fired, receipts[0].positions) == (1, 6)
    else:
        got = session.model.run(PROMPT, [edit]).logits
    assert torch.allclose(got, want, atol=1e-5)


def test_an_edit_may_ask_the_session_for_a_run_of_its_own(session: iw.Session) -> None:
    nested = Edit("L1", lambda x: x + session.model.run(PROMPT, read=["L0"])["L0"].mean())
    mean = session.model.run(PROMPT, read=["L0"])["L0"].mean()
    assert torch.equal(
        session.model.run(PROMPT, [nested]).logits, session.model.run(PROMPT, [Edit("L1", lambda x: x + mean)]).logits
    )


Measured = Callable[[iw.Session, Question, Callable[[], bool]], object]
SLOW_METRICS: dict[str, Measured] = {
    "dose response": lambda s, asked, cancelled: dose_response(s.model, asked.first, push(), cancelled=cancelled),
    "dose response at several layers": lambda s, asked, cancelled: dose_response(
        s.model, asked.first, (push("L0"), push("L1")), cancelled=cancelled
    ),
    "heads": lambda s, asked, cancelled: head_effects(s.model, asked, mode="zero", cancelled=cancelled),
    "patching": lambda s, asked, cancelled: patching(s.model, asked, cancelled=cancelled),
    "positions": lambda s, asked, cancelled: position_effects(s.model, asked, [push()], cancelled),
    "occlusion": lambda s, asked, cancelled: attribute(s.model, asked, method="occlusion", cancelled=cancelled),
}


def push(site: str = "L1") -> iw.Steer:
    return iw.Steer(site, torch.linspace(-1, 1, 32), 1.0, positions="all")


@pytest.mark.case("E08")
@pytest.mark.parametrize("what", SLOW_METRICS)
def test_what_is_measured_with_an_own_metric_stops_between_two_of_its_calls(what: str) -> None:
    calls = 0

    def metric(logits: torch.Tensor) -> float:
        nonlocal calls
        calls += 1
        return float(logits[11] - logits[13])

    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    asked = session.ask(PROMPT, "w11", "w13", corrupt="w6 w9 w12 w5 w30 w7", metric=metric)
    SLOW_METRICS[what](session, asked, lambda: False)
    whole, calls = calls, 0
    assert whole > 4, "the metric is called so rarely that the test shows nothing"
    with pytest.raises(CancelledError):
        SLOW_METRICS[what](session, asked, lambda: calls >= 3)
    session.close()
    assert calls == 3
