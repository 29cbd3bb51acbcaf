"""Train the model that groks modular addition: ``python -m interp_widgets.builtin.addition``.

A one-layer GPT-2 on prompts `a+b=`, after Nanda et al. 2023 (progress measures for grokking). Stock GPT-2 always has
layer norms; with an epsilon of 1e8 and gains of 1e4, `gain * (x - mean) / sqrt(variance + epsilon)` is `x - mean` to
within a variance in 2e8, so these norms only centre, which is linear: the model has no norms, and any library opens it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

EPSILON, GAIN = 1e8, 1e4
POSITIONS = 16
"""A prompt has four tokens. The positions beyond stay zero: they are there for the checks on attach, which run longer prompts."""


@dataclass(frozen=True)
class AdditionRecipe:
    """Everything that decides the weights."""

    p: int = 59
    width: int = 128
    heads: int = 4
    mlp: int = 512
    share: float = 0.4
    steps: int = 6000
    rate: float = 1e-3
    weight_decay: float = 1.0
    seed: int = 0


def build_tokenizer(p: int) -> PreTrainedTokenizerFast:
    """One token for each number below p, `+` and `=`; no BOS: a prompt is four tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {str(n): n for n in range(p)} | {"+": p, "=": p + 1, "<unk>": p + 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|."), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=POSITIONS, clean_up_tokenization_spaces=False
    )


def build_model(recipe: AdditionRecipe) -> GPT2LMHeadModel:
    """A stock GPT-2 of one layer whose layer norms only centre."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=recipe.p + 3,
        n_positions=4,
        n_embd=recipe.width,
        n_layer=1,
        n_head=recipe.heads,
        n_inner=recipe.mlp,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=EPSILON,
        initializer_range=1 / math.sqrt(recipe.width),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    _add_positions(model)
    block: Any = model.transformer.h[0]
    for norm in (block.ln_1, block.ln_2, model.transformer.ln_f):
        norm.weight.data.fill_(GAIN)
        norm.requires_grad_(False)
    return model


def _add_positions(model: GPT2LMHeadModel) -> None:
    """Let the model take `POSITIONS` tokens; the new positions are zero, and training never reaches them."""
    import torch

    read = model.transformer.wpe.weight.detach()
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(
        torch.nn.functional.pad(read, (0, 0, 0, POSITIONS - len(read))), freeze=False
    )
    model.config.n_positions = POSITIONS


def all_logits(model: GPT2LMHeadModel, p: int) -> torch.Tensor:
    """Logits at `=` for every pair, `[a, b, c]`: what the model computes, from the 2p + 2 distinct rows that exist.

    Only `=` is read and there is one layer, so keys and values depend on (token, position) alone.
    """
    import torch

    transformer: Any = model.transformer
    block: Any = transformer.h[0]
    heads, width = model.config.n_head, model.config.n_embd
    numbers = torch.arange(p)
    tokens = torch.cat([numbers, torch.tensor([p]), numbers, torch.tensor([p + 1])])
    places = torch.tensor([0] * p + [1] + [2] * p + [3])
    rows = transformer.wte(tokens) + transformer.wpe(places)
    q, k, v = block.attn.c_attn(_centred(rows)).split(width, -1)
    k, v = (x.unflatten(-1, (heads, -1)) for x in (k, v))  # [row, head, d_head]
    scores = torch.einsum("hd,rhd->hr", q[-1].unflatten(-1, (heads, -1)), k) / math.sqrt(width // heads)
    # [head, a, b, source]: the four sources of a pair are a at 0, + at 1, b at 2 and = at 3.
    grid = torch.stack(
        [
            scores[:, :p, None].expand(-1, p, p),
            scores[:, p, None, None].expand(-1, p, p),
            scores[:, None, p + 1 : -1].expand(-1, p, p),
            scores[:, -1, None, None].expand(-1, p, p),
        ],
        -1,
    ).softmax(-1)
    z = (
        grid[..., 0].permute(1, 2, 0)[..., None] * v[:p, None]
        + grid[..., 1].permute(1, 2, 0)[..., None] * v[p]
        + grid[..., 2].permute(1, 2, 0)[..., None] * v[None, p + 1 : -1]
        + grid[..., 3].permute(1, 2, 0)[..., None] * v[-1]
    )
    resid = rows[-1] + block.attn.c_proj(z.flatten(-2))
    resid = resid + block.mlp(_centred(resid))
    return model.lm_head(_centred(resid))


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


def is_train(recipe: AdditionRecipe) -> torch.Tensor:
    """Which pairs are trained on, `[a, b]` of bool; the others are the test set."""
    import torch

    order = torch.randperm(recipe.p**2, generator=torch.Generator().manual_seed(recipe.seed))
    mask = torch.zeros(recipe.p**2, dtype=torch.bool)
    mask[order[: round(recipe.share * recipe.p**2)]] = True
    return mask.view(recipe.p, recipe.p)


def losses(logits: torch.Tensor, p: int) -> torch.Tensor:
    """Cross entropy of each pair in double precision, `[a, b]`."""
    import torch

    answers = (torch.arange(p)[:, None] + torch.arange(p)) % p
    return -logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0]


def train(recipe: AdditionRecipe, watch: Callable[[int, GPT2LMHeadModel], None]) -> GPT2LMHeadModel:
    """Full-batch AdamW from the recipe's seed; `watch(step, model)` before each step and at the end."""
    import torch

    model = build_model(recipe)
    mask = is_train(recipe)
    parameters = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    for step in range(recipe.steps):
        watch(step, model)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, (step + 1) / 10)
        loss = losses(all_logits(model, recipe.p), recipe.p)[mask].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    watch(recipe.steps, model)
    return model


def main() -> None:
    """Command line: train, keep the checkpoints, write the folder."""
    import torch

    from . import release

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/retrained"), help="the folder to write")
    parser.add_argument("--steps", type=int, default=AdditionRecipe.steps)
    parser.add_argument("--width", type=int, default=AdditionRecipe.width)
    parser.add_argument("--seed", type=int, default=AdditionRecipe.seed)
    given = parser.parse_args()
    recipe = AdditionRecipe(steps=given.steps, width=given.width, mlp=4 * given.width, seed=given.seed)
    torch.set_num_threads(1)
    started = time.process_time()

    def watch(step: int, model: GPT2LMHeadModel) -> None:
        if step in release.KEPT["embedded:addition"]:
            release.save_checkpoint(model.state_dict(), given.out, step, bits=16)
        if step % 500 == 0 or step == recipe.steps:
            from . import grokking

            keys = grokking.key_frequencies(model, recipe.p)
            seconds = round(time.process_time() - started)
            print(
                json.dumps(
                    {"step": step, "cpu": seconds, "keys": keys, **vars(grokking.progress(model, recipe, keys))}
                ),
                flush=True,
            )

    save(train(recipe, watch), recipe, given.out)
    release.record(given.out, round(time.process_time() - started), [])


def save(model: GPT2LMHeadModel, recipe: AdditionRecipe, folder: Path) -> None:
    """Write the folder that `from_pretrained` opens, in half precision."""
    import copy

    from . import release

    half: Any = copy.deepcopy(model).half()
    half.save_pretrained(str(folder))
    build_tokenizer(recipe.p).save_pretrained(str(folder))
    release.tidy(folder)


if __name__ == "__main__":
    main()
