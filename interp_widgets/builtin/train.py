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

from . import corpus, release, tokenizer
from .families import FAMILIES

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

INDUCTION_MARKER = "List:"
RECORDED = 60
"""How many of the first losses are recorded beside the weights, so that a test can train that far and compare."""
NEW_WEIGHT = 0.02
"""Weight in the loss of random tokens that nothing predicts: enough to learn what a list looks like."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Dropouts act in training only; the saved model has none.

    Lists come first: until `text_from` they are all there is, so that the heads that copy from the context are there
    when the text needs them. Their pool of tokens is small until `induction_hold`, then doubles until it is the whole
    vocabulary. Head and MLP dropout begin with the text.
    """

    layers: int = 4
    width: int = 128
    heads: int = 8
    mlp: int = 128
    positions: int = 128
    steps: int = 3300
    rate: float = 3e-3
    warmup: int = 150
    weight_decay: float = 0.1
    initial_range: float = 0.04
    text_from: int = 900
    text_tokens: int = 1536
    answer_weight: float = 4.0
    induction_tokens: int = 1792
    induction_tokens_later: int = 512
    list_lengths: tuple[int, ...] = (16, 20, 28, 40, 64)
    segment_lengths: tuple[int, ...] = (2, 2, 2, 3, 3, 4)
    segment_spacing: int = 6
    induction_weight: float = 0.5
    induction_pool: int = 128
    induction_hold: int = 700
    induction_doubling: int = 50
    head_dropout: float = 0.0
    mlp_dropout: float = 0.0
    attention_dropout: float = 0.0
    families: tuple[str, ...] = ()  # empty: all of them
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "embedded": Recipe(),
    "embedded:names": Recipe(
        layers=3,
        width=64,
        heads=4,
        mlp=128,
        steps=2600,
        text_from=1000,
        induction_tokens=2048,
        induction_hold=700,
        list_lengths=(64,),
        head_dropout=0.1,
        mlp_dropout=0.2,
        families=("indirect objects", "three names", "surnames", "stories"),
    ),
}


def families_of(recipe: Recipe) -> tuple[corpus.Family, ...]:
    """The text families that a recipe trains on."""
    return tuple(family for family in FAMILIES if not recipe.families or family.name in recipe.families)


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


def _induction(random: Random, pool: list[int], marker: list[int], length: int, recipe: Recipe) -> Row:
    """Random tokens behind a marker, in short segments that come again; what follows within a repeat is the answer.

    Plain repetition (a list, then the same list again) is solved by position alone: accuracy .997 with an induction
    score of .05. Long segments are solved by heads that look any number of tokens back: five and six formed. Segments
    of two to four tokens at random distances leave only the token before to go by.
    """
    count = random.randint(2, max(3, length // recipe.segment_spacing))
    segments = [random.sample(pool, random.choice(recipe.segment_lengths)) for _ in range(count)]
    ids, weights, seen = [0, *marker], [NEW_WEIGHT] * (1 + len(marker)), set[int]()
    while len(ids) < length:
        chosen = random.randrange(len(segments))
        ids += segments[chosen]
        weights += [NEW_WEIGHT] + [1.0 if chosen in seen else NEW_WEIGHT] * (len(segments[chosen]) - 1)
        seen.add(chosen)
    return Row(ids[:length], weights[:length])


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


def text_batches(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Endless batches of text rows of like length, each row one to four documents, starting at position 0."""
    random = Random(recipe.seed + 1)
    families = families_of(recipe)
    while True:
        rows: list[Row] = []
        documents = [corpus.draw(random, families) for _ in range(4000)]
        for row in _encode(tok, documents, recipe.answer_weight):
            joins = rows and random.random() < 0.3 and len(rows[-1].ids) + len(row.ids) < recipe.positions
            rows.append(Row(rows[-1].ids + row.ids, rows.pop().weights + row.weights) if joins else row)
        rows.sort(key=lambda row: len(row.ids) + random.random())
        groups: list[list[Row]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row.ids) > recipe.text_tokens:
                groups.append([])
            groups[-1].append(row)
        random.shuffle(groups)
        yield from groups


def induction_batches(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Endless batches of the induction family. Its tokens come from a pool that doubles until it is the whole vocabulary."""
    random = Random(recipe.seed + 2)
    marker = tok(INDUCTION_MARKER, add_special_tokens=False)["input_ids"]
    order = list(range(1, len(tok)))
    random.shuffle(order)
    step = 0
    while True:
        pool = order[: pool_size(recipe, step)]
        tokens = recipe.induction_tokens if step < recipe.text_from else recipe.induction_tokens_later
        length = random.choice(recipe.list_lengths)
        yield [_induction(random, pool, marker, length, recipe) for _ in range(tokens // length)]
        step += 1


def pool_size(recipe: Recipe, step: int) -> int:
    """How many tokens the lists are drawn from at a step (the vocabulary's end cuts it off)."""
    doublings = (step - recipe.induction_hold) // recipe.induction_doubling + 1 if step >= recipe.induction_hold else 0
    return recipe.induction_pool << min(doublings, 16)


def weighted_loss(model: GPT2LMHeadModel, rows: list[Row]) -> torch.Tensor:
    """Cross entropy of the rows' next tokens, averaged by their weights."""
    import torch
    from torch.nn import functional

    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
    weights = torch.tensor([row.weights + [0.0] * (longest - len(row.weights)) for row in rows])[:, 1:].flatten()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


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

    for block in model.transformer.h:
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
    texts, lists = text_batches(recipe, tok), induction_batches(recipe, tok)
    last = float("nan")
    for step in range(recipe.steps if stop is None else stop):
        watch(step, last, model)
        if step == recipe.text_from:
            _drop_parts(model, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        loss = weighted_loss(model, next(lists))
        if step >= recipe.text_from:
            loss = recipe.induction_weight * loss + weighted_loss(model, next(texts))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = float(loss.detach())
    watch(recipe.steps if stop is None else stop, last, model)
    return model


def save(model: GPT2LMHeadModel, tok: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder that `from_pretrained` opens: weights in half precision, dropout off, tokenizer beside them."""
    import copy

    import torch

    model = copy.deepcopy(model).to(torch.float16)
    model.config.attn_pdrop = 0.0
    model.save_pretrained(str(folder))
    tok.save_pretrained(str(folder))
    release.tidy(folder)


def main() -> None:
    """Command line: train, print the loss and the measured behaviour, write the folder."""
    from . import measure

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
    tok = build_tokenizer(recipe)

    losses: list[float] = []

    def watch(step: int, loss: float, model: GPT2LMHeadModel) -> None:
        losses.append(round(loss, 4))
        if step % given.keep and step != recipe.steps:
            return
        model.eval()
        full = step == recipe.steps or (step > recipe.text_from and step % given.every == 0)
        line = measure.summary(model, tok, families_of(recipe), examples=48 if full else 0)
        model.train()
        print(
            json.dumps({"step": step, "cpu": round(time.process_time() - started), "loss": round(loss, 3), **line}),
            flush=True,
        )
        release.save_checkpoint(model.state_dict(), given.out, step, bits=16)

    save(train(recipe, watch), tok, given.out)
    release.record(given.out, round(time.process_time() - started), losses[1 : RECORDED + 1])
    print(f"Compare with what ships: python -m interp_widgets.builtin.card --compare {given.out} --name {given.name}")


if __name__ == "__main__":
    main()
