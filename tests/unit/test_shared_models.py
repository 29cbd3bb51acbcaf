"""A model that is a copy, wrapped, shared, adapted or changed while it is open is still answered for exactly, or refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import interp_widgets as iw
from interp_widgets.model import gate
from interp_widgets.session import Session
from tests.invariants import our_hooks
from tests.unit import tiny_models

PROMPT, TARGET, FOIL = "w5 w9 w12 w5 w30 w7", "w11", "w13"
STEER = iw.Steer("L0", torch.linspace(-1, 1, 32), 2.0, positions="all")


def own(model: Any, session: Session) -> float:
    """The metric of the session's question, by the module alone."""
    question = session.question
    assert question is not None
    first = question.first
    with torch.no_grad():
        logits = model(torch.tensor([list(first.ids)])).logits[0, first.position].float()
    return float(logits[first.target[0].id] - logits[first.foil[0].id])


def asked(model: Any, tokenizer: Any = None) -> Session:
    session = iw.open(model, tokenizer or tiny_models.tokenizer())
    session.ask(PROMPT, target=TARGET, foil=FOIL)
    return session


@pytest.fixture
def model() -> Any:
    return tiny_models.gpt2()


@pytest.fixture
def session(model: Any) -> Iterator[Session]:
    made = asked(model)
    yield made
    made.close()
    assert our_hooks(model) == 0, "hooks of ours stayed (V3)"


def saved_and_loaded(model: Any) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.case("A31")
@pytest.mark.parametrize("again", [copy.deepcopy, saved_and_loaded])
def test_a_copy_of_an_open_model_is_edited_once_and_left_without_hooks(
    session: Session, model: Any, again: Any
) -> None:
    session.set(STEER)
    twin = again(model)
    other = asked(twin)
    other.set(STEER)
    assert other.answer.metric == session.answer.metric
    assert other.model.receipts(PROMPT, [STEER])[0].positions == 6
    other.close()
    assert our_hooks(twin) == 0
    assert session.model.receipts(PROMPT, [STEER])[0].positions == 6


@pytest.mark.case("A26", "A22")
def test_two_openings_that_share_modules_edit_once_and_the_first_to_close_leaves_the_others_hooks(
    session: Session, model: Any
) -> None:
    session.set(STEER)
    right = session.answer.metric
    wrapped = asked(torch.compile(model, backend="eager"))
    wrapped.set(STEER)
    assert wrapped.answer.metric == right
    with session.applied() as receipts:
        wrapped.close()
        with torch.no_grad():
            model(torch.tensor([[5, 9, 12, 5, 30, 7]]))
    assert receipts[0].positions == 6, "whoever closed first took the other's hooks"


