"""How much memory a row of a run takes, so that batches stay within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from interp_widgets.methods.explained import Explained

MEMORY = 512 << 20  # bytes that the graphs of one batch may hold


def graph_bytes(what: Explained) -> int:
    """An upper estimate of what one row's graph holds, in bytes; a test holds it against what autograd really saves."""
    anatomy = what.live.anatomy
    n, width = (
        len(what.tokens),
        max(torch.finfo(what.live.dtype).bits // 8 if what.live.dtype.is_floating_point else 4, 2),
    )
    per_layer = 0
    for layer in anatomy.layers:
        neurons = layer.mlp.d_neurons if layer.mlp is not None else 4 * anatomy.d_model
        heads = layer.attention.n_heads if layer.attention is not None else 0
        d_z = heads * layer.attention.d_head if layer.attention is not None else anatomy.d_model
        per_layer += n * (14 * anatomy.d_model + 10 * neurons + 8 * d_z) * max(width, 4) + 4 * heads * n * n * max(
            width, 4
        )
    read = 1 if what.each is not None else len(what.positions)
    logits = ((len(what.positions) if what.live.caller.keeps else n) + 2 * read) * anatomy.vocab * 4
    return per_layer + logits


def chunk_rows(what: Explained, memory: int, grad: bool) -> int:
    """How many rows one batch takes within `memory` bytes, at least one."""
    one = graph_bytes(what)
    if not grad:  # nothing is kept: the widest activation of one layer and the logits
        one = one // max(1, len(what.live.anatomy.layers)) + 1
    return max(1, memory // one)
