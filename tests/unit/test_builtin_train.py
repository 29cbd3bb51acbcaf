"""Training is decided by its seed: its first sixty steps lower the loss as recorded, and nothing of it stays in the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_widgets.builtin import load, release, train


@pytest.mark.parametrize("name", sorted(set(train.RECIPES) & set(load.names())))
def test_sixty_steps_lower_the_loss_as_recorded(name: str) -> None:
    recorded = json.loads((load.folder(name) / "training.json").read_text())["losses"]
    losses: list[float] = []
    train.train(train.RECIPES[name], lambda _step, loss, _model: losses.append(loss), stop=train.RECORDED)
    assert len(recorded) == train.RECORDED
    assert losses[-1] < losses[1] - 2
    assert losses[1:] == pytest.approx(recorded, rel=0.03)


SMALL = train.Recipe(
    layers=1,
    width=32,
    heads=2,
    mlp=32,
    text_from=2,
    text_tokens=256,
    induction_tokens=128,
    induction_tokens_later=128,
    head_dropout=0.2,
    mlp_dropout=0.2,
    steps=4,
    families=("indirect objects",),
)


def _trained(recipe: train.Recipe) -> tuple[Any, list[float]]:
    losses: list[float] = []
    return train.train(recipe, lambda _step, loss, _model: losses.append(loss)), losses[1:]


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not() -> None:
    first, again, other = _trained(SMALL), _trained(SMALL), _trained(replace(SMALL, seed=1))
    assert first[1] == again[1] != other[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), again[0].parameters(), strict=True))


def test_what_training_adds_is_gone_from_the_saved_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = _trained(SMALL)
    tokenizer = train.build_tokenizer(SMALL)
    train.save(model, tokenizer, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in opened.modules())
    assert {opened.config.attn_pdrop, opened.config.resid_pdrop, opened.config.embd_pdrop} == {0.0}
    assert opened.dtype == torch.float32


def test_the_lists_of_the_induction_family_cannot_be_solved_by_position() -> None:
    recipe = replace(train.Recipe(), echoes=0.0)
    tokenizer = train.build_tokenizer(recipe)
    rows = next(train.induction_batches(recipe, tokenizer))
    lags: set[int] = set()
    for row in rows:
        for at in range(4, len(row.ids)):
            if row.weights[at] == 1.0:
                earlier = [j for j in range(3, at) if row.ids[j] == row.ids[at] and row.ids[j - 1] == row.ids[at - 1]]
                assert earlier, "an answer follows a pair that was there before"
                lags.add(at - earlier[-1])
    assert len(lags) > 20


def test_the_lists_end_up_drawing_from_the_whole_vocabulary() -> None:
    recipe = train.Recipe()
    size = len(train.build_tokenizer(recipe))
    assert train.pool_size(recipe, 0) == recipe.induction_pool < size
    assert train.pool_size(recipe, recipe.steps) >= size


def test_a_checkpoint_in_int8_is_within_half_a_step_of_each_row() -> None:
    weights = {"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), "b": torch.randn(30)}
    stored = release.quantised(weights)
    assert stored["w"].dtype == torch.int8
    restored = stored["w"].float() * stored["w.scale"].float()
    half_a_step = weights["w"].abs().amax(1, keepdim=True) / 127
    assert bool(((restored - weights["w"]).abs() <= 0.51 * half_a_step).all())
