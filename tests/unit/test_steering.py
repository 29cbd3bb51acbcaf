"""Steering vectors, and the identities that steering must satisfy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

from interp_widgets.methods.directions import direction, held_out
from interp_widgets.methods.steering import (
    SteeringVector,
    across,
    from_token,
    plain_vector,
    random_directions,
    steering_vector,
)
from interp_widgets.model.errors import FeatureOffError, InterventionError, PromptError, SiteError
from interp_widgets.model.interventions import Edit, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.reference import Reference
from tests.unit.tiny_models import VOCAB, gpt2, llama, tokenizer

PROMPT = [5, 9, 12, 7, 30, 9, 12, 4]
MODELS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "llama": llama}
V = torch.randn(32, generator=torch.Generator().manual_seed(3)).numpy()
POSITIVE = ["w2 w3 w4", "w5 w6 w7 w8", "w2 w9 w4", "w11 w6"]
NEGATIVE = ["w20 w21 w22", "w25 w26 w27 w28", "w22 w29 w24", "w31 w26"]


@pytest.fixture(scope="module", params=list(MODELS))
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(
        MODELS[request.param](), tokenizer(), name=request.param, reference=Reference.of(["w3 w4 w5", "w8 w9 w10 w11"])
    )
    yield opened
    opened.release()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-6) -> bool:
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


def logits(live: LiveModel, *steers: Any) -> torch.Tensor:
    return live.run(PROMPT, list(steers)).logits


# ---- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "project_out", "keep_norm"])
def test_strength_0_is_bit_identical_to_plain(live: LiveModel, mode: Any) -> None:
    assert torch.equal(logits(live, Steer("L1", V, 0.0, mode, positions="all")), logits(live))


def test_two_pushes_one_after_the_other_are_their_sum(live: LiveModel) -> None:
    both = logits(live, Steer("L1", V, 0.7), Steer("L1", V, 1.6))
    assert close(both, logits(live, Steer("L1", V, 2.3)))
    assert not close(both, logits(live, Steer("L1", V, 1.6)), 1e-2)


def test_steering_a_whole_layer_is_adding_to_the_bias_of_its_mlp(live: LiveModel) -> None:
    other: Any = copy.deepcopy(live.module)
    if live.name == "gpt2":
        bias = other.transformer.h[1].mlp.c_proj.bias
        with torch.no_grad():
            bias += 2.0 * torch.from_numpy(V)
    else:
        down = other.model.layers[1].mlp.down_proj
        down.bias = torch.nn.Parameter(2.0 * torch.from_numpy(V))
    with torch.no_grad():
        right = other(input_ids=torch.tensor([PROMPT])).logits[0]
    assert close(logits(live, Steer("L1", V, 2.0, positions="all")), right)
    assert close(logits(live, Steer("L1.mlp", V, 2.0, positions="all")), right)


def orthogonalised(live: LiveModel) -> torch.nn.Module:
    """The model with a direction taken out of everything that writes to the stream, and an unembedding of its own."""
    model: Any = copy.deepcopy(live.module)
    r = torch.from_numpy(V).double()
    r = r / r.norm()

    def out(weight: Any, axis: int) -> None:
        w = weight.detach().double()
        along = (w @ r)[..., None] * r if axis == -1 else r[:, None] * (r @ w)[None]
        weight.copy_((w - along).float())

    with torch.no_grad():
        if live.name == "gpt2":
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
            body: Any = model.transformer
            for weight in (body.wte.weight, body.wpe.weight):
                out(weight, -1)
            for block in body.h:
                for part in (block.attn.c_proj, block.mlp.c_proj):
                    out(part.weight, -1)
                    out(part.bias[None], -1)
        else:
            body = model.model
            out(body.embed_tokens.weight, -1)
            for block in body.layers:
                out(block.self_attn.o_proj.weight, 0)
                out(block.mlp.down_proj.weight, 0)
    return model


def test_projecting_out_at_every_write_is_the_model_with_orthogonalised_weights(live: LiveModel) -> None:
    # smaller weights amplify the rounding of the changed ones less: what is compared is the algebra
    small = copy.deepcopy(live.module)
    with torch.no_grad():
        for weight in small.parameters():
            weight.mul_(0.3)
    calm = open_model(small, tokenizer(), name=live.name)
    try:
        with torch.no_grad():
            right = orthogonalised(calm)(input_ids=torch.tensor([PROMPT])).logits[0]
        steer = Steer("L0", V, 1.0, "project_out", positions="all")
        assert close(logits(calm, *across(calm, steer, "writes")), right)
        assert not close(logits(calm, *across(calm, steer, [1])), right, 1e-3)
    finally:
        calm.release()


def test_projecting_out_leaves_no_component_and_clamping_leaves_the_one_asked_for(live: LiveModel) -> None:
    unit = V / np.linalg.norm(V)
    for steer, left in (
        (Steer("L1", V, 1.0, "project_out", positions="all"), 0.0),
        (Steer("L1", V, 0.5, "clamp", positions="all"), 0.5 * np.linalg.norm(V)),
        (Steer("L1", V, 0.0, "clamp", positions="all", origin=1.25), 1.25),
        (Steer("L1", V, -1.0, "clamp", positions="all", origin=1.25), 1.25 - np.linalg.norm(V)),
    ):
        read = live.run(PROMPT, [steer], read=["L1"])["L1"].numpy()
        plain = live.run(PROMPT, read=["L1"])["L1"].numpy()
        assert np.allclose(read @ unit, left, atol=1e-5)
        rest = np.eye(32) - np.outer(unit, unit)
        assert np.allclose(read @ rest, plain @ rest, atol=1e-5)


def test_keeping_the_norm_keeps_it_and_turns_the_stream(live: LiveModel) -> None:
    read = live.run(PROMPT, [Steer("L1", V, 2.0, "keep_norm", positions="all")], read=["L1"])["L1"]
    plain = live.run(PROMPT, read=["L1"])["L1"]
    assert torch.allclose(read.norm(dim=-1), plain.norm(dim=-1), rtol=1e-5)
    moved = plain + 2.0 * torch.from_numpy(V)
    assert torch.allclose(torch.cosine_similarity(read, moved), torch.ones(len(PROMPT)), atol=1e-5)


def test_a_push_and_its_opposite_agree_to_first_order(live: LiveModel) -> None:
    plain = logits(live).double()
    up, down = (logits(live, Steer("L1", V, c)).double() - plain for c in (1e-2, -1e-2))
    assert float((up + down).norm()) < 0.1 * float(up.norm())


def test_steering_composes_with_own_code_in_order_and_is_all_in_the_receipts(live: LiveModel) -> None:
    double = Edit("L1", lambda x: x * 2, name="double")
    push = Steer("L1", V, 1.0, positions="all")
    first = live.run(PROMPT, [push, double], read=["L1"])
    second = live.run(PROMPT, [double, push], read=["L1"])
    assert torch.allclose(first["L1"] - second["L1"], torch.from_numpy(V).expand(8, 32), atol=1e-5)
    assert [r.state for r in first.receipts] == ["acted", "acted"]


def test_a_constant_is_invisible_where_norms_subtract_the_mean_and_counts_for_nothing_there(live: LiveModel) -> None:
    ones = plain_vector(live, np.ones(32), "L1", "ones", "by hand")
    moved = float((logits(live, Steer("L1", ones, 1.0)) - logits(live)).abs().max())
    if live.name == "gpt2":
        assert moved < 1e-4
        assert ones.norm == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(InterventionError, match="norm 0 where the model can see it"):
            _ = ones.unit
    else:
        assert moved > 1e-2
        assert ones.norm == pytest.approx(np.sqrt(32))


# ---- vectors ----------------------------------------------------------------------------------------------------------


def test_the_mean_difference_is_the_difference_of_the_means_at_the_last_token(live: LiveModel) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")
    means = [np.mean([live.run(p, read=["L1"])["L1"][-1].numpy() for p in ps], axis=0) for ps in (POSITIVE, NEGATIVE)]
    assert np.allclose(vector.vector.values, means[0] - means[1], atol=1e-5)
    unit = vector.vector.values / np.linalg.norm(vector.vector.values)
    assert vector.origin == pytest.approx(float(means[1] @ unit), abs=1e-4)
    assert vector.difference == pytest.approx(vector.norm)
    averaged = steering_vector(live, POSITIVE, NEGATIVE, "L1", positions="mean")
    content = [
        np.mean([live.run(p, read=["L1"])["L1"][1:].mean(0).numpy() for p in ps], axis=0) for ps in (POSITIVE, NEGATIVE)
    ]
    assert np.allclose(averaged.vector.values, content[0] - content[1], atol=1e-5)


def test_clamping_at_0_and_1_gives_the_two_means(live: LiveModel) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1")
    unit = vector.vector.values / np.linalg.norm(vector.vector.values)
    for strength, prompts in ((0.0, NEGATIVE), (1.0, POSITIVE)):
        mean = np.mean([live.run(p, read=["L1"])["L1"][-1].numpy() for p in prompts], axis=0)
        read = live.run(PROMPT, [Steer("L1", vector, strength, "clamp")], read=["L1"])["L1"].numpy()
        assert np.allclose(read[1:] @ unit, mean @ unit, atol=1e-4)


def test_a_planted_concept_is_found_by_every_method_beside_a_larger_distractor() -> None:
    rng = np.random.default_rng(0)
    d, n = 64, 80
    concept = rng.standard_normal(d)
    concept /= np.linalg.norm(concept)
    distractor = np.linalg.qr(rng.standard_normal((d, 3)))[0].T
    base = rng.standard_normal((n, d)) * 0.3
    above = base + 2.0 * concept + rng.standard_normal((n, 3)) @ distractor * 0.5
    below = base - 2.0 * concept + rng.standard_normal((n, 3)) @ distractor * 0.5
    for method in ("mean_difference", "pca_center", "probe"):
        found = direction(above, below, method)
        assert found @ concept / np.linalg.norm(found) > 0.9, method
        assert found @ found == pytest.approx(found @ (above.mean(0) - below.mean(0)))
        separation = held_out(above, below, method)
        assert separation is not None
        assert separation.auc > 0.99
        assert separation.accuracy > 0.98
        assert separation.n == 2 * n
    shuffled = held_out(rng.standard_normal((n, d)), rng.standard_normal((n, d)), "mean_difference")
    assert shuffled is not None
    assert 0.3 < shuffled.auc < 0.7


def test_separation_is_of_prompts_that_the_direction_was_not_made_from(live: LiveModel) -> None:
    assert steering_vector(live, POSITIVE[:1], NEGATIVE[:1], "L1").separation is None
    assert steering_vector(live, POSITIVE[0], NEGATIVE[0], "L1").source.startswith("mean difference of 1 and 1 prompts")
    found = steering_vector(live, POSITIVE, NEGATIVE, "L1").separation
    assert found is not None
    assert (found.n, found.folds) == (8, 4)
    # in 32 dimensions a probe tells any 8 random prompts apart that it has seen: only held-out ones are evidence
    random = [" ".join(f"w{i}" for i in np.random.default_rng(s).integers(2, VOCAB, 5)) for s in range(24)]
    chance = steering_vector(live, random[:12], random[12:], "L1", "probe").separation
    assert chance is not None
    assert chance.accuracy < 0.85


@pytest.mark.parametrize("method", ["pca_center", "probe"])
def test_the_other_methods_are_as_long_as_the_difference_along_them(live: LiveModel, method: Any) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1", method)
    raw = steering_vector(live, POSITIVE, NEGATIVE, "L1")
    unit = vector.vector.values / np.linalg.norm(vector.vector.values)
    assert np.linalg.norm(vector.vector.values) == pytest.approx(float(raw.vector.values @ unit), rel=1e-4)
    assert vector.difference == pytest.approx(raw.norm)


def test_units_are_said_three_ways(live: LiveModel) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")
    units = vector.units(0.6)
    assert units.length == pytest.approx(0.6 * vector.norm)
    assert units.difference == pytest.approx(0.6)
    assert vector.residual is not None
    assert units.residual == pytest.approx(0.6 * vector.norm / vector.residual)
    assert (
        str(units)
        == f"+0.60 × difference = {units.residual:.0%} of the residual norm at L1 = {units.length:+.3g} × unit vector"
    )
    assert (vector * 2).units(0.5).difference == pytest.approx(1.0)
    own = plain_vector(live, V, "L1", "own", "numbers of my own")
    assert str((own - own * 0.5).units(2.0)).startswith("+2.00 × vector = ")
    assert str((own + vector).units(2.0)).startswith("+2.00 × difference = ")
    assert vector.unit.norm == pytest.approx(1.0)
    assert vector.unit.units(vector.norm).difference == pytest.approx(1.0)


def test_vectors_are_equal_and_hashed_by_content_and_can_be_reckoned_with(live: LiveModel) -> None:
    one = steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")
    two = steering_vector(live, NEGATIVE, POSITIVE, "L1", name="other")
    assert one == steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")
    assert len({one, steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")}) == 1
    assert one != two
    assert np.allclose((one + two).vector.values, 0, atol=1e-5)
    assert np.allclose((one - two).vector.values, 2 * one.vector.values, atol=1e-5)
    assert (one + two).name == "kind + other"
    assert (-one).name == "−kind"
    back = -one
    assert -back == one
    assert (2 * one).vector == (one * 2).vector
    assert close(logits(live, Steer("L1", one + one)), logits(live, Steer("L1", one, 2.0)))
    with pytest.raises(InterventionError, match="only vectors of one model and one site"):
        _ = one + steering_vector(live, POSITIVE, NEGATIVE, "L2")
    with pytest.raises(InterventionError, match="not a finite number"):
        _ = one * float("nan")
    with pytest.raises(TypeError):
        _ = one + 1  # pyright: ignore[reportOperatorIssue]


def test_random_directions_have_the_visible_norm_and_leave_the_global_random_state_alone(live: LiveModel) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1", name="kind")
    before = torch.get_rng_state(), cast("Any", np.random.get_state())[1].copy()  # noqa: NPY002
    control = vector.random_like(4)
    assert control == vector.random_like(4) != vector.random_like(5)
    assert control.norm == pytest.approx(vector.norm)
    assert control.name == "random 4"
    many = random_directions(vector, 200)
    assert np.allclose(np.linalg.norm(many, axis=-1), vector.norm, rtol=1e-5)
    cosines = many @ vector.vector.values / vector.norm**2
    assert abs(cosines.mean()) < 0.05
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], cast("Any", np.random.get_state())[1])  # noqa: NPY002


def test_a_tokens_direction_is_its_row_of_the_unembedding_and_brings_it_to_the_top(live: LiveModel) -> None:
    model: Any = copy.deepcopy(live.module)
    even = open_model(model, tokenizer(), reference=live.reference)
    try:
        for name, value in cast("Any", even.anatomy.final_norm).named_parameters():
            torch.nn.init.constant_(value, 1.0 if name == "weight" else 0.0)
        vector = from_token(even, "w17", "L2")
        assert np.array_equal(vector.vector.values, model.get_output_embeddings().weight[17].detach().numpy())
        assert vector.name == "w17"
        assert int(logits(even)[-1].argmax()) != 17
        assert int(logits(even, Steer("L2", vector, 1000.0))[-1].argmax()) == 17
    finally:
        even.release()
    with pytest.raises(PromptError, match="not a token"):
        from_token(live, "nothing", "L2")


# ---- several places ---------------------------------------------------------------------------------------------------


def test_one_push_at_several_layers_is_one_intervention_for_each(live: LiveModel) -> None:
    steer = Steer("L0", V, 0.5, "keep_norm", positions="prompt", name="kind", origin=2.0)
    assert [s.site.name for s in across(live, steer)] == ["L0", "L1", "L2"]
    assert [s.site.name for s in across(live, steer, range(1, 3))] == ["L1", "L2"]
    writes = across(live, steer, "writes")
    assert [s.site.name for s in writes] == ["L0.pre", "L0.attn", "L0.mlp", "L1.attn", "L1.mlp", "L2.attn", "L2.mlp"]
    assert {(s.coefficient, s.mode, str(s.positions), s.name, s.origin) for s in writes} == {
        (0.5, "keep_norm", "prompt", "kind", 2.0)
    }
    with pytest.raises(SiteError, match="layers 0 to 2"):
        across(live, steer, [7])
    with pytest.raises(InterventionError, match='"layers", "writes"'):
        across(live, steer, "everywhere")


# ---- what cannot be done ----------------------------------------------------------------------------------------------


def test_what_makes_no_vector_is_refused_in_a_sentence(live: LiveModel) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"positive": []}, InterventionError, "no positive prompts"),
        ({"negative": []}, InterventionError, "no negative prompts"),
        ({"positive": [3]}, InterventionError, "A positive prompt is a text, not 3"),
        ({"positive": [""]}, PromptError, "empty"),
        ({"positive": ["w5 " * 70]}, PromptError, "70 tokens"),
        ({"site": "L1H2"}, SiteError, "not a place in the residual stream"),
        ({"site": "L9"}, SiteError, "layers 0 to 2"),
        ({"method": "magic"}, InterventionError, "no method 'magic'"),
        ({"positions": "first"}, InterventionError, "positions is 'last' or 'mean'"),
        (
            {"positive": POSITIVE[:3], "method": "pca_center"},
            InterventionError,
            "needs pairs, but there are 3 positive and 4 negative",
        ),
        ({"positive": POSITIVE, "negative": POSITIVE}, InterventionError, "the same at L1"),
        (
            {"positive": ["w2 w3 w4"], "negative": ["w7 w8 w4"], "site": "embed"},
            InterventionError,
            "choose a later layer",
        ),
    ]
    for change, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            steering_vector(live, **cast("Any", {"positive": POSITIVE, "negative": NEGATIVE, "site": "L1", **change}))
    with pytest.raises(InterventionError, match="shape .5., but L1 needs .32."):
        plain_vector(live, np.ones(5), "L1", "short", "by hand")
    with pytest.raises(InterventionError, match="not finite numbers"):
        plain_vector(live, np.full(32, np.nan), "L1", "nan", "by hand")


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), 1e38, 10**400, True, "1", None])
def test_strengths_that_make_no_sense_are_refused_before_the_model_runs(strength: Any) -> None:
    with pytest.raises(InterventionError, match="finite number"):
        Steer("L1", V, strength)


def test_numbers_of_numpy_are_strengths_and_what_is_too_large_for_a_vector_is_refused_in_a_sentence() -> None:
    for strength in (np.float32(0.5), np.float64(0.5), np.int64(2), np.float16(0.5)):
        found = Steer("L1", V, cast("Any", strength)).coefficient
        assert (type(found), found) == (float, float(strength))
    for strength in (np.float32("nan"), np.bool_(True)):
        with pytest.raises(InterventionError, match="finite number"):
            Steer("L1", V, cast("Any", strength))
    with pytest.raises(InterventionError, match="32 values that are not finite"):
        Steer("L1", np.full(32, 1e300))


def test_a_push_that_overflows_is_refused_with_the_last_good_result_kept(live: LiveModel) -> None:
    half = open_model(copy.deepcopy(live.module).half(), tokenizer(), name="half")
    try:
        asked = _asked(half)
        good = half.answer(asked).logits
        with pytest.raises(
            InterventionError,
            match="The answer is not finite from layer 1 on; lower the strength of steer L1, vector × 1e.06",
        ):
            half.answer(asked, [Steer("L1", V, 1e6)])
        assert torch.equal(half.answer(asked).logits, good)
    finally:
        half.release()


def _asked(live: LiveModel) -> Any:
    from interp_widgets.model.question import Asked, Metric

    found = live.tokens.encode(PROMPT)
    return Asked("", found, Metric((5,), (6,)), (live.tokens.token(5),), (live.tokens.token(6),), len(found) - 1)


def test_a_vector_is_frozen(live: LiveModel) -> None:
    vector = steering_vector(live, POSITIVE, NEGATIVE, "L1")
    assert isinstance(vector, SteeringVector)
    with pytest.raises(AttributeError):
        vector.name = "other"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        vector.vector.values[0] = 1.0


def test_a_quantised_unembedding_has_no_rows(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        live.anatomy.unembed, "weight", torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    )
    with pytest.raises((InterventionError, FeatureOffError), match="no row to take"):
        from_token(live, "w17", "L2")
