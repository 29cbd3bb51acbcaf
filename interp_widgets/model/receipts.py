"""What an intervention did in one run: the receipt, and the tally it is made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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

    @property
    def relative(self) -> float:
        """‖Δ‖ / ‖before‖, or ‖Δ‖ where nothing stood before."""
        change = math.sqrt(self.change)
        return change / math.sqrt(self.before) if self.before > 0 else change


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