class Squashed(nn.Linear):
    """An unembedding that is more than a matrix."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(input).sigmoid() * 5


def test_an_unembedding_that_is_more_than_a_matrix_is_called() -> None:
    model = tiny_models.llama()
    head = Squashed(32, tiny_models.VOCAB, bias=False)
    head.weight.data.copy_(model.lm_head.weight.data)
    model.lm_head = head
    session = asked(model)
    assert session.answer.metric == pytest.approx(own(model, session), abs=1e-5)
    session.toggle("L1H1", mode="zero")
    run = session.model.run(PROMPT, session.interventions)
    ids = [tiny_models.tokenizer()(word)["input_ids"][0] for word in (TARGET, FOIL)]
    assert session.answer.metric == pytest.approx(float(run.logits[-1, ids[0]] - run.logits[-1, ids[1]]), abs=1e-5)
    session.close()


@pytest.mark.case("A28")
@pytest.mark.parametrize("edited", [False, True])
def test_a_forward_that_is_replaced_while_the_model_is_open_is_another_model(
    session: Session, model: Any, edited: bool
) -> None:
    if edited:
        session.set(STEER)
    before = session.answer.metric
    mlp = model.transformer.h[1].mlp
    forward = mlp.forward
    mlp.forward = lambda x: forward(x) * 3
    changed = session.answer.metric
    run = session.model.run(PROMPT, session.interventions).logits[-1]
    question = session.question
    assert question is not None
    assert changed == pytest.approx(float(question.first.metric.of(run[None].float())[0]), abs=1e-5)
    assert changed != before
    del mlp.forward
    assert session.answer.metric == before


@pytest.mark.case("A28")
def test_hooks_that_torch_calls_for_every_module_are_part_of_the_model(session: Session, model: Any) -> None:
    before = session.answer.metric
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _args, out: out * 1.5 if module is model.lm_head else None
    )
    try:
        assert session.answer.metric == pytest.approx(own(model, session), abs=1e-5)
        assert session.answer.metric == pytest.approx(1.5 * before, abs=1e-4)
    finally:
        handle.remove()
    assert session.answer.metric == before


# peft asks transformers by an older name
PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@PEFT
@pytest.mark.case("A26", "A28")
def test_switching_an_adapter_off_is_another_model() -> None:
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_models.llama(), config).eval()
    session = asked(model)
    session.set(STEER)
    on = session.answer
    with model.disable_adapter():
        off = session.answer
        assert off.plain_metric == pytest.approx(own(model, session), abs=1e-5)
        run = session.model.run(PROMPT, [STEER]).logits[-1]
        question = session.question
        assert question is not None
        assert off.metric == pytest.approx(float(question.first.metric.of(run[None].float())[0]), abs=1e-5)
    assert abs(on.metric - off.metric) > 1e-3
    assert session.answer.metric == on.metric
    session.close()


@PEFT
@pytest.mark.case("A26")
def test_an_adapter_on_the_unembedding_is_part_of_the_answer() -> None:
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_models.llama(), config).eval()
    session = asked(model)
    assert session.answer.metric == pytest.approx(own(model, session), abs=1e-5)
    session.set(STEER)
    run = session.model.run(PROMPT, [STEER]).logits[-1]
    question = session.question
    assert question is not None
    assert session.answer.metric == pytest.approx(float(question.first.metric.of(run[None].float())[0]), abs=1e-5)
    session.close()


@pytest.mark.case("A32")
def test_another_attention_implementation_chosen_while_the_model_is_open_never_looks_ahead(
    session: Session, model: Any
) -> None:
    assert session.answer.plain_metric
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        session.set(iw.Ablate("L1H1", "zero"))
        run = session.model.run(PROMPT, session.interventions).logits[-1]
        question = session.question
        assert question is not None
        assert session.answer.metric == pytest.approx(float(question.first.metric.of(run[None].float())[0]), abs=1e-5)
        assert session.answer.plain_metric == pytest.approx(own(model, session), abs=1e-5)


def test_a_metric_that_writes_into_what_it_gets_writes_into_a_copy(session: Session, model: Any) -> None:
    def metric(logits: torch.Tensor) -> float:
        logits -= logits.max()
        logits.exp_()
        return float(logits[4])

    session.ask(PROMPT, metric=metric)
    assert session.answer.metric >= 0
    session.ask(PROMPT, target=TARGET, foil=FOIL)
    assert session.answer.metric == pytest.approx(own(model, session), abs=1e-5)
    assert session.answer.kl == 0


@pytest.mark.case("A29")
def test_a_model_whose_block_was_replaced_is_open_again_once_it_is_opened_again(session: Session, model: Any) -> None:
    model.transformer.h[1] = copy.deepcopy(model.transformer.h[1])
    with pytest.raises(iw.InterpError, match="open the model again"):
        session.model.run(PROMPT, [STEER])
    again = asked(model)
    assert again.answer.metric == pytest.approx(own(model, again), abs=1e-5)
    again.close()


@pytest.mark.case("A29")
def test_a_block_more_is_another_model() -> None:
    model = tiny_models.gpt2()
    model.config.use_cache = False
    session = asked(model)
    session.set(STEER)
    assert session.answer.metric
    model.transformer.h.append(copy.deepcopy(model.transformer.h[0]))
    with pytest.raises(iw.InterpError, match="had 3 .* has 4 now"):
        session.answer  # noqa: B018  # pyright: ignore[reportUnusedExpression]
    session.close()


def test_opening_a_model_with_another_tokenizer_takes_that_tokenizer(session: Session, model: Any) -> None:
    words = tiny_models.tokenizer()
    same = iw.open(model, words)
    assert same.model is session.model, "a tokenizer that was loaded again is no other one"
    same.close()
    other = copy.deepcopy(words)
    other.add_special_tokens({"additional_special_tokens": ["w3"]})
    second = iw.open(model, other)
    assert second.model.tokens.encode("w3")[0].kind == "special"
    assert session.model.tokens.encode("w3")[0].kind == "text"
    second.close()


@pytest.mark.case("F08", "L01")
def test_a_close_that_an_interrupt_cuts_short_still_takes_our_hooks_off(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = asked(model)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_tell_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert our_hooks(model) == 0
    session.close()
    assert gate.active() is None


@pytest.mark.case("F06")
def test_two_models_are_not_edited_in_one_block_for_one_of_them_would_run_as_it_is(session: Session) -> None:
    other = asked(tiny_models.llama())
    other.set(STEER)
    with session.applied(), pytest.raises(iw.InterpError, match="a block of its own"), other.applied():
        pass
    with session.applied(), session.applied():
        pass  # of one model, the inner block takes the place of the outer
    other.close()
