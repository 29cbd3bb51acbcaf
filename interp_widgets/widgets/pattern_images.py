"""Patterns as small images: lower triangles in 255 steps, blocks of tokens where there are too many, one head exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Json = dict[str, Any]
SIZE = 64  # cells of a thumbnail's side at most
THUMBS = 600_000  # bytes of all thumbnails together
LARGE = 300_000  # bytes of the large pattern; both fit into one message
STEPS = 65_535


def cells_of(tokens: int, heads: int) -> int:
    """The side of a thumbnail: one cell per token, less where there are many tokens or many heads."""
    size = min(tokens, SIZE)
    while size > 1 and heads * size * (size + 1) // 2 > THUMBS:
        size -= 1
    return size


def thumbnails(values: Array, limit: float, *, signed: bool, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Lower triangles `[layer, head, size * (size + 1) / 2]` in 255 steps; with more tokens than cells, the largest of those covered."""
    small = pooled(values, size, signed=signed)
    return steps(small.reshape(*small.shape[:2], -1).take(triangle(small.shape[-1]), axis=-1), limit, signed=signed)


def steps(values: Array, limit: float, *, signed: bool) -> npt.NDArray[np.uint8]:
    """Values in 255 steps: signed ones have their zero at 128; what is not a number is zero."""
    scaled = np.multiply(values, np.float32((127 if signed else 255) / limit))
    if signed:
        np.nan_to_num(scaled, copy=False)
    scaled += np.float32(128.5 if signed else 0.5)
    np.fmin(np.fmax(scaled, 0, out=scaled), 255, out=scaled)
    return scaled.astype(np.uint8)


@cache
def triangle(size: int) -> npt.NDArray[np.intp]:
    """Where a lower triangle's cells are in the flattened square, row by row."""
    rows, columns = np.tril_indices(size)
    return rows * size + columns


def pooled(values: Array, size: int, *, signed: bool = True) -> Array:
    """At most `size` by `size` cells, each the value that is largest (in size, where they are signed) of those that it covers."""
    n = values.shape[-1]
    if n <= size:
        return values
    high = _over_blocks(values, size, np.fmax)
    if not signed:
        return high
    low = _over_blocks(values, size, np.fmin)
    return np.where(high >= -low, high, low)


def _over_blocks(values: Array, size: int, extreme: np.ufunc) -> Array:
    """The extreme of every block: rows first, for they lie together in memory; `reduceat` takes ten times as long."""
    n = values.shape[-1]
    ends = np.arange(size + 1) * n // size
    picks = [np.minimum(ends[:-1] + k, ends[1:] - 1) for k in range(int(np.diff(ends).max()))]
    for axis in (-2, -1):
        out = values.take(picks[0], axis=axis)
        for pick in picks[1:]:
            extreme(out, values.take(pick, axis=axis), out=out)
        values = out
    return values


def large_of(values: Array, layer: int, head: int) -> Json:
    """One head of `values [layer, head, dest, src]`, its lower triangle row by row.

    Exact up to 386 tokens; then in 65,535 steps from `low` to `high`; from 548 tokens in blocks of tokens, the largest of each.
    """
    n = values.shape[-1]
    side = next(size for size in range(n, 0, -1) if size * (size + 1) <= LARGE)
    small = pooled(values[layer : layer + 1, head : head + 1], side)[0, 0]
    lower = np.nan_to_num(small.reshape(-1).take(triangle(side)))
    data: Json = {"layer": layer, "head": head, "size": side}
    if side * (side + 1) * 2 <= LARGE:
        return data | {"values": lower}
    low, high = float(lower.min()), float(lower.max())
    steps_up = np.rint((lower.astype(np.float64) - low) * (STEPS / ((high - low) or 1.0)))
    return data | {"values": steps_up.astype(np.uint16), "low": low, "high": high}
