"""The known circuits against their closed forms, with plain torch hooks and nothing of the engine."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_widgets.builtin.closed_form import WORDS
from interp_widgets.builtin.known import KnownCircuit, known, names
from interp_widgets.builtin.known_llama import FREQUENCIES, clock_logit
from interp_widgets.model.errors import InterpError

BENCH = ("self-repair", "self-repair-backup", "self-repair-suppression", "self-repair-both")


def token(tokenizer: Any, word: str) -> int:
    (found,) = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
    return found


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def metric(model: Any, tokenizer: Any, circuit: KnownCircuit) -> float:
    ids = torch.tensor([tokenizer(circuit.prompt)["input_ids"]])
    last = logits(model, ids)[0, -1]
    return float(last[token(tokenizer, circuit.target)] - last[token(tokenizer, circuit.foil)])


def blocks(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def projection(model: Any, layer: int) -> Any:
    block = blocks(model)[layer]
    return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj


@contextmanager
def without_head(model: Any, layer: int, head: int) -> Generator[None]:
    """Zero the head's slice of the output projection's input."""

    def hook(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        z = args[0].clone()
        width = z.shape[-1] // model.config.num_attention_heads
        z[..., head * width : (head + 1) * width] = 0.0
        return (z,)

    handle = projection(model, layer).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def each_head(circuit: KnownCircuit) -> list[tuple[int, int, float]]:
    found: list[tuple[int, int, float]] = []
    for key, value in circuit.answers.items():
        if key.startswith("zero:L") and "H" in key:
            layer, head = key.removeprefix("zero:L").split("H")
            found.append((int(layer), int(head), value))
    return found


@pytest.mark.parametrize("name", names())
def test_the_plain_metric_is_the_closed_form(name: str) -> None:
    model, tokenizer, circuit = known(name)
    assert metric(model, tokenizer, circuit) == pytest.approx(circuit.answers["plain"], abs=1e-5)


def test_the_closed_forms_are_these_numbers() -> None:
    plain = {name: known(name)[2].answers["plain"] for name in names()}
    assert plain["induction"] == pytest.approx(42.4264069, abs=1e-6)
    assert plain["induction-llama"] == pytest.approx(35.3553391, abs=1e-6)
    assert [round(plain[name], 3) for name in BENCH] == [42.426, 42.426, 25.175, 25.175]


@pytest.mark.parametrize("name", names())
def test_every_head_zero_ablated_gives_its_closed_form_and_unused_ones_change_no_bit(name: str) -> None:
    model, tokenizer, circuit = known(name)
    ids = torch.tensor([tokenizer(circuit.prompt)["input_ids"]])
    plain = logits(model, ids)
    heads = each_head(circuit)
    assert len(heads) == model.config.num_hidden_layers * model.config.num_attention_heads
    for layer, head, answer in heads:
        with without_head(model, layer, head):
            assert metric(model, tokenizer, circuit) == pytest.approx(answer, abs=1e-4), f"L{layer}H{head}"
            if f"L{layer}H{head}" not in circuit.heads:
                assert torch.equal(logits(model, ids), plain), f"L{layer}H{head}"


@pytest.mark.parametrize("name", ["induction", "induction-llama"])
def test_induction_is_right_on_every_repeated_permutation(name: str) -> None:
    model, _, circuit = known(name)
    torch.manual_seed(0)
    for _ in range(20):
        words = torch.randperm(len(WORDS))[:10] + 2
        ids = torch.cat([torch.tensor([0]), words, words])[None]
        answer = logits(model, ids)[0, 11:20]
        right = answer.gather(1, words[1:, None])
        assert torch.allclose(right, torch.full_like(right, circuit.answers["plain"]), atol=1e-4)
        answer.scatter_(1, words[1:, None], 0.0)
        assert float(answer.abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["induction", "induction-llama"])
def test_induction_says_nothing_where_nothing_repeats(name: str) -> None:
    model, _, _ = known(name)
    ids = torch.cat([torch.tensor([0]), torch.randperm(len(WORDS)) + 2])[None]
    assert float(logits(model, ids).abs().max()) < 1e-12


def direct_effects(model: Any, ids: Tensor, circuit: KnownCircuit, tokenizer: Any, scale: Tensor | None) -> Any:
    """Direct effect of each head with the final norm's scale frozen to `scale`: `(effects by name, scale, metric)`."""
    seen: dict[int, Tensor] = {}
    stream: list[Tensor] = []
    handles = [
        projection(model, i).register_forward_pre_hook(lambda _m, args, i=i: seen.__setitem__(i, args[0][0, -1]))
        for i in range(model.config.num_hidden_layers)
    ]
    handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda _m, args: stream.append(args[0][0, -1])))
    try:
        value = metric(model, tokenizer, circuit)
    finally:
        for handle in handles:
            handle.remove()
    now = (stream[0] - stream[0].mean()).square().mean().sqrt()
    scale = now if scale is None else scale
    weight = model.lm_head.weight.detach()
    unembed = weight[token(tokenizer, circuit.target)] - weight[token(tokenizer, circuit.foil)]
    width = model.config.n_embd // model.config.n_head
    effects: dict[str, float] = {}
    for layer, z in seen.items():
        for head in range(model.config.n_head):
            part = slice(head * width, (head + 1) * width)
            result = z[part] @ projection(model, layer).weight.detach()[part]
            effects[f"L{layer}H{head}"] = float((result - result.mean()) @ unembed / scale)
    return effects, scale, value


