"""Train the embedded language model from scratch on one CPU core: ``python -m interp_widgets.builtin.train``."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from . import batches, lessons, movers, release, tokenizer
from .batches import Row
from .recipe import RECIPES, Recipe, families_of, rate_at

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

RECORDED = 60
"""How many of the first losses are recorded beside the weights, so that a test can train that far and compare."""


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer of a recipe's families."""
    return tokenizer.build(families_of(recipe), extra=() if recipe.families else tokenizer.EXTRA_WORDS)


def build_model(recipe: Recipe, vocabulary: int) -> GPT2LMHeadModel:
    """A stock GPT-2 of the recipe's shape, position embeddings started as sinusoids (they are trained like the rest)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_inner=recipe.mlp,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=recipe.initial_range,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config)
    half = recipe.width // 2
    wavelengths = 4.0 * (2.0 * recipe.positions / 4.0) ** (torch.arange(half) / (half - 1))
    angle = 2 * math.pi * torch.arange(recipe.positions)[:, None] / wavelengths
    sinusoid = torch.cat([angle.sin(), angle.cos()], 1) * recipe.embedding_range * math.sqrt(2)
    model.transformer.wpe.weight.data.copy_(sinusoid)
    # Tokens are written in other directions than they are read in, so that copying one does not fight with not repeating it.
    turn = torch.linalg.qr(torch.randn(recipe.width, recipe.width)).Q
    model.lm_head.weight.data = model.transformer.wte.weight.data @ turn
    model.transformer.wte.weight.data *= recipe.embedding_range / recipe.initial_range
    blocks: Any = model.transformer.h
    for block in blocks[recipe.first_blocks :]:
        block.attn.c_proj.weight.data.zero_()
        block.mlp.c_proj.weight.data.zero_()
    return model


def weighted_loss(model: GPT2LMHeadModel, rows: list[Row]) -> torch.Tensor:
    """Cross entropy of the rows' next tokens, averaged by their weights."""
    import torch
    from torch.nn import functional

    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
    weights = torch.tensor([row.weights + [0.0] * (longest - len(row.weights)) for row in rows])[:, 1:].flatten()
    asked = weights > 0
    with torch.autocast("cpu", torch.bfloat16):
        states = model.transformer(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        logits = model.lm_head(states[asked])
    losses = functional.cross_entropy(logits.float(), ids[:, 1:].flatten()[asked], reduction="none")
    return (losses * weights[asked]).sum() / weights[asked].sum()


def train(
    recipe: Recipe, watch: Callable[[int, float, GPT2LMHeadModel], None], *, stop: int | None = None
) -> GPT2LMHeadModel:
    """Train from the recipe's seed; `watch(step, loss, model)` is called before each step and once at the end."""
    import torch

    tok = build_tokenizer(recipe)
    model = build_model(recipe, len(tok))
    model.train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    texts, lists = batches.text_batches(recipe, tok), batches.list_batches(recipe, tok)
    backwards = Random(recipe.seed + 3)
    turn = torch.linalg.qr(torch.randn(recipe.width, recipe.width)).Q
    last = float("nan")
    blocks, lesson = model.transformer.h, lessons.first_lesson(model, recipe)
    course = movers.Course(model, recipe)
    for step in range(recipe.steps if stop is None else stop):
        watch(step, last, model)
        if step == recipe.text_from:
            for handle in lesson:
                handle.remove()
        course.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        # Until the text begins the later blocks change nothing (they write zero), so they need not run.
        model.transformer.h = blocks if step >= recipe.text_from else blocks[: recipe.first_blocks]
        loss = torch.zeros(())
        if step < recipe.look_back:
            share = 1.0 if step < recipe.look_back_alone else recipe.look_back_weight
            loss = loss + share * lessons.look_back_loss(model, recipe, backwards, len(tok), turn)
        if step >= recipe.look_back_alone:
            loss = loss + recipe.list_weight * weighted_loss(model, next(lists))
        if step >= recipe.text_from:
            loss = loss + course.text_loss(next(texts), step, weighted_loss)
        model.transformer.h = blocks
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = float(loss.detach())
    course.close()
    watch(recipe.steps if stop is None else stop, last, model)
    return model


def save(model: GPT2LMHeadModel, tok: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder that `from_pretrained` opens: weights in half precision, tokenizer beside them."""
    import copy

    half: Any = copy.deepcopy(model).half()
    half.save_pretrained(str(folder))
    tok.save_pretrained(str(folder))
    release.tidy(folder)


def main() -> None:
    """Command line: train, print the loss and the measured behaviour, write the folder."""
    from . import measure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="embedded", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("build/retrained"), help="the folder to write")
    parser.add_argument("--every", type=int, default=600, help="measure the families every so many steps")
    given = parser.parse_args()
    recipe = RECIPES[given.name]
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    tok = build_tokenizer(recipe)

    losses: list[float] = []

    def watch(step: int, loss: float, model: GPT2LMHeadModel) -> None:
        losses.append(round(loss, 4))
        if step in release.KEPT[given.name]:
            release.save_checkpoint(model.state_dict(), given.out, step, bits=16)
        if step % 100 and step != recipe.steps:
            return
        model.eval()
        full = step == recipe.steps or (step > recipe.text_from and step % given.every == 0)
        line = measure.summary(model, tok, families_of(recipe), examples=48 if full else 0)
        model.train()
        print(
            json.dumps({"step": step, "cpu": round(time.process_time() - started), "loss": round(loss, 3), **line}),
            flush=True,
        )

    save(train(recipe, watch), tok, given.out)
    release.record(given.out, round(time.process_time() - started), losses[1 : RECORDED + 1])
    print(f"Compare with what ships: python -m interp_widgets.builtin.card --compare {given.out} --name {given.name}")


if __name__ == "__main__":
    main()
