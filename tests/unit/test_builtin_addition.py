"""The modular-addition model is a stock GPT-2 whose norms only centre, and its progress measures are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from interp_widgets.builtin import addition, grokking

RECIPE = addition.AdditionRecipe(p=13, width=16, heads=2, mlp=32, steps=3)


@pytest.fixture(scope="module")
def perturbed() -> object:
    """A fresh model whose biases are not zero, so that nothing is hidden."""
    model = addition.build_model(RECIPE)
    generator = torch.Generator().manual_seed(1)
    for q in model.parameters():
        if q.requires_grad:
            q.data += 0.2 * torch.randn(q.shape, generator=generator)
    return model.eval()


def test_the_stock_forward_equals_the_short_cut_on_every_pair(perturbed: object) -> None:
    p = RECIPE.p
    pairs = torch.tensor([[a, p, b, p + 1] for a in range(p) for b in range(p)])
    with torch.no_grad():
        stock = perturbed(pairs).logits[:, -1].view(p, p, -1)  # type: ignore[operator]
        short = addition.all_logits(perturbed, p)  # type: ignore[arg-type]
    assert (stock - short).abs().max() < 1e-5


def test_the_norms_only_centre(perturbed: object) -> None:
    x = 3 * torch.randn(5, RECIPE.width, generator=torch.Generator().manual_seed(2)) + 1
    norm = perturbed.transformer.ln_f  # type: ignore[attr-defined]
    assert norm(x) == pytest.approx(x - x.mean(-1, keepdim=True), abs=1e-5)


def test_a_prompt_is_four_tokens_and_round_trips() -> None:
    tokenizer = addition.build_tokenizer(59)
    ids = tokenizer("12+34=")["input_ids"]
    assert ids == [12, 59, 34, 60]
    assert tokenizer.decode(ids) == "12+34="


def test_the_split_is_a_share_of_all_pairs_and_always_the_same() -> None:
    mask = addition.is_train(RECIPE)
    assert int(mask.sum()) == round(RECIPE.share * RECIPE.p**2)
    assert torch.equal(mask, addition.is_train(RECIPE))


def _clock(keys: tuple[int, ...], p: int = 13) -> torch.Tensor:
    """Logits of the known algorithm: the sum over keys of cos(2 pi k (a + b - c) / p)."""
    n = torch.arange(p).double()
    return sum(torch.cos(2 * math.pi * k * (n[:, None, None] + n[None, :, None] - n) / p) for k in keys)  # type: ignore[return-value]


def test_the_key_part_of_a_clock_is_the_whole_clock() -> None:
    clock = _clock((2, 5))
    assert torch.allclose(grokking.key_part(clock, (2, 5)), clock, atol=1e-10)
    assert torch.allclose(grokking.key_part(clock, (2,)), _clock((2,)), atol=1e-10)
    assert grokking.key_part(clock, (3,)).abs().max() < 1e-10


def test_without_its_key_frequencies_a_clock_guesses() -> None:
    clock = 20 * _clock((2, 5))
    assert addition.losses(clock, 13).mean() < 0.1
    assert addition.losses(clock - grokking.key_part(clock, (2, 5)), 13).mean() == pytest.approx(math.log(13))


def test_the_positions_beyond_a_prompt_are_zero_before_and_after_training() -> None:
    before = addition.build_model(RECIPE).transformer.wpe.weight
    after = addition.train(RECIPE, lambda _step, _model: None).transformer.wpe.weight
    assert before.shape == after.shape == (addition.POSITIONS, RECIPE.width)
    assert not bool(before[4:].any())
    assert not bool(after[4:].any())
    assert not torch.equal(before[:4], after[:4])
