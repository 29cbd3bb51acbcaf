"""How much memory a row of a run takes, so that batches stay within a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from interp_widgets.methods.explained import Explained, gradients
from interp_widgets.model.live import LiveModel

_MARGIN = 1.25  # several rows may be kept together with what one row needs no copy of
MEMORY = 512 << 20  # bytes that the graphs of one batch may hold


@dataclass
class _Saved:
    """What autograd saved, as the model's cache keeps it."""

    size: int
    nbytes: int = 64


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
    if grad:
        return max(1, memory // row_bytes(what))
    # nothing is kept: the widest activation of one layer and the logits
    return max(1, memory // (graph_bytes(what) // max(1, len(what.live.anatomy.layers)) + 1))


def row_bytes(what: Explained) -> int:
    """What one row with its graph may hold, in bytes: the estimate, or what was measured where parts are of other kinds."""
    one = graph_bytes(what)
    return max(one, round(_MARGIN * _saved_bytes(what))) if _has_other_parts(what.live) else one


def _has_other_parts(live: LiveModel) -> bool:
    """Whether a layer holds more than the estimate knows: experts, recurrent mixers, parts that were not found."""
    return any(
        layer.attention is None or layer.others or layer.mlp is None or layer.mlp.neurons is None
        for layer in live.anatomy.layers
    )


def _saved_bytes(what: Explained) -> int:
    """What autograd really saves for one row of such a model, in bytes; measured once for a length."""
    live = what.live
    key = ("bytes that autograd saves", live.fingerprint(), len(what.tokens), len(what.positions))
    kept = live.cache.get(key)
    if isinstance(kept, _Saved):
        return kept.size
    weights = {p.untyped_storage().data_ptr() for p in live.anatomy.root.parameters()}
    held: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        gradients(replace(what, each=None), lambda own: own[None].clone(), 1)
    found = _Saved(sum(held.values()))
    live.cache.put(key, found)
    return found.size
