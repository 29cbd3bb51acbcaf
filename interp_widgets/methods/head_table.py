"""The table of a sweep over heads and MLPs, and the mean of several: over the examples of a prompt set, over draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from interp_widgets.model.rows import FloatArray, IntArray, Rows

MLP = -1
Reading = Literal["chance", "rank"]
READINGS: tuple[Reading, ...] = ("chance", "rank")


@dataclass(frozen=True)
class HeadEffects:
    """The effect of every head and MLP, one at a time; cells do not add up to the answer.

    The effect of a part = metric(now, without edits to it) − metric(the same with it ablated); positive = it pushes toward
    the target. Cells that are not computed yet, and layers without heads, are NaN (ids and ranks: −1).

    Attributes:
        effects: `[layer, head]`; mlp: `[layer]`; the mean over examples and draws.
        metrics: `[layer, head]`, the metric with that head ablated; mlp_metrics: `[layer]`. Of several draws the first's,
            which is what a click gives.
        kl: `[layer, head]`, nats, of the answer without edits to that head (now, where there are none) to the one with it ablated.
        ranks: `[layer, head]`, of the target token, from 1; of several examples and draws the first's.
        top, probabilities: `[layer, head, k]`, the top tokens with that head ablated; likewise.
        chances: `[layer, head]`, the probability of the target (summed over several) with that head ablated.
        mlp_kl, mlp_ranks, mlp_chances: `[layer]`, the same of every MLP.
        baseline_rank, baseline_chance: of the target now.
        restored: for a part that is edited now, what taking those edits away gives (head −1 is the MLP).
        baseline: the metric now, with all interventions that are on.
        floor: cells below it are rounding; in the metric's unit.
        mode, reference: how a part is ablated, and the name and digest of the prompts behind it ("" for zero).
        examples: over a prompt set, the table of each; draws: of several draws of a resample ablation, the table of each.
        estimate: how long the whole sweep takes, in seconds, as far as the chunks so far tell; NaN before.
        seconds: how long it took; 0 while it is not done.
    """

    effects: FloatArray
    mlp: FloatArray
    metrics: FloatArray
    mlp_metrics: FloatArray
    kl: FloatArray
    ranks: IntArray
    top: IntArray
    probabilities: FloatArray
    chances: FloatArray
    mlp_kl: FloatArray
    mlp_ranks: IntArray
    mlp_chances: FloatArray
    baseline: float
    baseline_rank: int
    baseline_chance: float
    floor: float
    mode: str
    reference: str
    estimate: float = float("nan")
    seconds: float = 0.0
    restored: dict[tuple[int, int], Rows] = field(default_factory=dict[tuple[int, int], Rows])
    examples: tuple[HeadEffects, ...] = field(default=(), repr=False)
    draws: tuple[HeadEffects, ...] = field(default=(), repr=False)

    @property
    def done(self) -> bool:
        """Whether the sweep went to its end."""
        return self.seconds > 0

    @property
    def n(self) -> int:
        """How many examples the numbers are the mean of."""
        return max(1, len(self.examples))

    @property
    def n_draws(self) -> int:
        """How many draws of a resample ablation each number is the mean of; of several examples, the fewest."""
        return min((e.n_draws for e in self.examples), default=max(1, len(self.draws)))

    @property
    def each(self) -> FloatArray:
        """`[example, layer, head]`, the effects of every example; empty for one prompt."""
        return np.stack([e.effects for e in self.examples]) if self.examples else np.zeros((0, 0, 0), np.float32)

    @property
    def spread(self) -> FloatArray:
        """`[layer, head]`, the standard deviation of an effect over draws (n − 1); NaN for one draw. Over examples, its mean."""
        if self.examples:
            return _mean([e.spread for e in self.examples])
        if len(self.draws) < 2:
            return np.full_like(self.effects, np.nan)
        return np.stack([d.effects for d in self.draws]).std(0, ddof=1, dtype=np.float64).astype(np.float32)

    def lost(self, reading: Reading) -> tuple[FloatArray, FloatArray]:
        """The effect on another reading, `[layer, head]` and `[layer]`.

        Of the target's `"chance"`, what is lost without that part; of its `"rank"`, how far it falls.

        Example:
            >>> heads, mlps = table.lost("rank")  # doctest: +SKIP
        """
        members = self.examples or self.draws
        if members:
            pairs = [m.lost(reading) for m in members]
            return _mean([heads for heads, _ in pairs]), _mean([mlps for _, mlps in pairs])
        if reading == "chance":
            ablated, now = (self.chances, self.mlp_chances), self.baseline_chance
        else:
            ablated, now = (_ranks(self.ranks), _ranks(self.mlp_ranks)), float(self.baseline_rank)
        heads, mlps = (np.full(a.shape, now, np.float32) for a in ablated)
        for (layer, head), rows in self.restored.items():
            at = mlps if head == MLP else heads
            at[layer if head == MLP else (layer, head)] = getattr(rows, reading)[0]
        sign = 1 if reading == "chance" else -1
        return sign * (heads - ablated[0]), sign * (mlps - ablated[1])

    def to_pandas(self) -> Any:
        """One row per head and MLP: layer, head ("mlp" for the MLP), effect, metric, kl, rank. Needs pandas."""
        import pandas as pd

        layers, heads = self.effects.shape
        rows = [
            (layer, h, self.effects[layer, h], self.metrics[layer, h], self.kl[layer, h], self.ranks[layer, h])
            for layer in range(layers)
            for h in range(heads)
        ]
        rows += [
            (layer, "mlp", self.mlp[layer], self.mlp_metrics[layer], self.mlp_kl[layer], self.mlp_ranks[layer])
            for layer in range(layers)
        ]
        table = pd.DataFrame(rows, columns=["layer", "head", "effect", "metric", "kl", "rank"])
        return table.dropna(subset=["effect"]).reset_index(drop=True)


def over_examples(tables: Sequence[HeadEffects]) -> HeadEffects:
    """The mean over a prompt set; ranks and tokens are the first's."""
    if len(tables) == 1:
        return tables[0]
    numbers = {n: float(np.mean([getattr(t, n) for t in tables])) for n in ("baseline", "baseline_chance")}
    means = {n: _mean([getattr(t, n) for t in tables]) for n in (*_EFFECTS, *_ABLATED)}
    return replace(tables[0], **means, **numbers, examples=tuple(tables), draws=())  # pyright: ignore[reportArgumentType]


def over_draws(tables: Sequence[HeadEffects]) -> HeadEffects:
    """The mean effect over draws; what one ablation gives (metric, rank, tokens, probabilities) is the first's."""
    if len(tables) == 1:
        return tables[0]
    means = {n: _mean([getattr(t, n) for t in tables]) for n in _EFFECTS}
    return replace(tables[0], **means, draws=tuple(tables))  # pyright: ignore[reportArgumentType]


_EFFECTS = ("effects", "mlp", "kl", "mlp_kl")
_ABLATED = ("metrics", "mlp_metrics", "chances", "mlp_chances")


def _mean(arrays: Sequence[npt.NDArray[Any]]) -> FloatArray:
    """The mean of those that are computed."""
    stack = np.stack(arrays).astype(np.float64)
    counts = np.isfinite(stack).sum(0)
    return np.where(counts > 0, np.nansum(stack, 0) / np.maximum(counts, 1), np.nan).astype(np.float32)


def _ranks(ranks: IntArray) -> FloatArray:
    return np.where(ranks < 0, np.nan, ranks).astype(np.float32)
