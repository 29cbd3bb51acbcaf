"""Dose and response, where text breaks, and a vector over the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.methods.coherence import Coherence, coherence, plain_text, with_coherence
from interp_widgets.methods.continuations import joined_text, plain_scores, repeated, written
from interp_widgets.methods.dose_response import STRENGTHS, DoseResponse, dose_response
from interp_widgets.methods.steering import SteeringVector, across, plain_vector
from interp_widgets.methods.strength_map import StrengthMap, strength_map
from interp_widgets.model.errors import CancelledError, InterventionError, SiteError
from interp_widgets.model.generate import generate
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.reference import Reference
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = [5, 9, 12, 7, 30, 9, 12, 4]
MODELS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "llama": llama}
V = torch.randn(32, generator=torch.Generator().manual_seed(3)).numpy()


@pytest.fixture(scope="module", params=list(MODELS))
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(MODELS[request.param](), tokenizer(), reference=Reference.of(["w3 w4 w5", "w8 w9 w10 w11"]))
    yield opened
    opened.release()


@pytest.fixture(scope="module")
def asked(live: LiveModel) -> Asked:
    found, a, b = live.tokens.encode(PROMPT), live.tokens.token(17), live.tokens.token(23)
    return Asked("", found, Metric((17,), (23,)), (a,), (b,), len(found) - 1)


@pytest.fixture(scope="module")
def vector(live: LiveModel) -> SteeringVector:
    return plain_vector(live, V, "L1", "push", "by hand")


def metric(live: LiveModel, asked: Asked, *steers: Any) -> float:
    return float(asked.metric.of(live.answer(asked, steers).logits[None])[0])


def test_the_curve_is_the_answer_at_every_strength(live: LiveModel, asked: Asked, vector: SteeringVector) -> None:
    curve = dose_response(live, asked, vector)
    assert len(STRENGTHS) == 21
    assert {0.0, 1.0, -1.0} <= set(STRENGTHS)
    assert np.allclose(curve.strengths, STRENGTHS)
    assert curve.at(0.0) == metric(live, asked) == curve.baseline
    assert curve.kl[10] == 0.0
    plain = live.answer(asked).logits.log_softmax(-1)
    for n in (0, 3, 13, 20):
        steered = live.answer(asked, [Steer("L1", V, STRENGTHS[n])]).logits.log_softmax(-1)
        assert curve.metric[n] == pytest.approx(metric(live, asked, Steer("L1", V, STRENGTHS[n])), abs=1e-4)
        assert curve.kl[n] == pytest.approx(float((plain.exp() * (plain - steered)).sum()), abs=1e-4)
        assert curve.top[n, 0] == int(steered.argmax())
    with pytest.raises(InterventionError, match="Strength 0.1 was not run"):
        curve.at(0.1)


def test_the_curve_of_a_range_of_layers_moves_all_of_them_and_keeps_what_else_is_on(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    on, other = Ablate("L0H1", "zero"), Steer("L2.attn", V[::-1].copy(), 0.3)
    pushes = across(live, Steer("L0", vector), range(3))
    state = [pushes[0].at(0.7), on, *(push.at(0.7) for push in pushes[1:]), other]
    curve = dose_response(live, asked, pushes, [-1.0, 0.0, 0.6], state, randoms=3, seed=5)
    without = live.answer(asked, [on, other]).logits.log_softmax(-1)
    for n, strength in enumerate((-1.0, 0.0, 0.6)):
        there = [push.at(strength) for push in pushes]
        steered = live.answer(asked, [there[0], on, *there[1:], other]).logits
        assert curve.metric[n] == pytest.approx(float(asked.metric.of(steered[None])[0]), abs=1e-4)
        assert curve.kl[n] == pytest.approx(
            float((without.exp() * (without - steered.log_softmax(-1))).sum()), abs=1e-4
        )
        assert curve.top[n, 0] == int(steered.argmax())
    assert curve.metric[1] == curve.baseline == metric(live, asked, on, other)
    assert curve.kl[1] == 0.0
    one = dose_response(live, asked, pushes[0], [0.6], [on, other], randoms=0)
    assert abs(curve.metric[2] - one.metric[0]) > 1e-3, "one layer would do the same: the test shows nothing"
    assert curve.random_metric.shape == (3, 3)
    assert np.allclose(curve.random_metric[:, 1], curve.baseline)
    assert len({round(float(value), 4) for value in curve.random_metric[:, 2]}) == 3
    texts = coherence(live, asked, pushes, [0.6], state, tokens=5, samples=20)
    seed = plain_text(live, asked, 5, 20, 0).seed
    (right,) = written(live, asked, [[pushes[0].at(0.6), on, *(p.at(0.6) for p in pushes[1:]), other]], 5, [seed])
    assert texts.texts == (joined_text(live, right),)
    with pytest.raises(InterventionError, match="have a site each"):
        dose_response(live, asked, pushes, site="L1")


def test_random_vectors_of_equal_norm_stand_beside_it(live: LiveModel, asked: Asked, vector: SteeringVector) -> None:
    curve = dose_response(live, asked, vector, [-1.0, 0.0, 2.0], randoms=8, seed=4)
    assert curve.random_metric.shape == curve.random_kl.shape == (8, 3)
    assert len(np.unique(curve.random_metric[:, 0])) == 8
    assert np.array_equal(curve.random_low, curve.random_metric.min(0))
    assert np.array_equal(curve.random_high, curve.random_metric.max(0))
    assert curve.random_low[1] == curve.random_high[1] == curve.baseline
    assert np.array_equal(
        curve.random_metric, dose_response(live, asked, vector, [-1.0, 0.0, 2.0], seed=4).random_metric
    )
    assert np.isnan(dose_response(live, asked, vector, [1.0], randoms=0).random_low).all()
    # their norm is the vector's where the model can see it: none of it lies along ones under norms that subtract the mean
    drawn = torch.randn(8, 32, generator=torch.Generator().manual_seed(4))
    drawn = drawn - drawn.mean(-1, keepdim=True) if vector.centred else drawn
    own = drawn[5] / drawn[5].norm() * vector.norm
    assert curve.random_metric[5, 2] == pytest.approx(metric(live, asked, Steer("L1", own, 2.0)), abs=1e-4)
    # a vector that is longer only where the model cannot see it has no longer controls
    if live.anatomy.final_norm is not None and vector.centred:
        shifted = dose_response(live, asked, Steer("L1", V + 100.0), [2.0], seed=4)
        assert np.allclose(shifted.random_metric, curve.random_metric[:, 2:], atol=1e-3)


@pytest.mark.parametrize("mode", ["project_out", "clamp", "keep_norm"])
@pytest.mark.parametrize("positions", ["all", "prompt[-1]", [2, 3]])
def test_modes_positions_and_other_interventions_are_those_of_the_answer(
    live: LiveModel, asked: Asked, mode: Any, positions: Any
) -> None:
    steer = Steer("L1", V, 5.0, mode, positions=positions, origin=0.7)
    others = [Ablate("L0H1"), Steer("L2", V, 0.3)]
    curve = dose_response(live, asked, steer, [-1.0, 0.0, 1.0], others, randoms=2)
    for n, c in enumerate((-1.0, 0.0, 1.0)):
        assert curve.metric[n] == pytest.approx(metric(live, asked, *others, steer.at(c)), abs=1e-4)


def test_a_push_that_is_on_already_is_what_the_curve_is_about(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    on = [Steer("L1", vector, 0.6), Ablate("L2H0")]
    curve = dose_response(live, asked, vector, [0.0, 0.6], on, randoms=0)
    assert curve.metric[1] == pytest.approx(metric(live, asked, *on), abs=1e-4)
    assert curve.baseline == curve.metric[0] == pytest.approx(metric(live, asked, on[1]), abs=1e-4)


def test_a_vector_that_cannot_reach_the_answer_says_why(live: LiveModel, asked: Asked, vector: SteeringVector) -> None:
    curve = dose_response(live, asked, vector, [-1.0, 1.0], site="L2", positions=[2], randoms=0)
    assert curve.metric[0] == pytest.approx(curve.baseline, abs=1e-5)
    assert "only position 7, where the answer is read, matters" in curve.reason
    assert dose_response(live, asked, vector, [1.0], randoms=0).reason == ""


def test_a_vector_on_generated_positions_plots_a_quantity_of_the_text(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    curve = dose_response(live, asked, vector, [-2.0, 0.0, 2.0], positions="generated", randoms=2)
    assert curve.label == "logit difference, mean over 16 generated tokens"
    for n, c in enumerate((-2.0, 0.0, 2.0)):
        steer = Steer("L1", V, c, positions="generated")
        text = [t.id for t in generate(live, PROMPT, [steer], 16, ignore_eos=True)]
        means: list[float] = []
        for k in range(16):
            logits = live.answer(
                _at(live, asked, text[:k]), [Steer("L1", V, c, positions=list(range(8, 8 + k)))] if k else []
            ).logits
            means.append(float(asked.metric.of(logits[None])[0]))
        assert curve.metric[n] == pytest.approx(np.mean(means), abs=1e-3)
    assert curve.kl[1] == pytest.approx(0.0, abs=1e-6)
    assert curve.baseline == curve.metric[1]
    assert curve.random_metric.shape == (2, 3)
    assert curve.reason == ""


def _at(live: LiveModel, asked: Asked, more: list[int]) -> Asked:
    found = live.tokens.encode([*PROMPT, *more])
    return Asked("", found, asked.metric, asked.target, asked.foil, len(found) - 1)


def test_strengths_that_make_no_sense_are_refused(live: LiveModel, asked: Asked, vector: SteeringVector) -> None:
    wrongs: list[Any] = [[float("nan")], [1e38], [True], ["1"], [np.inf]]
    for wrong in wrongs:
        with pytest.raises(InterventionError, match="finite number"):
            dose_response(live, asked, vector, wrong)
    with pytest.raises(InterventionError, match="no strength to try"):
        dose_response(live, asked, vector, [])
    with pytest.raises(InterventionError, match="randoms is a whole number"):
        dose_response(live, asked, vector, [1.0], randoms=-1)
    with pytest.raises(InterventionError, match="needs a SteeringVector or a Steer, not list"):
        dose_response(live, asked, [1.0])  # pyright: ignore[reportArgumentType]
    assert dose_response(live, asked, vector, np.linspace(-1, 1, 3), randoms=0).strengths.tolist() == [-1, 0, 1]  # pyright: ignore[reportArgumentType]


def test_a_cancelled_curve_says_so_and_the_next_one_is_whole(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    right = dose_response(live, asked, vector).metric
    with pytest.raises(CancelledError):
        dose_response(live, asked, Steer("L1", V, 2.0, "keep_norm"), cancelled=lambda: True)
    assert np.array_equal(dose_response(live, asked, vector).metric, right)


# ---- text -------------------------------------------------------------------------------------------------------------


def test_the_share_of_repeated_n_grams() -> None:
    assert repeated([1, 2, 3, 4, 5, 6]) == 0.0
    assert repeated([7] * 16) == pytest.approx(12 / 13)
    assert repeated([1, 2, 3, 4] * 4) == pytest.approx(9 / 13)
    assert repeated([1, 2, 3]) == 0.0


def test_scores_are_the_plain_models_log_probabilities(live: LiveModel, asked: Asked) -> None:
    rows = written(live, asked, [[], [Steer("L1", V, 3.0)]], 10, [1, 2])
    scores = plain_scores(live, asked, [[t.id for t in row.tokens] for row in rows])
    assert np.allclose(scores[0], np.log([t.probability for t in rows[0].tokens]), atol=1e-4)
    assert scores[1].mean() < np.log([t.probability for t in rows[1].tokens]).mean()
    assert joined_text(live, rows[0]).split() == [t.text for t in rows[0].tokens]


def test_text_breaks_at_large_strengths_and_not_at_small_ones(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    strengths = [-60.0, -0.001, 0.0, 0.001, 60.0]
    found = coherence(live, asked, vector, strengths)
    assert not found.breaks[1:4].any()
    assert found.breaks[[0, 4]].any()
    low, high = found.loss_range
    assert low < found.loss[2] < high
    # strength 0 is the plain sample of median loss
    assert found.texts[1] == found.texts[2] == found.texts[3]
    assert f"{low:.2f} to {high:.2f} nats" in found.criterion
    assert "95 % of 40 plain samples" in found.criterion
    again = coherence(live, asked, vector, strengths)
    assert np.array_equal(found.loss, again.loss)
    curve = with_coherence(dose_response(live, asked, vector, strengths, randoms=0), found)
    assert np.array_equal(curve.breaks, found.breaks)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InterventionError, match="different strengths"):
        with_coherence(dose_response(live, asked, vector, [1.0], randoms=0), found)


def test_either_measure_outside_its_range_breaks_a_text() -> None:
    loss, repeats = np.array([2.0, 0.5, 9.0, 2.0], np.float32), np.array([0.0, 0.0, 0.0, 0.4], np.float32)
    found = Coherence(np.arange(4, dtype=np.float32), loss, repeats, (1.0, 3.0), (0.0, 0.2), ("",) * 4, 40, 16)
    assert found.breaks.tolist() == [False, True, True, True]


def test_coherence_can_be_cancelled_and_needs_enough_samples(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > 20

    with pytest.raises(CancelledError):
        coherence(live, asked, vector, cancelled=cancelled)
    with pytest.raises(InterventionError, match="at least 20 samples, not 3"):
        coherence(live, asked, vector, samples=3)


# ---- layers -----------------------------------------------------------------------------------------------------------


def test_the_map_is_the_curve_at_every_layer_the_last_ones_first(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    seen: list[tuple[StrengthMap, float]] = []
    found = strength_map(live, asked, vector, [-1.0, 0.0, 1.0], progress=lambda m, share: seen.append((m, share)))
    assert found.metric.shape == (3, 3)
    for layer in range(3):
        assert found.metric[layer, 2] == pytest.approx(metric(live, asked, Steer(f"L{layer}", V, 1.0)), abs=1e-4)
    assert (found.metric[:, 1] == found.baseline).all()
    assert [share for _, share in seen] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert np.isnan(seen[0][0].metric[:2]).all()
    assert not np.isnan(seen[0][0].metric[2]).any()
    assert strength_map(live, asked, vector, [1.0], layers=[1]).metric.shape == (1, 1)
    with pytest.raises(SiteError):
        strength_map(live, asked, vector, [1.0], layers=[9])
    with pytest.raises(InterventionError, match="no layer"):
        strength_map(live, asked, vector, [1.0], layers=[])


def test_coherence_tries_a_push_that_is_on_in_its_place(live: LiveModel, asked: Asked, vector: SteeringVector) -> None:
    alone = coherence(live, asked, vector, [0.0, 2.0])
    on = coherence(live, asked, vector, [0.0, 2.0], [Steer("L1", vector, 0.6)])
    assert np.array_equal(alone.loss, on.loss)


def test_the_map_of_a_push_that_is_on_is_the_map_without_it(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    on = Steer("L1", vector, -1.5)
    found = strength_map(live, asked, on.at(1.0), [-1.0, 0.0, 1.0], interventions=[on])
    right = strength_map(live, asked, on.at(1.0), [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(found.metric, right.metric, atol=1e-5)
    assert found.baseline == pytest.approx(right.baseline, abs=1e-6)


def test_a_map_of_a_push_on_generated_text_alone_is_of_that_text(
    live: LiveModel, asked: Asked, vector: SteeringVector
) -> None:
    steer = Steer("L1", vector, positions="generated")
    found = strength_map(live, asked, steer, [0.0, 2.0], layers=[1])
    assert found.metric[0].tolist() == dose_response(live, asked, steer, [0.0, 2.0], randoms=0).metric.tolist()


def test_the_vectors_own_curve_comes_first_and_the_random_ones_ask_when_they_take_long(
    live: LiveModel, asked: Asked, vector: SteeringVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[DoseResponse] = []
    whole = dose_response(live, asked, vector, progress=first.append)
    assert len(first[0].random_metric) == 0
    np.testing.assert_allclose(first[0].metric, whole.metric, atol=1e-5)
    assert whole.random_metric.shape == (8, 21)
    monkeypatch.setattr("interp_widgets.methods.dose_response.ASK", -1.0)
    asks: list[float] = []
    declined = dose_response(live, asked, vector, proceed=lambda seconds: bool(asks.append(seconds)))
    assert len(asks) == 1
    assert asks[0] > 0
    assert len(declined.random_metric) == 0
    assert np.isnan(declined.random_low).all()
