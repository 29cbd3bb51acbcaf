"""What TransformerLens and nnsight make of a model is refused with where the model is; that opens, and neither sees us (A26, F03)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnsight import LanguageModel
from transformer_lens.model_bridge import TransformerBridge

import interp_widgets as iw
from interp_widgets.builtin import load as builtin

PROMPT = "When Mary and John went to the store, John gave a drink to"


def asked(model: Any, tokenizer: Any) -> iw.Session:
    """A session with one head off."""
    session = iw.open(model, tokenizer)
    session.ask(PROMPT, " Mary", " John")
    session.set(iw.Ablate("L1H2", mode="zero"))
    return session


@pytest.fixture
def own() -> Any:
    """The same question to the same weights, as we open them."""
    session = asked(*builtin.load("embedded"))
    yield session
    session.close()


def metric(logits: torch.Tensor, session: iw.Session) -> float:
    """The logit difference of the session's question."""
    assert session.question is not None
    first = session.question.first
    return float(logits[first.target[0].id] - logits[first.foil[0].id])


@pytest.mark.case("A26", "F03")
def test_the_bridge_of_transformer_lens_is_refused_and_the_model_in_it_opens(own: iw.Session) -> None:
    bridge: Any = TransformerBridge.boot_transformers(str(builtin.folder("embedded")), device="cpu")
    with pytest.raises(iw.ModelRefusedError, match=r"\.original_model"):
        iw.open(bridge, own.model.tokenizer)
    session = asked(bridge.original_model, own.model.tokenizer)
    assert session.answer.metric == pytest.approx(own.answer.metric, abs=1e-4)
    assert session.answer.metric != pytest.approx(session.answer.plain_metric, abs=1e-2)
    ids = torch.tensor([[token.id for token in session.question.first.tokens]])  # pyright: ignore[reportOptionalMemberAccess]
    with torch.no_grad():
        theirs = metric(bridge(ids)[0, -1], session)
        off = bridge.run_with_hooks(
            ids, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: z.index_fill(2, torch.tensor([2]), 0.0))]
        )
    assert theirs == pytest.approx(session.answer.plain_metric, abs=1e-4), "our session is seen in their forward"
    assert metric(off[0, -1], session) == pytest.approx(session.answer.metric, abs=1e-3)
    session.close()


@pytest.mark.case("A26", "F03")
def test_the_model_of_nnsight_is_refused_and_the_model_in_it_opens(own: iw.Session) -> None:
    theirs: Any = LanguageModel(str(builtin.folder("embedded")), device_map="cpu", dispatch=True)
    with pytest.raises(iw.ModelRefusedError, match=r"\._module"):
        iw.open(theirs, own.model.tokenizer)
    session = asked(theirs._module, own.model.tokenizer)
    assert session.answer.metric == pytest.approx(own.answer.metric, abs=1e-4)
    with torch.no_grad(), theirs.trace(PROMPT):
        seen = theirs.lm_head.output.save()
    assert metric(seen[0, -1], session) == pytest.approx(session.answer.plain_metric, abs=1e-4)
    assert session.answer.metric == pytest.approx(own.answer.metric, abs=1e-4)
    session.close()
