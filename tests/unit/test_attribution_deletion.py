"""The deletion test: curves are real answers, a true ranking beats chance, and agreement is Spearman's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from interp_widgets.builtin.known import known
from interp_widgets.methods.agreement import agreement, ranks
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.deletion import area, delete, deletion_test, ranking, units_of
from interp_widgets.methods.deletion_steps import deletion_steps
from interp_widgets.methods.spans import span_scores
from interp_widgets.model.errors import InterpError, PromptError
from interp_widgets.model.interventions import Ablate
from interp_widgets.model.live import LiveModel, open_model
from tests.unit.attribution_models import FAMILIES, asked, model, tokenizer


@pytest.fixture(params=FAMILIES)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(model(request.param), tokenizer())
    yield opened
    opened.release()


def test_every_point_of_the_curves_is_the_answer_to_the_prompt_with_those_words_replaced(live: LiveModel) -> None:
    question = asked(live)
    test = deletion_test(live, question, attribute(live, question, method="gradient_x_input").scores)
    words = question.prompt.split()
    for k in range(len(words) + 1):
        top = test.order[:k]
        for curve, gone in ((test.deletion, top), (test.insertion, test.order[k:])):
            text = " ".join("<unk>" if i in gone else w for i, w in enumerate(words))
            metric = float(question.metric.of(live.answer(asked(live, text)).logits[None]))
            assert curve[k] == pytest.approx(metric, abs=1e-5)
    one = delete(live, question, test.order[:3])
    assert one.metric == pytest.approx(test.deletion[3], abs=1e-5)
    assert one.metric == pytest.approx(float(question.metric.of(one.logits[None])), abs=1e-6)


def test_curves_begin_and_end_where_they_must(live: LiveModel) -> None:
    test = deletion_test(live, asked(live), np.arange(8.0), (Ablate("L1H1", mode="zero"),), orders=3)
    everything = [test.deletion, *test.random_deletion]
    nothing = [test.insertion, *test.random_insertion]
    assert {c[0] for c in everything} == {c[-1] for c in nothing} == {test.deletion[0]}
    assert {c[-1] for c in everything} == {c[0] for c in nothing} == {test.insertion[0]}
    assert test.deletion[0] == pytest.approx(
        attribute(live, asked(live), (Ablate("L1H1", mode="zero"),), method="occlusion").metric
    )
    assert test.order == (7, 6, 5, 4, 3, 2, 1, 0)


def test_a_true_ranking_beats_chance_on_the_known_circuit() -> None:
    built, words, circuit = known("induction")
    live = open_model(built, words)
    question = asked(live, circuit.prompt, circuit.target, circuit.foil)
    test = deletion_test(live, question, attribute(live, question, method="occlusion").scores)
    assert 0 not in test.order  # <bos> is no word that could be replaced
    assert test.cost(1) == pytest.approx(42.4264, abs=1e-3)
    assert test.deletion_area < test.random_deletion_areas.mean()
    assert test.insertion_area > test.random_insertion_areas.mean()
    assert test.random_cost(3) < test.cost(3)
    assert "top 1 costs 42.43" in test.line(1)
    live.release()


def test_the_same_seed_gives_the_same_curves_and_memory_changes_none(live: LiveModel) -> None:
    a, b = (deletion_test(live, asked(live), np.arange(8.0), orders=4, memory=m) for m in (1, 1 << 30))
    np.testing.assert_allclose(a.random_deletion, b.random_deletion, atol=1e-5)
    other = deletion_test(live, asked(live), np.arange(8.0), orders=4, seed=1)
    assert np.abs(a.random_deletion - other.random_deletion).max() > 1e-4


def test_rankings_by_score_and_by_size_and_what_is_refused(live: LiveModel) -> None:
    question = asked(live)
    scores = [0.1, -5.0, 2.0, 0.0, 0.0, 1.0, -1.0, 3.0]
    assert ranking(question, scores)[:3] == (7, 2, 5)
    assert ranking(question, scores, by="size")[:3] == (1, 7, 2)
    with pytest.raises(PromptError, match="3 scores for 8 tokens"):
        ranking(question, [1, 2, 3])
    with pytest.raises(PromptError, match="Position 8 does not exist"):
        delete(live, question, [8])


def test_the_area_of_a_straight_line_is_its_mean() -> None:
    assert area([4.0, 3.0, 2.0, 1.0, 0.0]) == 2.0


def test_ranks_share_ties_and_agreement_is_the_correlation_of_ranks() -> None:
    assert ranks([5.0, 1.0, 5.0, 2.0]).tolist() == [2.5, 0.0, 2.5, 1.0]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=9)
    table = agreement({"x": x, "y": y, "cubed": x**3, "minus": -x}).correlations
    d = ranks(x) - ranks(y)
    assert table[0, 1] == pytest.approx(1 - 6 * (d**2).sum() / (9 * 80))  # the textbook formula without ties
    assert table[0, 2] == pytest.approx(1.0)
    assert table[0, 3] == pytest.approx(-1.0)
    assert np.isnan(agreement({"x": x, "flat": np.zeros(9)}).correlations[0, 1])


def test_agreement_needs_two_methods_of_one_prompt(live: LiveModel) -> None:
    one = attribute(live, asked(live), method="gradient_x_input")
    other = attribute(live, asked(live, "w9 w8 w7 w6 w5 w4 w3 w2"), method="occlusion")
    with pytest.raises(InterpError, match="at least two"):
        agreement([one])
    with pytest.raises(InterpError, match="different prompts"):
        agreement([one, other])
    same = [attribute(live, asked(live), method=m) for m in ("gradient_x_input", "occlusion", "lrp")]
    table = agreement(same)
    assert table.methods == ("gradient_x_input", "occlusion", "lrp")
    assert all(table.correlations[i, i] == pytest.approx(1.0) for i, _ in pairwise(range(4)))


@pytest.mark.parametrize("spans", ["word", "sentence", "line", [(0, 2), (4, 7)], "/w1\\d/"])
def test_of_spans_all_tokens_go_at_once_and_the_best_sum_goes_first(spans: Any, live: LiveModel) -> None:
    question = asked(live)
    scores = attribute(live, question, method="occlusion").scores
    test = deletion_test(live, question, scores, spans=spans, orders=3)
    parts = span_scores(live, question, scores, spans)
    assert sorted(test.units) == sorted(part.positions for part in parts)
    sums = [float(scores[list(unit)].sum()) for unit in test.units]
    assert sums == sorted(sums, reverse=True)
    for k in range(len(test.units) + 1):
        gone = [position for unit in test.units[:k] for position in unit]
        if gone:
            assert test.deletion[k] == pytest.approx(delete(live, question, gone).metric, abs=1e-5)
    assert test.random_deletion.shape == (3, len(test.units) + 1)
    steps = deletion_steps(live, question, scores, spans=spans)
    assert steps.units == test.units
    np.testing.assert_allclose(steps.deletion, test.deletion, atol=1e-5)
    assert steps.tokens_gone[-1] == len(test.order) == len(question.tokens)


def test_tokens_that_cannot_be_replaced_are_left_out_of_their_span_and_words_are_named(live: LiveModel) -> None:
    question = asked(live, position=4)
    scores = np.arange(8.0)
    assert units_of(live, question, scores, [(0, 3), (3, 8)]) == ((3, 4), (0, 1, 2))
    assert units_of(live, question, -scores, [(0, 3), (3, 8)], by="size") == ((3, 4), (0, 1, 2))
    line = deletion_test(live, question, scores, spans="word", orders=2).line(2)
    assert "deleting its top 2 words costs" in line
    with pytest.raises(PromptError, match="outside the prompt"):
        deletion_test(live, question, scores, spans=[(0, 99)])
