"""A whole answer's attribution: each row is the attribution of that token alone, and rows add up to the answer's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.methods.answers import answer_tokens, attribute_answer, attribute_contrast
from interp_widgets.methods.attribution import METHODS, attribute
from interp_widgets.model.errors import PromptError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from tests.unit.attribution_models import FAMILIES, asked, model, tokenizer
from tests.unit.test_attribution import same, snapshot

ANSWER = "w20 w21 w22"


@pytest.fixture(params=FAMILIES)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(model(request.param), tokenizer())
    yield opened
    opened.release()


def log_probability_of(live: LiveModel, question: Asked, token: int) -> Asked:
    def own(logits: torch.Tensor) -> Any:
        return logits.log_softmax(-1)[token]

    metric = Metric((token,), (), own)
    return Asked(question.prompt, question.tokens, metric, question.target, (), len(question.tokens) - 1)


@pytest.mark.parametrize("method", METHODS)
def test_each_row_is_the_attribution_of_that_output_alone(live: LiveModel, method: str) -> None:
    question = asked(live)
    table = attribute_answer(live, question, ANSWER, method=method)
    words = question.prompt.split() + ANSWER.split()
    for o, output in enumerate(table.outputs):
        alone = log_probability_of(live, asked(live, " ".join(words[: len(question.tokens) + o])), output.id)
        expected = attribute(live, alone, method=method)
        n = len(alone.tokens)
        np.testing.assert_allclose(table.scores[o, :n], expected.scores, atol=2e-5)
        assert (table.scores[o, n:] == 0).all()
        assert table.metrics[o] == pytest.approx(expected.metric, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "train"])
@pytest.mark.case("A17", "A18")
def test_in_whatever_mode_a_user_asks_the_table_is_the_same_and_the_model_is_left_as_it_was(
    method: str, around: str
) -> None:
    built = model("llama")  # without dropout, so that training mode is no reason to refuse
    live = open_model(built, tokenizer())
    expected = attribute_answer(live, asked(live), ANSWER, method=method, steps=4)
    built.train(around == "train")
    entered = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(around, torch.enable_grad)
    with entered():
        before = snapshot(built)
        table = attribute_answer(live, asked(live), ANSWER, method=method, steps=4)
        assert same(before, snapshot(built))
    np.testing.assert_array_equal(table.scores, expected.scores)
    live.release()


def test_rows_are_complete_and_the_answers_log_probability_is_their_sum(live: LiveModel) -> None:
    table = attribute_answer(live, asked(live), ANSWER, method="integrated_gradients")
    assert np.abs(table.errors).max() < 1e-4
    with torch.no_grad():
        ids = torch.tensor([[t.id for t in (*table.inputs, table.outputs[-1])]])
        logits = live.module(ids).logits[0].log_softmax(-1)
    expected = sum(float(logits[7 + k, ids[0, 8 + k]]) for k in range(3))
    assert table.log_probability == pytest.approx(expected, abs=1e-5)


def test_the_contrast_of_two_single_tokens_is_the_attribution_of_their_logit_difference(live: LiveModel) -> None:
    scores, difference = attribute_contrast(live, asked(live), "w7", "w8", method="integrated_gradients")
    expected = attribute(live, asked(live))
    np.testing.assert_allclose(scores, expected.scores, atol=2e-5)
    assert difference == pytest.approx(expected.metric, abs=1e-5)


def test_the_direct_contrast_of_two_single_tokens_is_the_direct_attribution_of_their_difference(
    live: LiveModel,
) -> None:
    """What two log-probabilities have in common, their normaliser, cancels."""
    scores, difference = attribute_contrast(live, asked(live), "w7", "w8", method="direct")
    expected = attribute(live, asked(live), method="direct")
    np.testing.assert_allclose(scores, expected.scores, atol=2e-5)
    assert difference == pytest.approx(expected.metric, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_contrast_of_sequences_changes_sign_with_its_sides(live: LiveModel, method: str) -> None:
    one, a = attribute_contrast(live, asked(live), "w20 w21", "w30", method=method)
    other, b = attribute_contrast(live, asked(live), "w30", "w20 w21", method=method)
    np.testing.assert_array_equal(one, -other)
    assert (a, len(one)) == (-b, 8)


def test_edits_of_generated_positions_act_on_the_answer_only(live: LiveModel) -> None:
    steer = Steer("L0", torch.randn(48).tolist(), 5.0, positions="generated")
    plain = attribute_answer(live, asked(live), ANSWER)
    edited = attribute_answer(live, asked(live), ANSWER, (steer,))
    assert edited.explains == "edited run"
    assert edited.metrics[0] == pytest.approx(plain.metrics[0], abs=1e-5)
    assert np.abs(edited.metrics[1:] - plain.metrics[1:]).min() > 1e-3
    np.testing.assert_allclose(edited.scores[0], plain.scores[0], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_memory_changes_no_number(live: LiveModel, method: str) -> None:
    small = attribute_answer(
        live, asked(live), ANSWER, (Ablate("L0H0", mode="zero"),), method=method, steps=4, memory=1
    )
    large = attribute_answer(live, asked(live), ANSWER, (Ablate("L0H0", mode="zero"),), method=method, steps=4)
    np.testing.assert_allclose(small.scores, large.scores, atol=1e-5)


def test_a_baseline_for_the_prompt_leaves_the_answers_own_tokens_alone(live: LiveModel) -> None:
    other = " ".join(f"w{i}" for i in range(40, 48))
    table = attribute_answer(live, asked(live), ANSWER, method="integrated_gradients", baseline=other)
    assert (table.scores[:, 8:] == 0).all()
    assert np.abs(table.errors).max() < 1e-4


def test_answers_that_cannot_be_asked_are_refused_in_a_sentence(live: LiveModel) -> None:
    with pytest.raises(PromptError, match="answer is empty"):
        attribute_answer(live, asked(live), "")
    with pytest.raises(PromptError, match="both 'w7'"):
        attribute_contrast(live, asked(live), "w7", "w7")
    if live.tokens.context == 64:
        with pytest.raises(PromptError, match="shorten it by 3"):
            answer_tokens(live, asked(live), [3] * 60)
        assert len(answer_tokens(live, asked(live), [3] * 57)) == 57
