"""The card's comparison notices what changed, and the figures behind it obey their identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp_widgets.builtin import card, circuits, figures, load, measure, prompts
from interp_widgets.builtin.families import FAMILIES


def test_a_figure_within_the_tolerance_is_the_same_and_beyond_it_is_not() -> None:
    assert card.differences("a 95.0 % b 0.31", "a 95.5 % b 0.32") == []
    assert card.differences("a 95.0 %", "a 90.0 %") == ["line 1: 'a 95.0 %' is now 'a 90.0 %'"]
    assert card.differences("score 0.31", "score 0.36") != []


def test_a_changed_word_a_changed_sign_and_a_missing_line_are_noticed() -> None:
    assert card.differences("L0H4 does it", "L0H4 did it") != []
    assert card.differences("lost 0.40", "lost -0.40") != []
    assert card.differences("one\ntwo", "one") == ["The card has 2 lines; recomputed it has 1."]


@pytest.fixture(scope="module")
def asked() -> tuple[object, circuits.Batch]:
    model, tok = load.load()
    return model, circuits.of_documents(tok, measure.examples(FAMILIES[0], "fillings", 6))


def test_heads_mlps_embeddings_and_biases_add_to_the_logit_difference(asked: tuple[object, circuits.Batch]) -> None:
    model, data = asked
    reading = circuits.read(model, data)
    effects = circuits.direct_effects(model, data, reading)
    transformer = model.transformer  # type: ignore[attr-defined]
    rows = torch.arange(len(data.ids))
    with torch.no_grad():
        start = transformer.wte(data.ids[rows, data.last]) + transformer.wpe(data.last)
        start = start + sum(block.attn.c_proj.bias for block in transformer.h)
        sigma = (reading.resid.var(-1, unbiased=False) + transformer.ln_f.eps).sqrt()[:, None]
        unembed = model.lm_head.weight[data.target] - model.lm_head.weight[data.foil]  # type: ignore[attr-defined]
        written = (start - start.mean(-1, keepdim=True)) / sigma * transformer.ln_f.weight + transformer.ln_f.bias
        expected = float((written * unembed).sum(-1).mean())
    assert effects.rest == pytest.approx(expected, abs=1e-4)
    assert effects.metric == pytest.approx(effects.heads.sum() + effects.mlps.sum() + effects.rest, abs=1e-4)


def test_self_repair_adds_up_to_the_total_effect(asked: tuple[object, circuits.Batch]) -> None:
    model, data = asked
    before = float(circuits.metric(data, circuits.read(model, data)).mean())
    after = float(circuits.metric(data, circuits.read(model, data, {(0, 4): None})).mean())
    repair = circuits.self_repair(model, data, (0, 4), None)
    assert repair.total == pytest.approx(after - before, abs=1e-4)
    assert repair.total == pytest.approx(-repair.direct + repair.heads.sum() + repair.mlps + repair.norm, abs=1e-4)
    assert repair.heads[0, 4] == 0.0


def test_reading_leaves_no_hook_and_no_change(asked: tuple[object, circuits.Batch]) -> None:
    model, data = asked
    plain = circuits.read(model, data).logits
    assert not torch.equal(circuits.read(model, data, {(0, 4): None}).logits, plain)
    assert torch.equal(circuits.read(model, data).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())  # type: ignore[attr-defined]


def test_induction_scores_see_an_induction_head_where_there_is_one() -> None:
    from interp_widgets.builtin.known import known

    module, _, _ = known("induction")
    vocabulary, positions = module.config.vocab_size, module.config.n_positions
    length = min(8, (positions - 1) // 2, vocabulary - 1)
    scores, previous, _ = measure.induction(module, vocabulary, length=length, count=4)
    assert np.unravel_index(scores.argmax(), scores.shape) == (1, 0)
    assert scores[1, 0] > 0.9
    assert previous[0, 0] > 0.8


def test_the_induction_head_copies_what_it_looks_at_and_the_previous_token_head_does_not() -> None:
    from interp_widgets.builtin.known import known

    module, _, _ = known("induction")
    ids = torch.tensor([[0, 5, 9, 7, 5, 9], [0, 3, 8, 6, 3, 8]])
    data = circuits.Batch(ids, torch.tensor([5, 5]), ids[:, 0], ids[:, 0])
    scores = circuits.copying(module, data, torch.tensor([3, 3]), top=1)
    assert scores[1, 0] == 1.0
    assert scores[0, 0] == 0.0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def _found(movers: list[str]) -> dict[str, object]:
    return {
        "metric": 4.0,
        "movers": movers,
        "moved": 3.0,
        "behind": [0.1, 0.7, 0.2],
        "table": [("L3H2", 2.0, 2.0, 2.0, 0.0, 0.0)],
    }


def test_the_card_calls_heads_name_movers_only_where_they_are_measured_to_be() -> None:
    assert card._movers(_found(["L2H1", "L3H0"])).endswith(
        "These are L2H1, L3H0; together they write 3.00, 75 % of it."
    )
    assert "This model has none: L3H2 looks" in card._movers(_found([]))
    assert "0.70, at the second token behind" in card._movers(_found([]))


@pytest.mark.parametrize("name", load.names())
def test_each_model_is_asked_its_own_questions_and_puts_every_target_over_its_foil(name: str) -> None:
    found = figures.questions(name)
    assert set(found) == {key for key, question in prompts.prompts().items() if question.model == name}
    assert min(difference for _, difference in found.values()) > 1
