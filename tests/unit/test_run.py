"""A run of the user's own model under interventions: identities first, then the same numbers as plain hooks."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from interp_widgets.model.errors import (
    ClosedError,
    FeatureOffError,
    InterventionError,
    ModelChangedError,
    ModelRefusedError,
    PromptError,
    SiteError,
)
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Patch, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.positions import tokens
from interp_widgets.model.question import Asked, Metric
from tests import architectures, matrix
from tests.invariants import attention_registry, our_hooks, untouched
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"
MAKERS = {"gpt2": gpt2, "llama": llama}


@pytest.fixture(params=list(MAKERS))
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    module = MAKERS[request.param]()
    entries = attention_registry()
    with untouched(module):
        opened = open_model(module, tokenizer())
        yield opened
        opened.release()
        assert our_hooks(module) == 0
        assert attention_registry() == entries


def ids(live: LiveModel, prompt: str = PROMPT) -> torch.Tensor:
    return torch.tensor([[t.id for t in live.tokens.encode(prompt)]])


def asked(live: LiveModel, prompt: str = PROMPT) -> Asked:
    encoded = live.tokens.encode(prompt)
    return Asked(prompt, encoded, Metric((5,), (9,)), (), (), len(encoded) - 1)


def vector() -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


def projection(live: LiveModel, layer: int) -> torch.nn.Module:
    attention = live.anatomy.layers[layer].attention
    assert attention is not None
    return attention.output


def hooked(live: LiveModel, module: torch.nn.Module, change: Any, prompt: str = PROMPT) -> torch.Tensor:
    """What a plain pre-hook of one's own gives."""

    def hook(_module: Any, args: Any) -> Any:
        return (change(args[0].clone()), *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            return live.module(ids(live, prompt)).logits[0]
    finally:
        handle.remove()


def test_with_nothing_on_the_logits_are_the_modules_own_bit_for_bit(live: LiveModel) -> None:
    with torch.no_grad():
        assert torch.equal(live.run(PROMPT).logits, live.module(ids(live)).logits[0])


def test_zeroing_a_head_is_zeroing_its_slice_of_the_projections_input(live: LiveModel) -> None:
    def zero(x: torch.Tensor) -> torch.Tensor:
        x[..., 16:24] = 0
        return x

    run = live.run(PROMPT, [Ablate("L1H2", mode="zero")])
    assert torch.equal(run.logits, hooked(live, projection(live, 1), zero))
    assert run.receipts[0].state == "acted"
    assert run.receipts[0].positions == 6
    assert run.receipts[0].change == pytest.approx(1.0)


def test_mean_ablation_puts_the_mean_over_all_positions_of_the_reference(live: LiveModel) -> None:
    texts = ["w4 w8 w15", "w16 w23 w42 w9"]
    z = torch.cat([live.run(t, read=["L1.heads"])["L1.heads"][:, 2] for t in texts])

    def mean(x: torch.Tensor) -> torch.Tensor:
        x[..., 16:24] = z.mean(0)
        return x

    run = live.run(PROMPT, [Ablate("L1H2", reference=texts)])
    assert torch.allclose(run.logits, hooked(live, projection(live, 1), mean), atol=2e-5)


def test_resampling_takes_the_same_position_of_another_prompt(live: LiveModel) -> None:
    other = "w1 w2 w3 w4 w5 w6"
    z = live.run(other, read=["L0H1"])["L0H1"]

    def swap(x: torch.Tensor) -> torch.Tensor:
        x[..., 8:16] = z
        return x

    run = live.run(PROMPT, [Ablate("L0H1", mode="resample", reference=other)])
    assert torch.allclose(run.logits, hooked(live, projection(live, 0), swap), atol=1e-5)
    with pytest.raises(InterventionError, match="same length: it has 2 tokens and the question 6"):
        live.run(PROMPT, [Ablate("L0H1", mode="resample", reference="w1 w2")])


def test_patching_everything_from_a_run_gives_that_run_bit_for_bit(live: LiveModel) -> None:
    other = live.run("w1 w2 w3 w4 w5 w6", read=["L0", "L1", "L2"])
    for layer in range(3):
        assert torch.equal(live.run(PROMPT, [Patch(f"L{layer}", other)]).logits, other.logits)
        assert torch.equal(live.run(PROMPT, [Patch(f"L{layer}", "w1 w2 w3 w4 w5 w6")]).logits, other.logits)


def test_a_patch_from_the_run_itself_changes_nothing_and_says_so(live: LiveModel) -> None:
    plain = live.run(PROMPT, read=["L1"])
    run = live.run(PROMPT, [Patch("L1", plain)])
    assert torch.equal(run.logits, plain.logits)
    assert run.receipts[0].state == "no effect"


def test_steering_a_layer_is_adding_to_the_stream_that_the_next_block_reads(live: LiveModel) -> None:
    v = vector()
    run = live.run(PROMPT, [Steer("L0", v, 0.7, positions="all")])
    block = live.anatomy.layers[1].module

    def add(x: torch.Tensor) -> torch.Tensor:
        return x + 0.7 * v

    assert torch.equal(run.logits, hooked(live, block, add))


def test_strength_zero_is_idle_and_bit_identical(live: LiveModel) -> None:
    run = live.run(PROMPT, [Steer("L1", torch.ones(32), 0.0)])
    assert torch.equal(run.logits, live.run(PROMPT).logits)
    assert run.receipts[0].state == "idle"


def test_two_pushes_along_one_vector_are_one_push_of_their_sum(live: LiveModel) -> None:
    v = vector()
    twice = live.run(PROMPT, [Steer("L1", v, 0.3), Steer("L1", v, 0.5)]).logits
    once = live.run(PROMPT, [Steer("L1", v, 0.8)]).logits
    assert torch.allclose(twice, once, atol=1e-5)


def test_only_the_chosen_positions_are_edited(live: LiveModel) -> None:
    read = ["L1"]
    plain = live.run(PROMPT, read=read)["L1"]
    for positions, at in [
        (-1, [5]),
        ([1, 3], [1, 3]),
        (slice(2, 4), [2, 3]),
        (tokens("w5"), [0, 3]),
        ("prompt[-2]", [4]),
    ]:
        edited = live.run(PROMPT, [Steer("L1", torch.ones(32), 1.0, positions=positions)], read=read)["L1"]
        changed = (edited != plain).any(-1).nonzero().flatten().tolist()
        assert changed == at, positions


def test_generated_positions_cannot_reach_the_prompts_answer_and_the_receipt_says_so(live: LiveModel) -> None:
    run = live.run(PROMPT, [Steer("L1", torch.ones(32), 1.0, positions="generated")])
    assert run.receipts[0].state == "cannot reach"
    assert "generated positions only" in run.receipts[0].reason
    assert torch.equal(run.logits, live.run(PROMPT).logits)


def test_in_the_last_block_an_edit_elsewhere_cannot_reach_the_last_position(live: LiveModel) -> None:
    run = live.run(PROMPT, [Ablate("L2H0", mode="zero", positions=[0, 1])])
    assert run.receipts[0].state == "cannot reach"
    assert torch.equal(run.logits[-1], live.run(PROMPT).logits[-1])


@pytest.mark.case("A10")
def test_own_code_gets_one_head_and_must_give_its_shape_back(live: LiveModel) -> None:
    shapes: list[tuple[int, ...]] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return x * 0

    run = live.run(PROMPT, [Edit("L1H2", keep, name="mine")])
    assert shapes == [(6, 8)]
    assert torch.equal(run.logits, live.run(PROMPT, [Ablate("L1H2", mode="zero")]).logits)
    with pytest.raises(InterventionError, match=r"must return \(6, 8\), not \(6, 1\)"):
        live.run(PROMPT, [Edit("L1H2", lambda x: x[:, :1], name="wrong")])


def test_a_list_of_prompts_is_as_one_by_one(live: LiveModel) -> None:
    prompts = ["w5 w9", PROMPT, "w3 w4 w5"]
    for interventions in ([], [Ablate("L1H2", mode="zero"), Steer("L0", torch.ones(32), 0.5, positions=-1)]):
        together = live.run(prompts, interventions, read=["L2"])
        for prompt, run in zip(prompts, together, strict=True):
            alone = live.run(prompt, interventions, read=["L2"])
            assert torch.allclose(run.logits, alone.logits, atol=1e-4)
            assert torch.allclose(run["L2"], alone["L2"], atol=1e-4)
            assert len(run.tokens) == len(alone.tokens)


def test_the_answer_is_the_same_by_replay_and_by_the_whole_model(live: LiveModel) -> None:
    v = vector()
    cases: list[list[Intervention]] = [
        [Ablate("L0H1", mode="zero")],
        [Ablate("L2H3", mode="zero")],
        [Ablate("L1.mlp", mode="zero")],
        [Steer("L2", v, 0.5)],
        [Steer("embed", v, 0.5)],
        [Ablate("L1H0", mode="zero"), Steer("L0", v, -0.4)],
    ]
    for interventions in cases:
        row = live.answer(asked(live), interventions).logits
        whole = live.run(PROMPT, interventions).logits[-1]
        assert torch.allclose(row, whole, atol=2e-5), interventions
    with torch.no_grad():
        assert torch.allclose(live.answer(asked(live)).logits, live.module(ids(live)).logits[0, -1], atol=2e-5)


def test_answers_of_the_same_edit_are_bit_identical_and_taking_it_away_restores_the_number(live: LiveModel) -> None:
    question = asked(live)
    plain = live.answer(question).logits
    first = live.answer(question, [Ablate("L1H1", mode="zero")]).logits
    assert torch.equal(live.answer(question).logits, plain)
    assert torch.equal(live.answer(question, [Ablate("L1H1", mode="zero")]).logits, first)
    assert torch.equal(live.answer(question, [Steer("L1", torch.ones(32), 0.0)]).logits, plain)


def test_what_is_cached_notices_a_weight_changed_in_place_and_through_data(live: LiveModel) -> None:
    question, weight = asked(live), next(live.module.parameters())
    plain = live.answer(question).logits
    kept = weight.detach().clone()
    for change in (lambda: weight.data.add_(0.05), lambda: weight.data.copy_(kept)):
        change()
        with torch.no_grad():
            now = live.module(ids(live)).logits[0, -1]
        assert torch.allclose(live.answer(question).logits, now, atol=2e-5)
    assert torch.equal(live.answer(question).logits, plain)


@pytest.mark.case("A07")
def test_a_users_hook_is_part_of_plain_and_is_noticed(live: LiveModel) -> None:
    question = asked(live)
    plain = live.answer(question).logits
    handle = live.anatomy.layers[0].module.register_forward_pre_hook(lambda _m, args: (args[0] * 1.5, *args[1:]))
    with torch.no_grad():
        now = live.module(ids(live)).logits[0, -1]
    assert torch.allclose(live.answer(question).logits, now, atol=2e-5)
    assert not torch.allclose(now, plain, atol=1e-3)
    handle.remove()
    assert torch.equal(live.answer(question).logits, plain)


@pytest.mark.case("A08")
def test_hooks_that_somebody_cleared_are_back_at_the_next_run(live: LiveModel) -> None:
    edited = live.run(PROMPT, [Ablate("L1H2", mode="zero")]).logits
    for module in live.module.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    assert torch.equal(live.run(PROMPT, [Ablate("L1H2", mode="zero")]).logits, edited)


@pytest.mark.case("A29")
def test_a_replaced_module_is_named_at_the_next_run() -> None:
    module = gpt2()
    live = open_model(module, tokenizer())
    module.transformer.h[1] = copy.deepcopy(module.transformer.h[1])
    with pytest.raises(ModelChangedError, match=r"transformer\.h\.1"):
        live.run(PROMPT)
    live.release()


@pytest.mark.case("A01", "A02")
def test_an_exception_in_own_code_or_in_the_model_leaves_nothing_behind(live: LiveModel) -> None:
    def fail(_x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="mine"):
            live.run(PROMPT, [Ablate("L0H0", mode="zero"), Edit("L1", fail, name="fails")])
    with torch.no_grad():
        assert torch.equal(live.run(PROMPT).logits, live.module(ids(live)).logits[0])


def test_the_users_own_forward_is_plain_while_the_model_is_open(live: LiveModel) -> None:
    with torch.no_grad():
        before = live.module(ids(live)).logits
        live.run(PROMPT, [Ablate("L1H2", mode="zero")])
        assert torch.equal(live.module(ids(live)).logits, before)


@pytest.mark.case("A18")
def test_the_callers_modes_are_neither_used_nor_moved(live: LiveModel) -> None:
    expected = live.run(PROMPT, [Ablate("L1H2", mode="zero")]).logits
    with torch.inference_mode():
        inside = live.run(PROMPT, [Ablate("L1H2", mode="zero")])
        assert torch.is_inference_mode_enabled()
    assert torch.equal(inside.logits, expected)
    assert not inside.logits.is_inference()
    assert not inside.logits.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(live.run(PROMPT, [Ablate("L1H2", mode="zero")]).logits, expected)


@pytest.mark.case("A31")
def test_a_hooked_model_can_be_copied_and_saved(live: LiveModel, tmp_path: Any) -> None:
    twin: Any = copy.deepcopy(live.module)
    with torch.no_grad():
        assert torch.equal(twin(ids(live)).logits, live.module(ids(live)).logits)
    module: Any = live.module
    module.save_pretrained(tmp_path)
    buffer = io.BytesIO()
    torch.save(live.module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(ids(live)).logits, live.module(ids(live)).logits)


def test_the_same_module_gives_the_same_live_model(live: LiveModel) -> None:
    again = open_model(live.module, tokenizer())
    assert again is live
    again.release()
    live.run(PROMPT)


def test_a_closed_model_says_so() -> None:
    live = open_model(gpt2(), tokenizer())
    live.release()
    with pytest.raises(ClosedError, match=r"open it again with iw\.open"):
        live.run(PROMPT)


@pytest.mark.case("A09")
def test_what_is_read_is_what_the_next_block_gets(live: LiveModel) -> None:
    run = live.run(PROMPT, read=["L0", "L1.pre", "L0.attn", "L0.mlp", "L0.pre", "L0.mid", "L1.heads", "L1H2", "embed"])
    assert torch.equal(run["L0"], run["L1.pre"])
    assert torch.allclose(run["L0.pre"] + run["L0.attn"] + run["L0.mlp"], run["L0"], atol=1e-4)
    assert torch.allclose(run["L0.pre"] + run["L0.attn"], run["L0.mid"], atol=1e-5)
    assert torch.equal(run["L1.heads"][:, 2], run["L1H2"])
    assert torch.equal(run["blocks.1.attn.hook_z"], run["L1.heads"])


@pytest.mark.case("A32")
def test_patterns_are_those_of_eager_attention(live: LiveModel) -> None:
    module: Any = copy.deepcopy(live.module)
    module.set_attn_implementation("eager")
    with torch.no_grad():
        eager = module(ids(live), output_attentions=True).attentions
    run = live.run(PROMPT, read=["L0.pattern", "L2.pattern", "L1H3.pattern"])
    assert torch.allclose(run["L0.pattern"], eager[0][0], atol=1e-6)
    assert torch.allclose(run["L2.pattern"], eager[2][0], atol=1e-6)
    assert torch.allclose(run["L1H3.pattern"], eager[1][0, 3], atol=1e-6)


def test_cutting_one_edge_takes_one_source_out_of_one_row(live: LiveModel) -> None:
    read = ["L1.heads", "L1.pattern", "L1.v"]
    plain = live.run(PROMPT, read=read)
    cut = live.run(PROMPT, [Ablate("L1H2", "edge", edge=(4, 1))], read=["L1.heads"])
    difference = plain["L1.heads"] - cut["L1.heads"]
    values = plain["L1.v"].repeat_interleave(4 // plain["L1.v"].shape[1], dim=1)
    expected = plain["L1.pattern"][2, 4, 1] * values[1, 2]
    assert torch.allclose(difference[4, 2], expected, atol=1e-5)
    difference[4, 2] = 0
    assert torch.equal(difference, torch.zeros_like(difference))
    assert cut.receipts[0].state == "acted"


def test_a_pattern_can_be_patched_from_another_run(live: LiveModel) -> None:
    other = live.run("w1 w2 w3 w4 w5 w6", read=["L1H2.pattern"])
    run = live.run(PROMPT, [Patch("L1H2.pattern", other["L1H2.pattern"])], read=["L1H2.pattern"])
    assert torch.allclose(run["L1H2.pattern"], other["L1H2.pattern"], atol=1e-6)


@pytest.mark.parametrize(
    ("intervention", "error", "words"),
    [
        (lambda: Ablate("L9H0"), SiteError, "layers 0 to 2"),
        (lambda: Ablate("L1H99"), SiteError, "heads 0 to 3"),
        (lambda: Ablate("L2"), SiteError, r"L2\.heads"),
        (lambda: Steer("L1", torch.ones(33)), InterventionError, r"shape \[33\], but L1 needs \[32\]"),
        (lambda: Steer("L1", torch.ones(32), float("nan")), InterventionError, "strength nan is not a finite number"),
        (lambda: Steer("L1", torch.ones(32), True), InterventionError, "a finite number, not True"),
        (lambda: Steer("L1", torch.ones(32), 10**400), InterventionError, "100000000000… is not a finite number"),
        (lambda: Steer("L1", [float("nan")] * 32), InterventionError, "32 values that are not finite"),
        (lambda: Ablate("L1H1", cast("Any", "median")), InterventionError, "no ablation mode 'median'"),
        (lambda: Steer("L1", torch.ones(32), positions=99), InterventionError, "Position 99 does not exist"),
    ],
)
@pytest.mark.case("A03", "A11")
def test_what_makes_no_sense_is_refused_in_a_sentence(intervention: Any, error: type[Exception], words: str) -> None:
    live = open_model(gpt2(), tokenizer())
    try:
        with pytest.raises(error, match=words):
            live.run(PROMPT, [intervention()])
    finally:
        live.release()


def test_bad_prompts_are_refused_in_a_sentence(live: LiveModel) -> None:
    for prompt, words in [
        ("", "empty"),
        ([99999], "ids 0 to 60"),
        ([-1], "ids 0 to 60"),
        ([3] * 65, "65 tokens, but the model's context holds 64"),
    ]:
        with pytest.raises(PromptError, match=words):
            live.run(prompt)


@pytest.mark.case("A15")
def test_a_model_in_training_mode_with_dropout_is_refused() -> None:
    module = gpt2(resid_pdrop=0.1).train()
    with pytest.raises(ModelRefusedError, match=r"model\.eval"):
        open_model(module, tokenizer())
    assert our_hooks(module) == 0


@pytest.mark.case("A15")
@pytest.mark.parametrize("name", ["biogpt", "gpt_bigcode", "emu3"])
def test_dropout_that_is_no_module_is_refused_when_training_begins_after_opening(name: str) -> None:
    module = architectures.build(name).model
    assert module is not None
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    live = open_model(module, matrix.tokenizer(architectures.VOCAB))
    module.train()
    state = torch.get_rng_state()
    with pytest.raises(ModelRefusedError, match=r"with dropout .*model\.eval"):
        live.run([20, 21, 22])
    assert torch.equal(state, torch.get_rng_state())
    module.eval()
    assert live.run([20, 21, 22]).logits.shape[0] == 3
    live.release()


def test_a_site_that_was_not_read_says_how_to_read_it(live: LiveModel) -> None:
    with pytest.raises(KeyError, match=r"read=\['L1H3'\]"):
        live.run(PROMPT)["L1H3"]


def test_unrotated_queries_of_a_rotary_model_are_refused_by_their_name() -> None:
    live = open_model(llama(), tokenizer())
    with pytest.raises(FeatureOffError, match="hook_rot_q"):
        live.run(PROMPT, read=["blocks.0.attn.hook_q"])
    live.release()
