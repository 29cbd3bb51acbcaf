"""How long a sweep will take, from the chunks that are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SAY = 3.0  # seconds from which a widget says how long it will take, and computes what is looked at first
ASK = 10.0  # seconds from which it asks before it goes on


def row_cost(layer: int, layers: int) -> float:
    """What a row born in block `layer` of `layers` costs, in blocks.

    Its own block costs it what comes after attention, the last block little more than keys and values.
    """
    last = layers - 1
    return 0.1 if layer >= last else 0.75 + (last - 1 - layer) + 0.3


@dataclass
class Costing:
    """Seconds to come, by the rate of the chunks so far.

    Args:
        layers: blocks of the model.
        rows: the layers that all rows are born in, one entry per row.

    Example:
        >>> costing = Costing(4, [0, 0, 1, 1, 2, 2, 3, 3])
        >>> costing.add([3, 3], 0.5), costing.seconds is None
        (None, True)
        >>> costing.add([2, 2], 1.0)
        >>> costing.seconds > 1.0
        True
    """

    layers: int
    rows: Sequence[int]
    _cost: float = field(default=0.0, init=False)
    _time: float = field(default=0.0, init=False)
    _spent: float = field(default=0.0, init=False)
    _done: float = field(default=0.0, init=False)

    @property
    def total(self) -> float:
        """All of it, in blocks."""
        return sum(row_cost(layer, self.layers) for layer in self.rows)

    def add(self, rows: Sequence[int], seconds: float) -> None:
        """A chunk is done; rows of the last block alone say nothing about what a block costs, unless there is no other."""
        cost = sum(row_cost(layer, self.layers) for layer in rows)
        self._done += cost
        self._spent += seconds
        if self.layers == 1 or min(rows) < self.layers - 1:
            self._cost += cost
            self._time += seconds

    @property
    def share(self) -> float:
        """The share of the work that is done, 0 to 1."""
        total = self.total
        return 1.0 if self._done >= total * (1 - 1e-9) else self._done / total

    @property
    def seconds(self) -> float | None:
        """How long the whole sweep takes, or None before a chunk that tells."""
        if self._cost == 0.0:
            return None
        return self._spent + max(0.0, self.total - self._done) * self._time / self._cost
