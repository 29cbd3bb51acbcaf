"""Attribution: completeness, causality, antisymmetry, and a model that is left as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import known
from interp_widgets.methods.attribution import METHODS, attribute
from interp_widgets.methods.baselines import find_baseline, neutral
from interp_widgets.methods.explained import explained, numbers
from interp_widgets.methods.gradients import integrated_gradients
from interp_widgets.methods.occlusion import occlusion, occlusion_packed
from interp_widgets.methods.row_memory import graph_bytes, row_bytes
from interp_widgets.methods.words import remainder, said, signed
from interp_widgets.model.errors import CancelledError, FeatureOffError, InterpError, PromptError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from tests import architectures, matrix
from tests.unit.attribution_models import FAMILIES, PROMPT, asked, model, tokenizer


@pytest.fixture(params=FAMILIES)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(model(request.param), tokenizer())
    yield opened
    opened.release()


@pytest.fixture
def gpt2() -> Iterator[LiveModel]:
    opened = open_model(model("gpt2"), tokenizer())
    yield opened
    opened.release()


@pytest.fixture
def induction() -> Iterator[tuple[LiveModel, Asked]]:
    built, words, circuit = known("induction")
    opened = open_model(built, words)
    yield opened, asked(opened, circuit.prompt, circuit.target, circuit.foil)
    opened.release()


def test_integrated_gradients_sum_to_the_metric_minus_the_baselines_within_the_shown_remainder(live: LiveModel) -> None:
    a = attribute(live, asked(live))
    assert abs(a.error) < 1e-4
    assert abs(a.total) > 0.01
    assert a.scores.sum() - a.total == pytest.approx(a.error, abs=1e-9)
    assert a.metric == pytest.approx(float(asked(live).metric.of(live.answer(asked(live)).logits[None])), abs=1e-5)


@pytest.mark.parametrize("steps", [2, 7, 32])
@pytest.mark.parametrize("loud", [1.0, 4.0])
def test_the_remainder_in_the_line_covers_what_single_runs_of_prompt_and_baseline_say(steps: int, loud: float) -> None:
    """Few nodes and large weights: what is shown is rounded up, and the rounding of the runs themselves counts in."""
    for family in FAMILIES:
        built = model(family)
        with torch.no_grad():
            for weight in built.parameters():
                weight.mul_(loud if weight.dim() > 1 else 1.0)
        live = open_model(built, tokenizer())
        for baseline in ("mean", "bos", "zero"):
            question = asked(live, f"{PROMPT} w{20 + steps} w{30 + steps}")
            a = attribute(live, question, steps=steps, baseline=baseline)
            taken = find_baseline(live, question, "mean" if a.baseline == "mean embedding" else baseline)
            start = float(numbers(explained(live, question), lambda own, b=taken: b.rows(own)[None], 1)[0])
            alone = float(question.metric.of(live.answer(question).logits[None])) - start
            assert abs(a.sum - alone) <= shown_in(a.line), (family, baseline, a.line)
        live.release()


def shown_in(line: str) -> float:
    found = re.search(r"± (\S+) \(arithmetic check\)", line)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("size", [0.0213, 2.4e-4, 9.6e-4, 1e-3, 0.00996, 0.0101, 9.96, 571.0, 1e-12, 3e5])
def test_a_remainder_in_a_sentence_is_never_smaller_than_it_is(size: float) -> None:
    for value in (size, -size, size * (1 + 1e-12)):
        assert abs(value) <= float(remainder(value)) <= 2 * abs(value)
    assert (remainder(0.0), remainder(2.2e-4), remainder(-0.0213)) == ("0", "3e-4", "0.022")


def test_a_sign_in_a_sentence_is_a_minus_that_is_one() -> None:
    assert (signed(-0.31), signed(0.31), signed(-0.266, ".2g"), signed(0.0)) == ("−0.31", "+0.31", "−0.27", "+0.00")


def test_the_edited_model_is_what_is_explained(live: LiveModel) -> None:
    edits = (Ablate("L1H1", mode="zero"), Steer("L0", torch.randn(48).tolist(), 2.0))
    question = asked(live)
    for method in METHODS:
        a = attribute(live, question, edits, method=method)
        assert a.explains == "edited run"
        assert a.metric == pytest.approx(float(question.metric.of(live.answer(question, edits).logits[None])), abs=1e-5)
        if a.complete:
            assert abs(a.error) < 1e-4
    assert attribute(live, question, (Steer("L0", [1.0] * 48, 0.0),), method="gradient_x_input").explains == "plain run"


@pytest.mark.parametrize("method", METHODS)
def test_swapping_target_and_foil_turns_every_sign(live: LiveModel, method: str) -> None:
    one = attribute(live, asked(live), method=method).scores
    other = attribute(live, asked(live, target="w8", foil="w7"), method=method).scores
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(one, -other, atol=1e-5)


def test_a_token_after_the_read_position_scores_exactly_nothing(live: LiveModel) -> None:
    for method in METHODS:
        scores = attribute(live, asked(live, position=4), method=method).scores
        assert (scores[5:] == 0).all(), method
        assert (scores[:5] != 0).all(), method


def test_occlusion_is_the_metric_minus_the_metric_of_the_prompt_with_that_token_replaced(live: LiveModel) -> None:
    question = asked(live)
    a = attribute(live, question, method="occlusion", baseline="unk")
    words = question.prompt.split()
    for i in range(len(words)):
        changed = asked(live, " ".join([*words[:i], "<unk>", *words[i + 1 :]]))
        metric = float(question.metric.of(live.answer(changed).logits[None]))
        assert a.scores[i] == pytest.approx(a.metric - metric, abs=1e-5)


def test_what_the_sum_is_held_to_is_named_for_what_it_is(gpt2: LiveModel) -> None:
    """The answer, or where tokens are compared with a baseline, what it loses when all of them are replaced."""
    for method in METHODS:
        a = attribute(gpt2, asked(gpt2), method=method)
        assert (f"where the answer is {said(a.metric)} (no" in a.line) == (a.baseline == "none")
        cost = said(a.metric - a.baseline_metric)
        assert (f"where all of them together cost {cost} (no" in a.line) == (method == "occlusion")


def test_gradient_x_input_is_the_slope_along_the_embeddings(live: LiveModel) -> None:
    """The derivative of m((1 + s) e) at s = 0, token by token, by central differences in double precision."""
    live.module.double()
    live.refresh()
    what = explained(live, asked(live))
    scores = attribute(live, asked(live), method="gradient_x_input").scores
    n = len(what.tokens)
    h = 1e-2  # the read-out is in single precision: a smaller step would drown in its rounding
    bumps = torch.cat([torch.eye(n), -torch.eye(n)]).double() * h
    values = numbers(what, lambda own: own[None] * (1 + bumps[:, :, None]), 2 * n)
    np.testing.assert_allclose(scores, ((values[:n] - values[n:]) / (2 * h)).numpy(), rtol=1e-3, atol=3e-4)


def snapshot(module: torch.nn.Module) -> list[Any]:
    return [
        [(n, p.requires_grad, p.grad, p._version, p.detach().clone()) for n, p in module.named_parameters()],
        [m.training for m in module.modules()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", ["nothing", "no_grad", "inference_mode", "autocast", "train", "frozen"])
@pytest.mark.case("A17", "A18")
def test_the_model_and_the_modes_are_bit_identical_afterwards_and_change_no_number(method: str, around: str) -> None:
    built = model("llama")  # without dropout, so that training mode is no reason to refuse
    live = open_model(built, tokenizer())
    expected = attribute(live, asked(live), method=method).scores
    next(iter(built.parameters())).grad = torch.ones_like(next(iter(built.parameters())))
    if around == "train":
        built.train()
    if around == "frozen":
        built.requires_grad_(False)
    context: Any = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
    }.get(around, torch.enable_grad())
    with context:
        before = snapshot(built)
        scores = attribute(live, asked(live), method=method).scores
        assert same(before, snapshot(built))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    live.release()


@pytest.mark.parametrize("around", ["no_grad", "train"])
@pytest.mark.case("A17", "A18")
def test_every_family_is_left_bit_identical_in_training_mode_and_under_no_grad(live: LiveModel, around: str) -> None:
    built = live.module
    for part in built.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    expected = {method: attribute(live, asked(live), method=method, steps=8).scores for method in METHODS}
    built.train(around == "train")
    with torch.no_grad() if around == "no_grad" else torch.enable_grad():
        before = snapshot(built)
        found = {method: attribute(live, asked(live), method=method, steps=8).scores for method in METHODS}
        assert same(before, snapshot(built))
    for method, scores in found.items():
        np.testing.assert_allclose(scores, expected[method], atol=1e-6, err_msg=method)


def test_rows_packed_from_their_own_token_on_give_the_numbers_of_whole_rows(live: LiveModel) -> None:
    question = asked(live)
    what, baseline = explained(live, question), find_baseline(live, question, neutral(live))
    whole = occlusion(what, baseline)
    packed = occlusion_packed(what, question, baseline)
    chunked = occlusion_packed(what, question, baseline, memory=1)
    assert packed is not None
    assert chunked is not None
    for path in (packed, chunked):
        np.testing.assert_allclose(path.scores, whole.scores, atol=1e-5)
        assert path.metric == pytest.approx(whole.metric, abs=1e-5)
        assert path.baseline_metric == pytest.approx(whole.baseline_metric, abs=1e-5)
    edited = explained(live, question, [Ablate("L0H1", "zero")])
    assert occlusion_packed(edited, question, baseline) is None


def test_a_zero_baseline_that_does_not_converge_is_named_and_another_is_taken() -> None:
    live = open_model(model("llama"), tokenizer())
    a = attribute(live, asked(live), baseline="zero")
    assert a.baseline == "mean embedding"
    assert "zero baseline does not converge" in a.note
    assert abs(a.error) < 1e-3
    live.release()


def test_a_zero_baseline_that_converges_is_kept(gpt2: LiveModel) -> None:
    a = attribute(gpt2, asked(gpt2), baseline="zero")
    assert (a.baseline, a.note) == ("zero", "")
    assert abs(a.error) < 1e-4


def test_the_lesson_occlusion_finds_the_three_causal_tokens_and_gradients_do_not(
    induction: tuple[LiveModel, Asked],
) -> None:
    live, question = induction
    occluded = attribute(live, question, method="occlusion")
    expected = np.zeros(10)
    expected[[2, 3, 9]] = 42.4264
    np.testing.assert_allclose(occluded.scores, expected, atol=1e-3)
    assert (occluded.scores[expected == 0] == 0).all()
    first_order = attribute(live, question, method="gradient_x_input")
    assert first_order.metric == pytest.approx(42.4264, abs=1e-3)
    assert first_order.sum == pytest.approx(0.0, abs=1e-3)
    integrated = attribute(live, question, steps=128, baseline="unk")
    assert abs(integrated.error) < 0.05
    assert integrated.scores[2] < -1  # complete, yet negative on a token without which the answer is lost


@pytest.mark.parametrize("method", METHODS)
def test_chunks_change_no_number(live: LiveModel, method: str) -> None:
    small = attribute(live, asked(live), method=method, memory=1).scores
    np.testing.assert_allclose(small, attribute(live, asked(live), method=method).scores, atol=1e-5)


def test_the_memory_estimate_covers_what_autograd_saves(live: LiveModel) -> None:
    what = explained(live, asked(live))
    held: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in live.module.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attribute(live, asked(live), method="gradient_x_input")
    assert sum(held.values()) <= graph_bytes(what) <= 6 * sum(held.values())


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2", "mixtral", "gpt_oss", "olmoe", "jamba", "mamba"])
def test_no_batch_saves_more_than_the_budget(name: str) -> None:
    """Counted: every tensor that autograd keeps for each batch, in families with experts and recurrent layers too."""
    built = architectures.build(name).model
    assert built is not None
    with architectures.quiet():
        live = open_model(built, matrix.tokenizer(architectures.VOCAB))
    question = Asked("", live.tokens.encode([*range(20, 36)]), Metric((30,), (31,)), (), (), 15)
    what, baseline = explained(live, question), find_baseline(live, question, "mean")
    whole = integrated_gradients(what, baseline, 12)
    weights = {p.untyped_storage().data_ptr() for p in live.module.parameters()}
    batches: list[dict[int, int]] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            batches[-1][x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    def next_batch(_part: float = 0.0) -> None:
        batches.append({})

    for rows in (2, 3, 5):
        budget = rows * row_bytes(what) + 1
        batches.clear()
        next_batch()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            path = integrated_gradients(what, baseline, 12, memory=budget, progress=next_batch)
        assert len([b for b in batches if b]) == -(-12 // rows)
        assert max(sum(b.values()) for b in batches) <= budget
        np.testing.assert_allclose(path.scores, whole.scores, atol=1e-5 * max(1.0, np.abs(whole.scores).max()))
    live.release()


def test_a_cancelled_attribution_stops_between_blocks(live: LiveModel) -> None:
    asks: list[int] = []

    def cancelled() -> bool:
        asks.append(1)
        return len(asks) > 2

    for method in METHODS:
        asks.clear()
        with pytest.raises(CancelledError):
            attribute(live, asked(live), method=method, cancelled=cancelled, memory=1)


def test_progress_rises_to_one(gpt2: LiveModel) -> None:
    seen: list[float] = []
    attribute(gpt2, asked(gpt2), memory=1 << 20, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "saliency"}, "no attribution method 'saliency'"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"baseline": "w1 w2"}, "has 2 tokens and the question 8"),
        ({"baseline": "corrupt"}, "corrupt prompt"),
        ({"baseline": "pad"}, "does not have"),
        ({"baseline": np.zeros(7)}, r"shape \[7\]"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_a_sentence(
    gpt2: LiveModel, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InterpError, match=sentence):
        attribute(gpt2, asked(gpt2), **change)


def test_target_equal_to_foil_and_a_prompt_of_one_token_are_refused(gpt2: LiveModel) -> None:
    with pytest.raises(PromptError, match="Target and foil are both 'w7'"):
        attribute(gpt2, asked(gpt2, target="w7", foil="w7"))
    with pytest.raises(PromptError, match="single token"):
        attribute(gpt2, asked(gpt2, prompt="w3"))


def test_a_metric_of_ones_own_is_differentiated_where_it_returns_a_tensor(gpt2: LiveModel) -> None:
    plain = asked(gpt2)

    def difference(logits: torch.Tensor) -> Any:
        return logits[7] - logits[8]

    own = Asked(plain.prompt, plain.tokens, Metric((7,), (8,), difference), plain.target, plain.foil, plain.position)
    np.testing.assert_allclose(attribute(gpt2, own).scores, attribute(gpt2, plain).scores, atol=1e-6)
    closed = Asked(
        plain.prompt, plain.tokens, Metric((7,), (), lambda x: float(x[7])), plain.target, (), plain.position
    )
    with pytest.raises(FeatureOffError, match="returns? a tensor|return a tensor"):
        attribute(gpt2, closed)
    assert abs(attribute(gpt2, closed, method="occlusion").scores).max() > 0


class Cut(torch.nn.Linear):
    """A projection whose kernel has no backward, as some quantised ones."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's own name)
        return super().forward(input).detach()


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_gradients_is_refused_in_a_sentence_and_occluded_all_the_same(method: str) -> None:
    """Weights made in inference mode; one projection whose kernel has no gradient; blocks that would be recomputed."""
    with torch.inference_mode():
        made = model("llama")
    cut = model("llama")
    cut.model.layers[1].self_attn.o_proj.__class__ = Cut
    recomputed = model("llama")
    getattr(recomputed, "activation_checkpointing_enable", recomputed.gradient_checkpointing_enable)()
    recomputed.train()
    sentences = {"inference_mode": made, "of layer 1": cut, "checkpointing": recomputed}
    for sentence, built in sentences.items():
        live = open_model(built, tokenizer())
        if method == "occlusion":
            assert np.abs(attribute(live, asked(live), method=method).scores).max() > 0.01
        else:
            with pytest.raises(FeatureOffError, match=sentence):
                attribute(live, asked(live), method=method)
        live.release()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_a_remainder_that_is_shown(dtype: torch.dtype) -> None:
    live = open_model(model("llama").to(dtype), tokenizer())
    a = attribute(live, asked(live))
    assert 0 < abs(a.error) < 0.05 * abs(a.metric)
    assert shown_in(a.line) >= abs(a.error)
    assert shown_in(a.line) == pytest.approx(abs(a.error), rel=0.5)
    live.release()


def test_an_edit_that_cuts_the_gradient_is_said(gpt2: LiveModel) -> None:
    with pytest.raises(FeatureOffError, match="No gradient reaches"):
        attribute(gpt2, asked(gpt2), (Ablate("embed", mode="zero"),))
