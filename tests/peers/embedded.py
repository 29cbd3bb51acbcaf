"""The embedded model as each side opens it, and the question that both are asked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from interp_widgets.builtin import load as builtin
from interp_widgets.model.live import LiveModel, open_model

FOLDER = Path(builtin.__file__).parent / "embedded"
PROMPT = "When Mary and John went to the store, John gave a drink to"


@cache
def live() -> LiveModel:
    """Ours, on a module of its own: other libraries get theirs from the same files."""
    module, tokenizer = builtin.load("embedded")
    return open_model(module, tokenizer)


@cache
def theirs() -> tuple[Any, Any]:
    """A second module with the same weights, attention in eager mode as other libraries need it, and the tokenizer."""
    module, tokenizer = builtin.load("embedded")
    module.set_attn_implementation("eager")
    return module, tokenizer


@cache
def ids() -> torch.Tensor:
    """The prompt as the tokenizer gives it, `[1, pos]`."""
    return torch.tensor([live().tokenizer(PROMPT)["input_ids"]])


def heads() -> list[tuple[int, int]]:
    """Every head of the embedded model, as (layer, head)."""
    config = live().module.config
    return [(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
