"""Times taken turn about, so that what else the machine does falls on everybody alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """Something to be timed: `work()` does a share of the whole, which takes `times` as long."""

    work: Callable[[], object]
    times: float = 1.0


@dataclass(frozen=True)
class Ratio:
    """The median over rounds of a ratio of times, with its lowest and highest round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 2 if self.median < 3 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


Times = Mapping[str, list[float]]


def measure(contenders: Mapping[str, Contender], rounds: int, clock: Callable[[], float]) -> Times:
    """Seconds of every contender in every round, each round in another order, after one warm-up."""
    order = random.Random(0)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for contender in contenders.values():
        contender.work()
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            gc.collect()
            start = clock()
            contenders[name].work()
            times[name].append((clock() - start) * contenders[name].times)
    return times


def ratio(times: Times, of: str, to: str) -> Ratio:
    """`of` / `to`, round by round."""
    each = [a / b for a, b in zip(times[of], times[to], strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def clock_for(threads: int) -> Callable[[], float]:
    """CPU time of this process with one thread, which other processes disturb least; the clock on the wall with more."""
    return time.process_time if threads == 1 else time.perf_counter
