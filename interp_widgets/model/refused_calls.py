"""Calls of the user's own that cannot be edited as asked: why, and what to do instead."""

from __future__ import annotations

from typing import Any

import torch

from interp_widgets.model.errors import FeatureOffError

PART = (
    "only a part of the model was called, so it is not known where its tokens stand; call the model itself "
    '(model(input_ids=..., attention_mask=...)), or use positions="all".'
)
CACHE = (
    "the cache was filled outside this applied() block, or copied from one that is gone, so its tokens are not known; fill it inside "
    'the block, or use positions="all".'
)
EMBEDS = "the model was called with inputs_embeds, whose tokens have no text; call it with input_ids, or give positions as numbers."
DRAFTS = (
    "it is not known which tokens are drafts, or a negative prompt; generate without an assistant or a prompt lookup, and with "
    'use_cache=True where there is a negative prompt, or use positions="all".'
)
HOLES = (
    "its values go by position, and attention_mask hides tokens between those of a row; pad on the left, or leave out the tokens "
    "that it hides."
)
SOURCES = (
    "the positions that it attends to are counted from the first column, which attention_mask hides; leave padding out, one prompt per "
    "call."
)


def refuse_call(root: torch.nn.Module) -> None:
    """Refuse a call that the steps would not see, or could not count.

    Raises:
        FeatureOffError: under gradient checkpointing, or inside a transform of torch.func.
    """
    if _transformed():
        raise FeatureOffError(
            "The model was called inside a transform of torch.func (vmap, grad, jacrev), where tokens and norms cannot be read; "
            "use torch.autograd and batches inside applied()."
        )
    checkpointed = root.training and torch.is_grad_enabled()
    if checkpointed and any(getattr(m, "gradient_checkpointing", False) for m in root.modules()):
        raise FeatureOffError(
            "Gradient checkpointing is on: backward() computes the blocks again, after applied() without the interventions, so the "
            "gradients would be wrong. Call model.gradient_checkpointing_disable() or model.eval() first."
        )


def _transformed() -> bool:
    functorch: Any = getattr(torch._C, "_functorch", None)  # noqa: SLF001
    return functorch is not None and functorch.peek_interpreter_stack() is not None
