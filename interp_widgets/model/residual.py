"""Which module outputs, with which factors, add up to what a block adds to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

TOLERANCE = 1.0  # rounding steps of the model's dtype that an identity may be off by, root mean square


@dataclass(frozen=True)
class Fit:
    """`out = carry * start + sum(scales[i] * parts[i])`, off by `error` relative to the stream."""

    parts: tuple[int, ...]
    scales: tuple[float, ...]
    carry: float
    error: float


def wide(tensor: Tensor) -> Tensor:
    """In float64: identities are judged there."""
    return tensor.to(torch.float64)


def rounding(dtype: torch.dtype) -> float:
    """One rounding step of `dtype`, relative; of float64 that of float32, in which models cast here and there, and we read."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two recorded tensors are one value."""
    return a is not None and b is not None and a.shape == b.shape and bool(torch.equal(a, b))


def factor(a: Tensor, b: Tensor) -> float | None:
    """The `k` for which `a = k * b` up to rounding, or None; 1.0 when both are zero."""
    if a.shape != b.shape:
        return None
    x, y = wide(a).flatten(), wide(b).flatten()
    size = float(y @ y)
    if size == 0.0:
        return 1.0 if float(x.abs().max()) == 0.0 else None
    k = float(x @ y) / size
    if k == 0.0:
        return None
    limit = 4 * max(rounding(a.dtype), rounding(b.dtype))
    return snap(k, (), limit * abs(k)) if float((x - k * y).norm()) <= limit * float(x.norm()) else None


def snap(value: float, known: Sequence[float], limit: float) -> float:
    """`value`, or what it is up to `limit`: 1, else the nearest number of the configuration, else a short decimal."""
    for candidates in ((1.0, -1.0), known, (round(value, 4),)):
        near = [c for c in candidates if c and abs(value - c) <= limit + 1e-12]
        if near:
            return float(min(near, key=lambda c: abs(value - c)))
    return value


class Sums:
    """The search for sums: `out` against `start` and the candidate `parts`, all `[batch, pos, d_model]`."""

    def __init__(self, start: Tensor, out: Tensor, parts: Sequence[Tensor], known: Sequence[float] = ()) -> None:
        self.eps = rounding(out.dtype)
        self.known = known
        self.start, self.out = wide(start).flatten(), wide(out).flatten()
        self.parts = [wide(p).flatten() for p in parts]
        self.size = float(self.start.norm() + self.out.norm()) or 1.0
        floor = 1e-2 * self.size / len(self.out) ** 0.5
        weight = 1.0 / (self.eps * (self.start.abs() + self.out.abs() + floor))
        rows = torch.stack([self.start, *self.parts, self.out]) * weight
        self.gram = rows @ rows.T
        self.norms = [float(self.gram[i + 1, i + 1]) ** 0.5 for i in range(len(self.parts))]

    def fit(self, parts: tuple[int, ...], carried: bool = False) -> Fit | None:
        """The least-squares factors of `parts`, or None when they do not make up `out`."""
        live = [i for i in parts if self.norms[i] > 0]
        columns = ([0] if carried else []) + [i + 1 for i in live]
        target = len(self.parts) + 1
        right = self.gram[columns, target] - (0 if carried else self.gram[columns, 0])
        solved = self._solve(columns, right)
        if solved is None:
            return None
        values = [
            snap(float(v), self.known, 5 * float(doubt) + self.eps * abs(float(v)))
            for v, doubt in zip(*solved, strict=True)
        ]
        carry = values.pop(0) if carried else 1.0
        scales = dict(zip(live, values, strict=True))
        if abs(carry) * float(self.gram[0, 0]) ** 0.5 < 4 * len(self.out) ** 0.5:
            return None  # nothing of the stream goes on
        if any(abs(s) * self.norms[i] < 4 * len(self.out) ** 0.5 for i, s in scales.items()):
            return None  # a factor of nothing: the part is not needed
        if self._far_off(columns, carry, [*([carry] if carried else []), *scales.values()]):
            return None
        return self._judge(parts, tuple(scales.get(i, 1.0) for i in parts), carry)

    def _solve(self, columns: list[int], right: Tensor) -> tuple[Tensor, Tensor] | None:
        """The factors and their standard errors; None when the columns depend on each other."""
        if not columns:
            return right, right  # as empty as the columns
        square = self.gram[columns][:, columns]
        scale = square.diagonal().sqrt()
        normed = square / scale[:, None] / scale[None, :]
        if float(torch.linalg.eigvalsh(normed)[0]) < 1e-9:
            return None
        inverse = torch.linalg.inv(normed)
        return inverse @ (right / scale) / scale, inverse.diagonal().sqrt() / scale

    def _far_off(self, columns: list[int], carry: float, values: list[float]) -> bool:
        """Whether the weighted rest is far above rounding, seen from the products alone: spares most tries a full pass."""
        target = len(self.parts) + 1
        with_start = columns if columns[:1] == [0] else [0, *columns]
        numbers = [*(values if columns[:1] == [0] else [carry, *values]), -1.0]
        factors = torch.tensor(numbers, dtype=torch.float64, device=self.gram.device)
        square = self.gram[[*with_start, target]][:, [*with_start, target]]
        return float(factors @ square @ factors) > 1e4 * TOLERANCE**2 * len(self.out)

    def _judge(self, parts: tuple[int, ...], scales: tuple[float, ...], carry: float) -> Fit | None:
        total = carry * self.start
        reach = total.abs() + self.out.abs()
        for i, scale in zip(parts, scales, strict=True):
            total = total + scale * self.parts[i]
            reach = reach + abs(scale) * self.parts[i].abs()
        off = (self.out - total).abs()
        if float((off / (self.eps * reach + 1e-30)).square().mean().sqrt()) > TOLERANCE:
            return None
        return Fit(parts, scales, carry, float(off.norm()) / self.size)

    def search(self, groups: Sequence[Sequence[int]], extra: Sequence[int], most: int = 3) -> Fit | None:
        """The simplest sum that fits: one part of each of `groups`, then with a carry, then with up to `most` of `extra`."""
        for more in range(min(most, 2 if groups else 3) + 1):
            for carried in (False, True):
                tries = [(*c, *o) for o in combinations(extra, more) for c in _choices(groups) if not set(c) & set(o)]
                fits = [found for parts in tries if (found := self.fit(parts, carried))]
                if fits:
                    return min(fits, key=_preference)
        return None


def _choices(groups: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    chosen: list[tuple[int, ...]] = [()]
    for group in groups:
        chosen = [(*c, i) for c in chosen for i in group]
    return chosen


def _preference(fit: Fit) -> tuple[float, ...]:
    """Factors of one first, then what reached the stream last."""
    return (sum(abs(s - 1.0) > 1e-9 for s in fit.scales), *(-float(p) for p in fit.parts))
