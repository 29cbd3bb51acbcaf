"""In which order, and how many at a time, the rows of a sweep are computed; memory that runs out halves a chunk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from interp_widgets.model import sweep
from interp_widgets.model.errors import InterpError
from interp_widgets.model.rows import Base, Cancelled

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Unit = TypeVar("Unit")
CPU_BYTES = 512 << 20
TOGETHER = 256  # tokens that fill a matrix product: more rows beside each other gain little from there on
FLOPS = 2e9  # of one block's call that any processor does while nobody notices


def run_units(
    live: LiveModel,
    base: Base,
    units: Sequence[Unit],
    births: Callable[[Sequence[Unit]], Sequence[sweep.Birth]],
    cancelled: Cancelled | None = None,
) -> torch.Tensor:
    """`run_rows` of `units`, halved until they fit when memory runs out.

    Args:
        births: the births of a run of units, one row for each, in their order (sorted by layer).

    Raises:
        InterpError: when not even one row fits.
    """
    return halved(live, base, units, lambda part: sweep.run_rows(live, base, births(part), cancelled))


def halved(
    live: LiveModel, base: Base, units: Sequence[Unit], run: Callable[[Sequence[Unit]], torch.Tensor]
) -> torch.Tensor:
    """`run(units)`, in halves of halves when memory runs out.

    Raises:
        InterpError: when not even one row fits.
    """
    try:
        return run(units)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(units) == 1:
            raise InterpError(
                f"There is not enough memory on {live.device} for one more row of {len(base.asked.tokens)} tokens; "
                "shorten the prompt, or free memory."
            ) from error
    # Out here the failed pass and its tensors are gone.
    if live.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(units) // 2
    return torch.cat([halved(live, base, part, run) for part in (units[:half], units[half:])])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a run failed for want of memory, on a GPU or elsewhere."""
    return (
        isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
    )


def chunked(
    units: Sequence[Unit], layer_of: Callable[[Unit], int], limit: int, layers: int = 3, first: Unit | None = None
) -> list[list[Unit]]:
    """Units in the order in which they are computed: `first` alone, then from the last layer down, in chunks.

    The first chunk is one layer, the second two, and so on up to `layers`; none has more than `limit` rows.
    """
    chunks: list[list[Unit]] = [[first]] if first is not None and first in units else []
    rest = sorted((u for u in units if not (chunks and u == first)), key=layer_of)
    levels = sorted({layer_of(u) for u in rest}, reverse=True)
    size = 1
    while levels:
        now, levels = set(levels[:size]), levels[size:]
        size = min(size + 1 if layers <= 3 else 2 * size, layers)
        chunk = [u for u in rest if layer_of(u) in now]
        pieces = -(-len(chunk) // limit)
        step = -(-len(chunk) // pieces)
        chunks += [chunk[i : i + step] for i in reversed(range(0, len(chunk), step))]
    return chunks


def layers_at_once(live: LiveModel, elsewhere: int = 3) -> int:
    """How many layers' rows go together: on a GPU calls cost more than rows, so chunks double; elsewhere a few."""
    return len(live.anatomy.layers) if live.device.type == "cuda" else elsewhere


def row_limit(live: LiveModel, base: Base) -> int:
    """How many rows fit the memory budget beside each other, and do not keep a click waiting."""
    return min(_fitting(live, base), patient(live, len(base.asked.tokens)))


def patient(live: LiveModel, length: int, together: int = TOGETHER) -> int:
    """How many rows of `length` tokens one block may be called with: a click waits for what its pass is in the middle of.

    As many as fill its matrix products, or take next to no time, or half as long as a whole forward of one row. A GPU is
    never in the middle of anything for long.
    """
    if live.device.type == "cuda":
        return sys.maxsize
    layers = live.anatomy.layers
    weights = max((sum(p.numel() for p in layer.module.parameters()) for layer in layers), default=0)
    return max(1, len(layers) // 2, together // length, int(FLOPS / (2 * max(1, weights) * length)))


def _fitting(live: LiveModel, base: Base) -> int:
    a = live.anatomy
    length = len(base.asked.tokens)
    neurons = max([m.d_neurons for layer in a.layers if (m := layer.mlp) is not None] + [4 * a.d_model])
    heads = max([t.n_heads for layer in a.layers if (t := layer.attention) is not None] + [1])
    size = max(4, torch.finfo(live.dtype).bits // 8 if live.dtype.is_floating_point else 4)
    per_row = length * size * (10 * a.d_model + 4 * neurons + 3 * heads * length)
    return max(1, budget(live.device) // per_row)


def budget(device: torch.device) -> int:
    """Bytes that a sweep may use: half of what is free on a GPU, a fixed amount elsewhere."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) // 2
    return CPU_BYTES
