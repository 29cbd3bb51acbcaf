"""What an intervention did in one run: the receipt, and the tally it is made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from interp_widgets.model.interventions import Intervention
from interp_widgets.model.sites import Site

State = Literal["acted", "idle", "cannot reach", "no effect"]


@dataclass(frozen=True)
class Receipt:
    """Proof of what one intervention did in one run.

    Attributes:
        intervention: what was asked.
        site: where.
        state: `"acted"`; `"idle"` (strength 0, or no position matches yet); `"cannot reach"` (acted where nothing that is
            read can see it); `"no effect"` (asked to change something, and did not).
        reason: why, in words, when the state is not `"acted"`.
        fired: how often the part was called.
        positions: how many positions were edited.
        norm_before: ‖x‖ at those positions; norm_after: ‖x'‖.
        change: ‖x' − x‖ / ‖x‖, or ‖x' − x‖ where ‖x‖ = 0.
    """

    intervention: Intervention
    site: Site
    state: State
    reason: str
    fired: int
    positions: int
    norm_before: float
    norm_after: float
    change: float

    def __str__(self) -> str:
        tail = f": {self.reason}" if self.reason else f" at {self.positions} positions, change {self.change:.1%}"
        return f"{self.intervention.label} {self.state}{tail}"


class Tally:
    """Squared norms summed over the calls of one run."""

    __slots__ = ("after", "before", "change", "fired", "positions")

    def __init__(self) -> None:
        self.fired = 0
        self.positions = 0
        self.before = self.after = self.change = 0.0

    def add(self, before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Count one call: `before` and `after` are `[row, pos, feature]`, `mask` `[row, pos]` or None for all."""
        if mask is not None:
            before, after = before[mask], after[mask]
            self.positions += int(mask.sum())
        else:
            self.positions += before.shape[0] * before.shape[1]
        sums = _squares(before.detach(), after.detach())
        self.before, self.after, self.change = self.before + sums[0], self.after + sums[1], self.change + sums[2]

    @classmethod
    def of(cls, parts: Sequence[Tally]) -> Tally:
        """What several did together."""
        whole = cls()
        for part in parts:
            for name in cls.__slots__:
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
        return whole

    def of_row(self, row: int) -> Tally:
        """What it did in one row of a batch: here all of it."""
        del row
        return self

    @property
    def relative(self) -> float:
        """‖Δ‖ / ‖before‖, or ‖Δ‖ where nothing stood before."""
        change = math.sqrt(self.change)
        return change / math.sqrt(self.before) if self.before > 0 else change


class RowTallies(Tally):
    """A tally for each row of a batch, whose prompts are runs of their own."""

    __slots__ = ("rows",)

    def __init__(self, n: int) -> None:
        super().__init__()
        self.rows = [Tally() for _ in range(n)]

    def add(self, before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Count one call, row by row."""
        for r, tally in enumerate(self.rows):
            tally.add(before[r : r + 1], after[r : r + 1], None if mask is None else mask[r : r + 1])

    def of_row(self, row: int) -> Tally:
        """What it did in one row."""
        self.rows[row].fired = self.fired
        return self.rows[row]


def merged(each: Sequence[Sequence[Receipt]]) -> tuple[Receipt, ...]:
    """One receipt for each intervention, over the prompts of a set: it acted where it acted on any of them."""
    return tuple(_merged(parts) for parts in zip(*each, strict=True))


def _merged(parts: Sequence[Receipt]) -> Receipt:
    told = next((part for part in parts if part.state == "acted"), parts[0])
    before, after = (math.hypot(*values) for values in ([p.norm_before for p in parts], [p.norm_after for p in parts]))
    change = math.hypot(*(part.change * (part.norm_before or 1.0) for part in parts))
    return replace(
        told,
        fired=sum(part.fired for part in parts),
        positions=sum(part.positions for part in parts),
        norm_before=before,
        norm_after=after,
        change=change / before if before > 0 else change,
    )


def _squares(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """‖x‖², ‖y‖², ‖y − x‖² in float64; one wait for a GPU, and on a CPU no call of torch that one token would notice."""
    if x.device.type == "cpu" and x.dtype == y.dtype and x.dtype in (torch.float32, torch.float64):
        a, b = (v.numpy().reshape(-1).astype(np.float64) for v in (x, y))
        d = b - a
        return float(a @ a), float(b @ b), float(d @ d)
    x, y = x.double().flatten(), y.double().flatten()
    change = y - x
    found = torch.stack([x.dot(x), y.dot(y), change.dot(change)]).tolist()
    return found[0], found[1], found[2]
