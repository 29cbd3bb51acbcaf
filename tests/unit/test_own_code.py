"""Code of the user's own inside a run: what it calls of the model is the plain model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model.interventions import Edit, Steer
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
