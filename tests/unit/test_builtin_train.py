"""Training is decided by its seed: its first sixty steps lower the loss as recorded, and nothing of it stays in the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_widgets.builtin import batches, lessons, load, movers, release, train
from interp_widgets.builtin.recipe import RECIPES, Recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_sixty_steps_lower_the_loss_as_recorded(name: str) -> None:
    recorded = json.loads((load.folder(name) / "training.json").read_text())["losses"]
    losses: list[float] = []
    train.train(RECIPES[name], lambda _step, loss, _model: losses.append(loss), stop=train.RECORDED)
    assert len(recorded) == train.RECORDED
    assert losses[1:] == pytest.approx(recorded, rel=0.005)
    assert sum(losses[-10:]) < sum(losses[1:11]) - 0.5


SMALL = Recipe(
    layers=4,
    width=32,
    heads=2,
    mlp=32,
    look_back_alone=1,
    look_back=2,
    look_back_heads=1,
    text_from=3,
    text_tokens=256,
    list_tokens=128,
    list_tokens_later=128,
    steps=6,
    families=("indirect objects",),
)


def _trained(recipe: Recipe) -> tuple[Any, list[float]]:
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
    recipe = Recipe(told_share=0.0)
    rows = next(batches.list_batches(recipe, train.build_tokenizer(recipe)))
    lags: set[int] = set()
    for row in rows:
        for at in range(4, len(row.ids)):
            if row.weights[at] == 1.0:
                earlier = [j for j in range(3, at) if row.ids[j] == row.ids[at] and row.ids[j - 1] == row.ids[at - 1]]
                assert earlier, "an answer follows a pair that was there before"
                lags.add(at - earlier[-1])
    assert len(lags) > 20


def test_a_row_that_tells_what_stood_before_asks_for_the_token_before_the_one_named() -> None:
    recipe = Recipe(told_share=1.0)
    tokenizer = train.build_tokenizer(recipe)
    is_, stop = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" is", "."))
    rows = next(batches.list_batches(recipe, tokenizer))
    asked = [(row.ids, at) for row in rows for at, weight in enumerate(row.weights) if weight]
    assert len(asked) > 100
    for ids, at in asked:
        body = ids[1 : ids.index(stop)]
        assert ids[at - 1] == is_
        assert body[body.index(ids[at - 2]) - 1] == ids[at]


def test_the_lists_draw_from_the_whole_vocabulary() -> None:
    recipe = Recipe()
    tokenizer = train.build_tokenizer(recipe)
    stream = batches.list_batches(recipe, tokenizer)
    drawn = {i for _ in range(60) for row in next(stream) for i in row.ids}
    assert len(drawn) > 0.9 * len(tokenizer)


def test_the_later_blocks_write_nothing_before_the_text_begins() -> None:
    model = train.build_model(SMALL, 400)
    ids = torch.randint(1, 400, (2, 20), generator=torch.Generator().manual_seed(0))
    whole = model(ids).logits
    blocks = model.transformer.h
    model.transformer.h = blocks[: SMALL.first_blocks]
    assert torch.equal(whole, model(ids).logits)


@pytest.mark.parametrize(("block", "changed"), [(1, [False, True, False]), (2, [True, False, True])])
def test_in_the_first_lesson_a_block_sees_what_was_before_in_some_of_queries_keys_and_values_alone(
    block: int, changed: list[bool]
) -> None:
    model = train.build_model(SMALL, 400)
    ids = torch.randint(1, 400, (1, 20), generator=torch.Generator().manual_seed(0))
    blocks: Any = model.transformer.h
    first, watched = blocks[0], blocks[block]
    seen: list[torch.Tensor] = []
    handles = lessons.first_lesson(model, SMALL)
    handles.append(watched.attn.c_attn.register_forward_hook(lambda _m, _a, out: seen.append(out)))
    model(ids)
    first.attn.c_proj.weight.data.mul_(3.0)
    model(ids)
    for handle in handles:
        handle.remove()
    before, after = (x.split(SMALL.width, -1) for x in seen)
    assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == changed
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


MOVERS = replace(
    SMALL,
    first_blocks=2,
    movers=(2, 3),
    subject_until=4,
    dropped_from=4,
    movers_until=5,
    heads_dropped=0.3,
    block_dropped=0.5,
    surprise=0.5,
    families=("indirect objects", "three names", "stories"),
)


def _moving() -> tuple[Any, torch.Tensor]:
    """A small model whose blocks all write something, in training, and some tokens."""
    model: Any = train.build_model(MOVERS, 400).train()
    generator = torch.Generator().manual_seed(3)
    for block in model.transformer.h:
        weight = block.attn.c_proj.weight.data
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model, torch.randint(1, 400, (64, 12), generator=generator)


@pytest.mark.parametrize(
    ("block", "changed"), [(1, [False, True, False]), (2, [True, False, False]), (3, [True, False, False])]
)
def test_in_their_lesson_keys_and_values_of_the_movers_see_tokens_alone(block: int, changed: list[bool]) -> None:
    model, ids = _moving()
    seen: list[torch.Tensor] = []
    lesson = movers.MoversLesson(model, MOVERS)
    watching = model.transformer.h[block].attn.c_attn.register_forward_hook(lambda _m, _a, out: seen.append(out))
    model(ids)
    model.transformer.h[0].attn.c_proj.weight.data.mul_(3.0)
    model(ids)
    watching.remove()
    before, after = (x.split(MOVERS.width, -1) for x in seen)
    assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == changed
    lesson.end()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_lesson_of_the_movers_is_let_go_little_by_little() -> None:
    model, ids = _moving()
    free = model(ids).logits
    lesson = movers.MoversLesson(model, MOVERS)
    held = model(ids).logits
    lesson.hold = 0.02
    nearly = model(ids).logits
    lesson.end()
    assert (nearly - free).abs().max() < 0.2 * (held - free).abs().max()
    assert torch.equal(model(ids).logits, free)


def test_while_text_is_read_what_the_block_before_the_movers_writes_is_left_out_of_the_logits() -> None:
    model, ids = _moving()
    lesson = movers.MoversLesson(model, MOVERS)
    for block in model.transformer.h[2:]:
        block.attn.c_proj.weight.data.zero_()  # the movers would also show it, by where they look

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        plain = model(ids).logits
        with lesson.reading():
            return plain, model(ids).logits

    plain, read = logits()
    model.transformer.h[1].attn.c_proj.weight.data.mul_(3.0)
    changed, same = logits()
    assert not torch.allclose(plain, changed, atol=1e-3)
    assert torch.allclose(read, same, atol=1e-4)
    lesson.end()


def test_heads_of_the_movers_are_dropped_by_row_in_training_only() -> None:
    model, ids = _moving()
    plain = model(ids).logits[:, -1]
    handles = movers.drop_heads(model, MOVERS)
    again = model(ids).logits[:, -1]
    untouched = (plain - again).abs().amax(-1) == 0
    kept = (1 - MOVERS.heads_dropped) ** (2 * MOVERS.heads) * (1 - MOVERS.block_dropped)
    assert 0 < int(untouched.sum()) < 3 * kept * len(ids)
    assert torch.equal(model.eval()(ids).logits[:, -1], plain)
    for handle in handles:
        handle.remove()


def test_before_an_answer_stands_whom_it_is_not_also_where_the_answer_surprises() -> None:
    tokenizer = train.build_tokenizer(MOVERS)
    stream = batches.text_batches(MOVERS, tokenizer)
    rows = [row for _ in range(200) for row in next(stream)]
    asked = [(row, at, others) for row in rows for at, others in row.others]
    assert len(asked) > 500
    surprises = 0
    for row, at, others in asked:
        assert row.weights[at + 1] == MOVERS.answer_weight
        before = str(tokenizer.decode(row.ids[:at]))
        assert all(str(tokenizer.decode([other])).strip() in before for other in others)
        surprises += row.ids[at + 1] in others
    assert 0.4 < surprises / len(asked) < 0.6


def test_a_recipe_without_surprises_asks_for_no_foil() -> None:
    recipe = replace(MOVERS, surprise=0.0)
    stream = batches.text_batches(recipe, train.build_tokenizer(recipe))
    rows = [row for _ in range(50) for row in next(stream)]
    assert not any(row.ids[at + 1] in others for row in rows for at, others in row.others)


def test_a_recipe_with_movers_leaves_no_hook_on_the_model() -> None:
    model, losses = _trained(replace(MOVERS, steps=8))
    assert len(losses) == 8
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_checkpoint_in_int8_is_within_half_a_step_of_each_row() -> None:
    weights = {"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), "b": torch.randn(30)}
    stored = release.quantised(weights)
    assert stored["w"].dtype == torch.int8
    restored = stored["w"].float() * stored["w.scale"].float()
    half_a_step = weights["w"].abs().amax(1, keepdim=True) / 127
    assert bool(((restored - weights["w"]).abs() <= 0.51 * half_a_step).all())
