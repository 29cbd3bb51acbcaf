"""Train the embedded language model from scratch on one CPU core: ``python -m interp_widgets.builtin.train``."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from . import corpus, measure, release, tokenizer
from .families import FAMILIES

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

INDUCTION_MARKER = "List:"
RECORDED = 60
"""How many of the first losses are recorded beside the weights, so that a test can train that far and compare."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. `dropout_*` act in training only; the saved model has none."""

    layers: int = 4
    width: int = 128
    heads: int = 8
    mlp: int = 128
    positions: int = 128
    steps: int = 3300
    batch_tokens: int = 2048
    rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.1
    initial_range: float = 0.04
    answer_weight: float = 4.0
    induction_share: float = 0.14
    head_dropout: float = 0.0
    mlp_dropout: float = 0.0
    attention_dropout: float = 0.0
    seed: int = 0


RECIPES: dict[str, Recipe] = {"embedded": Recipe()}


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
        attn_pdrop=recipe.attention_dropout,
        initializer_range=recipe.initial_range,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config)
    half = recipe.width // 2
    wavelengths = 4.0 * (2.0 * recipe.positions / 4.0) ** (torch.arange(half) / (half - 1))
    angle = 2 * math.pi * torch.arange(recipe.positions)[:, None] / wavelengths
    sinusoid = torch.cat([angle.sin(), angle.cos()], 1) * recipe.initial_range * math.sqrt(2)
    model.transformer.wpe.weight.data.copy_(sinusoid)
    return model


@dataclass(frozen=True)
class Row:
    """One row of a batch: token ids and the weight of each in the loss (its own, as a target)."""

    ids: list[int]
    weights: list[float]


def _induction(random: Random, vocabulary: int, marker: list[int]) -> Row:
    """Random tokens of the whole vocabulary behind a marker, repeated; the second time round they are the answers."""
    length = random.randrange(4, 40)
    sequence = random.sample(range(1, vocabulary), length)
    repeats = random.choice((1, 1, 1, 2)) if length < 20 else 1
    again = sequence * repeats
    cut = random.randrange(length // 2, len(again) + 1)
    ids = [0, *marker, *sequence, *again[:cut]]
    return Row(ids, [0.3] * (1 + len(marker) + length) + [1.0] * cut)


def _encode(tok: PreTrainedTokenizerFast, documents: list[corpus.Document], answer_weight: float) -> Iterator[Row]:
    pieces = tok.backend_tokenizer.encode_batch([p for d in documents for p in d.pieces], add_special_tokens=False)
    index = 0
    for document in documents:
        ids, weights = [0], [1.0]
        for number in range(len(document.pieces)):
            encoded = pieces[index].ids
            ids += encoded
            weights += [answer_weight if number % 2 else 1.0] * len(encoded)
            index += 1
        yield Row(ids, weights)


def batches(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (ids, weights) of rows of like length, each row one to four documents, starting at position 0."""
    import torch

    random = Random(recipe.seed + 1)
    marker = tok(INDUCTION_MARKER, add_special_tokens=False)["input_ids"]
    vocabulary = len(tok)
    while True:
        rows: list[Row] = []
        documents = [corpus.draw(random, FAMILIES) for _ in range(4000)]
        for row in _encode(tok, documents, recipe.answer_weight):
            joins = rows and random.random() < 0.3 and len(rows[-1].ids) + len(row.ids) < recipe.positions
            rows.append(Row(rows[-1].ids + row.ids, rows.pop().weights + row.weights) if joins else row)
        share = recipe.induction_share / (1 - recipe.induction_share)
        rows += [_induction(random, vocabulary, marker) for _ in range(int(len(rows) * share))]
        rows.sort(key=lambda row: len(row.ids) + random.random())
        groups: list[list[Row]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row.ids) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        random.shuffle(groups)
        for group in groups:
            longest = max(len(row.ids) for row in group)
            ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in group])
            weights = torch.tensor([row.weights + [0.0] * (longest - len(row.weights)) for row in group])
            yield ids, weights


def _drop_parts(model: GPT2LMHeadModel, recipe: Recipe) -> None:
    """Training-only hooks that drop whole heads and whole MLP outputs of a row, rescaled, as dropout does."""
    import torch

    def heads(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0]
        keep = (torch.rand(z.shape[0], 1, recipe.heads, 1) >= recipe.head_dropout).to(z.dtype) / (
            1 - recipe.head_dropout
        )
        return ((z.unflatten(-1, (recipe.heads, -1)) * keep).flatten(-2), *args[1:])

    def mlp(_module: Any, _args: Any, out: Any) -> Any:
        return out * ((torch.rand(out.shape[0], 1, 1) >= recipe.mlp_dropout).to(out.dtype) / (1 - recipe.mlp_dropout))

    blocks: Any = model.transformer.h
    for block in blocks:
        if recipe.head_dropout:
            block.attn.c_proj.register_forward_pre_hook(heads)
        if recipe.mlp_dropout:
            block.mlp.register_forward_hook(mlp)


def rate_at(recipe: Recipe, step: int) -> float:
    """Learning rate: linear warm-up, then cosine to 5 %."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    recipe: Recipe, watch: Callable[[int, float, GPT2LMHeadModel], None], *, stop: int | None = None
) -> GPT2LMHeadModel:
    """Train from the recipe's seed; `watch(step, loss, model)` is called before each step and once at the end."""
    import torch
    from torch.nn import functional

    tok = tokenizer.build()
    model = build_model(recipe, len(tok))
    _drop_parts(model, recipe)
    model.train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    stream = batches(recipe, tok)
    last = float("nan")
    for step in range(recipe.steps if stop is None else stop):
        watch(step, last, model)
        ids, weights = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        targets, weight = ids[:, 1:], weights[:, 1:]
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * weight.flatten()).sum() / weight.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = float(loss.detach())
    watch(recipe.steps if stop is None else stop, last, model)
    return model


def save(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write the folder that `from_pretrained` opens: weights in half precision, dropout off, tokenizer beside them."""
    import copy

    model = copy.deepcopy(model).half()
    model.config.attn_pdrop = 0.0
    model.save_pretrained(str(folder))
    tokenizer.build().save_pretrained(str(folder))
    release.tidy(folder)


def main() -> None:
    """Command line: train, print the loss and the measured behaviour, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="embedded", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("build/retrained"), help="the folder to write")
    parser.add_argument("--every", type=int, default=600, help="measure the families every so many steps")
    parser.add_argument("--keep", type=int, default=100, help="keep the weights every so many steps")
    given = parser.parse_args()
    recipe = RECIPES[given.name]
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    tok = tokenizer.build()
    losses: list[float] = []

    def watch(step: int, loss: float, model: GPT2LMHeadModel) -> None:
        losses.append(round(loss, 4))
        if step % given.keep and step != recipe.steps:
            return
        model.eval()
        full = step == recipe.steps or step % given.every == 0
        line = measure.summary(model, tok, examples=48 if full else 0)
        model.train()
        seconds = round(time.process_time() - started)
        print(json.dumps({"step": step, "cpu": seconds, "loss": round(loss, 3), **line}), flush=True)
        release.save_checkpoint(model.state_dict(), given.out, step, bits=16)

    save(train(recipe, watch), given.out)
    release.record(given.out, round(time.process_time() - started), losses[1 : RECORDED + 1])
    print(f"Compare with what ships: python -m interp_widgets.builtin.card --compare {given.out} --name {given.name}")


if __name__ == "__main__":
    main()
