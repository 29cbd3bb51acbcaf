"""The first lessons of a training: to look back one token, and to find what followed a token, or stood before it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from .recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle
    from transformers import GPT2LMHeadModel


def look_back_loss(
    model: GPT2LMHeadModel, recipe: Recipe, random: Random, vocabulary: int, turn: torch.Tensor
) -> torch.Tensor:
    """Cross entropy of naming the token before, read off after the first block through a fixed rotation.

    The rotation keeps what was before apart from what is here: read off in the token's own directions, the two mix.
    """
    import torch
    from torch.nn import functional

    rows = recipe.look_back_tokens // recipe.positions
    ids = torch.tensor([[random.randrange(1, vocabulary) for _ in range(recipe.positions)] for _ in range(rows)])
    unseen = torch.full((recipe.positions, recipe.positions), -torch.inf).triu(1)
    with torch.autocast("cpu", torch.bfloat16):
        x = model.transformer.wte(ids) + model.transformer.wpe.weight
        x = model.transformer.h[0](x, attention_mask=unseen)[:, 1:]
        logits = model.lm_head(model.transformer.ln_f(x) @ turn) * recipe.look_back_scale
    return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, :-1].flatten())


def first_lesson(model: GPT2LMHeadModel, recipe: Recipe) -> list[RemovableHandle]:
    """Hooks for the time when lists are all there is: which head may look where, until the handles are removed.

    Of the first block only the look-back heads are open. The second block's queries and values see tokens alone, its keys
    also what the first block wrote: it finds what followed. The third block's keys see tokens alone, its queries and
    values also what the first block wrote: it finds what stood before. Left free, these shapes learn the first task with
    keys three tokens back, read one token late (it works, but no head attends where induction heads are known to), and
    the second not at all.
    """
    import torch
    from torch.nn import functional

    blocks: Any = model.transformer.h
    first, second, third = blocks[0], blocks[1], blocks[2]
    open_, d = recipe.look_back_heads * recipe.width // recipe.heads, recipe.width
    tokens: list[torch.Tensor] = []
    looked_back: list[torch.Tensor] = []

    def keep(_module: Any, args: tuple[Any, ...]) -> None:
        tokens[:] = [args[0]]

    def close(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (functional.pad(args[0][..., :open_], (0, d - open_)), *args[1:])

    def see(module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        q, _, v = module.forward(second.ln_1(tokens[0])).split(d, -1)
        return torch.cat([q, out[..., d : 2 * d], v], -1)

    def keep_after(_module: Any, _args: Any, out: Any) -> None:
        looked_back[:] = [out[0] if isinstance(out, tuple) else out]

    def see_before(module: Any, _args: Any, _out: torch.Tensor) -> torch.Tensor:
        q, _, v = module.forward(third.ln_1(looked_back[0])).split(d, -1)
        k = module.forward(third.ln_1(tokens[0]))[..., d : 2 * d]
        return torch.cat([q, k, v], -1)

    return [
        first.register_forward_pre_hook(keep),
        first.register_forward_hook(keep_after),
        first.attn.c_proj.register_forward_pre_hook(close),
        second.attn.c_attn.register_forward_hook(see),
        third.attn.c_attn.register_forward_hook(see_before),
    ]