@pytest.mark.parametrize("name", BENCH)
def test_self_repair_splits_as_the_table_says(name: str) -> None:
    model, tokenizer, circuit = known(name)
    ids = torch.tensor([tokenizer(circuit.prompt)["input_ids"]])
    before, scale, plain = direct_effects(model, ids, circuit, tokenizer, None)
    with without_head(model, 1, 0):
        after, _, ablated = direct_effects(model, ids, circuit, tokenizer, scale)
    answers = circuit.answers
    repair = ablated - plain - (after["L1H0"] - before["L1H0"])
    others = {head: after[head] - before[head] for head in before if head != "L1H0"}
    assert before["L1H0"] == pytest.approx(answers["direct:L1H0"], abs=1e-3)
    assert repair == pytest.approx(answers["repair:L1H0"], abs=1e-3)
    assert others["L2H0"] == pytest.approx(answers["repair:L1H0:L2H0"], abs=1e-3)
    assert others["L2H1"] == pytest.approx(answers["repair:L1H0:L2H1"], abs=1e-3)
    assert repair - sum(others.values()) == pytest.approx(answers["repair:L1H0:norm"], abs=1e-3)


def test_the_self_repair_table_has_these_numbers() -> None:
    repairs = [known(name)[2].answers for name in BENCH]
    assert [round(a["zero:L1H0"], 3) for a in repairs] == [0.0, 47.068, 0.0, 47.068]
    assert [round(a["repair:L1H0"], 2) for a in repairs] == [0.0, 47.07, 21.61, 68.68]
    assert [round(a["repair:L1H0:norm"], 3) + 0.0 for a in repairs] == [0.0, -1.922, 0.0, -6.954]


@pytest.mark.parametrize("name", ["clock-23", "clock-59", "clock"])
def test_the_clock_is_exact_on_every_pair(name: str) -> None:
    model, tokenizer, _ = known(name)
    p = model.config.vocab_size - 3
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    bos, equals = tokenizer.bos_token_id, token(tokenizer, "=")
    ids = torch.cat([torch.full((p * p, 1), bos), pairs + 2, torch.full((p * p, 1), equals)], dim=1)
    answer = logits(model, ids)[:, -1, 2 : p + 2].double()
    total = (pairs.sum(1)[:, None] - torch.arange(p)[None]).double()
    closed = sum((2 * math.pi * k * total / p).cos() for k in FREQUENCIES[p])
    assert isinstance(closed, Tensor)
    assert float((answer - closed).abs().max()) < 1e-5
    assert torch.equal(answer.argmax(1), pairs.sum(1) % p)
    assert clock_logit(p, 3, 4, 5) == pytest.approx(float(closed[3 * p + 4, 5]))


def test_the_clock_needs_its_mlp() -> None:
    model, tokenizer, circuit = known("clock-23")
    handle = blocks(model)[0].mlp.register_forward_hook(lambda _m, _a, out: torch.zeros_like(out))
    try:
        assert metric(model, tokenizer, circuit) == circuit.answers["zero:L0.mlp"] == 0.0
    finally:
        handle.remove()


@pytest.mark.parametrize("name", names())
def test_a_tokenizer_takes_any_text_and_gives_back_its_words(name: str) -> None:
    _, tokenizer, circuit = known(name)
    ids = tokenizer(circuit.prompt)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == circuit.prompt
    for text in ("", " ", "naïve 😀\n\ud7ff <bos> <s> [MASK]", "x" * 10_000):
        assert all(0 <= i < len(tokenizer) for i in tokenizer(text)["input_ids"])
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_models_are_stock_and_in_eval_mode() -> None:
    for name in names():
        model = known(name)[0]
        assert type(model).__module__.startswith("transformers.models.")
        assert not any(module.training for module in model.modules())


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InterpError, match="induction-llama"):
        known("known:deduction")


def test_answers_cannot_be_changed() -> None:
    circuit = known("induction")[2]
    with pytest.raises(TypeError):
        circuit.answers["plain"] = 0.0  # pyright: ignore[reportIndexIssue]
