"""What every head and every MLP is worth for one answer: exact ablations, all of them, from the state on screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from interp_widgets.model.chunks import chunked, layers_at_once, row_limit, run_units
from interp_widgets.model.costing import ASK, Costing
from interp_widgets.model.interventions import Ablate, AblateMode, Intervention
from interp_widgets.model.positions import Positions, PositionSpec
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.reading import read_answer
from interp_widgets.model.reference import Reference
from interp_widgets.model.rows import (
    TOP_K,
    Base,
    Cancelled,
    FloatArray,
    IntArray,
    Rows,
    base_of,
    read_metric,
    read_rows,
    rows_of,
)
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site
from interp_widgets.model.sweep import Birth
from interp_widgets.model.values import resolve

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

MLP = -1
READ_AT_ONCE = 64  # rows
Progress = Callable[["HeadEffects", float], None]


class Part(NamedTuple):
    """One row: a head of a layer (or its MLP, `head == MLP`), ablated, or with the edits to it taken away."""

    layer: int
    head: int
    restored: bool = False


@dataclass(frozen=True)
class HeadEffects:
    """The effect of every head and MLP, one at a time; cells do not add up to the answer.

    The effect of a part = metric(now, without edits to it) − metric(the same with it ablated); positive = it pushes toward
    the target. Cells that are not computed yet, and layers without heads, are NaN (ids and ranks: −1).

    Attributes:
        effects: `[layer, head]`; mlp: `[layer]`.
        metrics: `[layer, head]`, the metric with that head ablated; mlp_metrics: `[layer]`.
        kl: `[layer, head]`, nats, of the answer now to the answer with that head ablated.
        ranks: `[layer, head]`, of the target token, from 1.
        top, probabilities: `[layer, head, k]`, the top tokens with that head ablated.
        chances: `[layer, head]`, the probability of the target (summed over several) with that head ablated.
        mlp_kl, mlp_ranks, mlp_chances: `[layer]`, the same of every MLP.
        baseline_rank, baseline_chance: of the target now.
        restored: for a part that is edited now, what taking those edits away gives (head −1 is the MLP).
        baseline: the metric now, with all interventions that are on.
        floor: cells below it are rounding; in the metric's unit.
        mode, reference: how a part is ablated, and the name and digest of the prompts behind it ("" for zero).
        n: how many examples the numbers are the mean of; each: `[example, layer, head]`, their effects.
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
    n: int = 1
    each: FloatArray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))

    @property
    def done(self) -> bool:
        """Whether the sweep went to its end."""
        return self.seconds > 0

    def to_pandas(self) -> Any:
        """One row per head and MLP: layer, head ("mlp" for the MLP), effect, metric, kl, rank. Needs pandas."""
        import pandas as pd

        layers, heads = self.effects.shape
        rows = [
            (layer, h, self.effects[layer, h], self.metrics[layer, h], self.kl[layer, h], self.ranks[layer, h])
            for layer in range(layers)
            for h in range(heads)
        ]
        rows += [(layer, "mlp", self.mlp[layer], self.mlp_metrics[layer], np.nan, -1) for layer in range(layers)]
        table = pd.DataFrame(rows, columns=["layer", "head", "effect", "metric", "kl", "rank"])
        return table.dropna(subset=["effect"]).reset_index(drop=True)


def head_effects(
    live: LiveModel,
    question: Question | Asked,
    interventions: Sequence[Intervention] = (),
    mode: AblateMode = "mean",
    reference: Reference | str | Sequence[str] | None = None,
    *,
    mlps: bool = True,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    first: tuple[int, int] | None = None,
    proceed: Callable[[float], bool] | None = None,
    positions: PositionSpec | Positions = "all",
) -> HeadEffects:
    """The effect of every head and MLP on the answer, each ablated alone, everywhere in the prompt or at `positions`.

    Args:
        live: the model.
        question: one example, or a set of them (the mean over examples is given, ranks and tokens are the first's).
        interventions: what is on now and stays on.
        mode: `"mean"`, `"zero"` or `"resample"`.
        reference: the prompts that a mean or resample ablation takes its values from; None: the model's own.
        mlps: whether the MLPs are swept too.
        progress: called with what is there so far and the share done, after every chunk, the last layers first.
        cancelled: asked between blocks.
        first: the `(layer, head)` to compute before all others (head −1 is the MLP).
        proceed: asked once, with the estimated seconds, when the sweep will take longer than 10 s; when it says no, what is
            there so far is returned.
        positions: where each part is ablated; a mean is pooled over the same positions of the reference.

    Raises:
        InterventionError: for a reference that cannot be used. FeatureOffError: when the model has no heads.
        CancelledError: when cancelled. ModelChangedError: when the model changed under the sweep.

    Example:
        >>> table = head_effects(live, session.question)  # doctest: +SKIP
        >>> table.effects.shape  # doctest: +SKIP
        (4, 8)
    """
    live.need("heads")
    asked = question.examples if isinstance(question, Question) else (question,)
    start = time.perf_counter()
    tables: list[HeadEffects] = []
    for i, example in enumerate(asked):

        def report(partial: HeadEffects, share: float, i: int = i) -> None:
            if progress is not None:
                progress(_mean([*tables, partial]), (i + share) / len(asked))

        sweep = _Sweep(
            live, example, interventions, mode, Reference.of(reference), cancelled, mlps, Positions.of(positions)
        )
        tables.append(sweep.run(report, first, proceed if i == 0 else None, len(asked)))
        if sweep.declined:
            return _mean(tables)
    return replace(_mean(tables), seconds=time.perf_counter() - start)


def _mean(tables: Sequence[HeadEffects]) -> HeadEffects:
    if len(tables) == 1:
        return tables[0]

    def mean(name: str) -> FloatArray:
        stack = np.stack([getattr(t, name) for t in tables])
        counts = np.isfinite(stack).sum(0)
        return np.where(counts > 0, np.nansum(stack, 0) / np.maximum(counts, 1), np.nan).astype(np.float32)

    names = ("effects", "mlp", "metrics", "mlp_metrics", "kl", "chances", "mlp_kl", "mlp_chances")
    numbers = {n: float(np.mean([getattr(t, n) for t in tables])) for n in ("baseline", "baseline_chance")}
    each = np.stack([t.effects for t in tables])
    return replace(tables[0], **{n: mean(n) for n in names}, **numbers, n=len(tables), each=each)  # pyright: ignore[reportArgumentType]


class _Sweep:
    """One example's sweep: what is asked, the values put in place, and the table as it fills."""

    def __init__(
        self,
        live: LiveModel,
        asked: Asked,
        interventions: Sequence[Intervention],
        mode: AblateMode,
        reference: Reference | None,
        cancelled: Cancelled | None,
        mlps: bool,
        positions: Positions,
    ) -> None:
        self.live, self.asked, self.reference, self.cancelled = live, asked, reference, cancelled
        self.mode: AblateMode = mode
        self.mlps, self.positions = mlps, positions
        self.mask = torch.from_numpy(positions.mask(row_of(asked.tokens, len(asked.tokens))))
        self.interventions = tuple(interventions)
        self.base: Base = base_of(live, asked, interventions, cancelled)
        self.values: dict[Site, torch.Tensor] = {}
        self.baseline = float(asked.metric.of(self.base.logits)[0])
        self.table = self._empty()
        self.without: dict[tuple[int, int], float] = {}
        self.declined = False
        self.unread: list[tuple[list[Part], torch.Tensor]] = []

    def _empty(self) -> HeadEffects:
        layers = self.live.anatomy.layers
        shape = (len(layers), max(layer.attention.n_heads for layer in layers if layer.attention is not None))
        k = min(TOP_K, self.live.anatomy.vocab)

        def nan(*s: int) -> FloatArray:
            return np.full(s, np.nan, np.float32)

        now = rows_of(self.base, self.base.logits)
        used = self.reference or self.live.reference
        named = "" if self.mode == "zero" or used is None else f"{used.name} ({used.digest})"
        return HeadEffects(
            nan(*shape), nan(shape[0]), nan(*shape), nan(shape[0]), nan(*shape), np.full(shape, -1), np.full((*shape, k), -1),
            nan(*shape, k), nan(*shape), nan(shape[0]), np.full(shape[0], -1), nan(shape[0]), self.baseline, int(now.rank[0]),
            float(now.chance[0]), 2 * self.live.report.floor, self.mode, named,
        )  # fmt: skip

    def parts(self) -> list[Part]:
        """Every row that is needed, by layer."""
        found: list[Part] = []
        for layer in self.live.anatomy.layers:
            heads = range(layer.attention.n_heads) if layer.attention is not None else range(0)
            here = [Part(layer.index, h) for h in heads]
            if self.mlps and layer.mlp is not None and layer.mlp.write is not None:
                here.append(Part(layer.index, MLP))
            found += here + [Part(p.layer, p.head, restored=True) for p in here if self._edited(p) == "value"]
        return found

    def _edited(self, part: Part) -> str:
        """How `part` is edited now: its value, only its pattern, or not at all ("")."""
        found = ""
        for intervention in (step.intervention for step in self.base.steps):
            site = intervention.site
            if site.layer != part.layer or (site.index is not None and site.index != part.head and site.part != "mlp"):
                continue
            if (part.head == MLP and site.part == "mlp") or (part.head != MLP and site.part == "z"):
                edge = isinstance(intervention, Ablate) and intervention.mode == "edge"
                found = (found or "pattern") if edge else "value"
            elif part.head != MLP and site.part == "pattern":
                found = found or "pattern"
        return found

    def value(self, site: Site) -> torch.Tensor:
        """What replaces all heads of a layer (`[head, d_head]` or `[pos, head, d_head]`), or its MLP's write."""
        if site not in self.values:
            value = resolve(self.live, Ablate(site, self.mode, self.reference, self.positions), self.asked.tokens)
            assert value is not None
            self.values[site] = value
        return self.values[site]

    def births(self, parts: Sequence[Part]) -> list[Birth]:
        """One birth per layer, a row for every part."""
        return [
            self._birth(layer, [p for p in parts if p.layer == layer]) for layer in sorted({p.layer for p in parts})
        ]

    def _birth(self, layer: int, parts: Sequence[Part]) -> Birth:
        z, mlp = Site("z", layer), Site("mlp", layer)
        seen: dict[Site, torch.Tensor] = {}
        sites = [
            s
            for s, wanted in ((z, [p for p in parts if p.head != MLP]), (mlp, [p for p in parts if p.head == MLP]))
            if wanted
        ]
        watch = tuple((s, lambda x, s=s: seen.__setitem__(s, x)) for s in sites if any(p.restored for p in parts))

        heads = [(row, p.head) for row, p in enumerate(parts) if p.head != MLP and not p.restored]
        back = [(row, p.head) for row, p in enumerate(parts) if p.head != MLP and p.restored]

        def edit_heads(x: torch.Tensor) -> torch.Tensor:
            rows, at = [r for r, _ in heads], [h for _, h in heads]
            value = _by_head(self._at(z, x), at).to(x.dtype)
            x[rows, :, at] = torch.where(self._here(x)[:, None], value, x[rows, :, at])
            for row, head in back:
                x[row, :, head] = _row(seen[z], row)[:, head]
            return x

        def edit_mlp(x: torch.Tensor) -> torch.Tensor:
            for row, p in enumerate(parts):
                if p.head == MLP:
                    x[row] = (
                        _row(seen[mlp], row)
                        if p.restored
                        else torch.where(self._here(x)[:, None], self._at(mlp, x), x[row])
                    )
            return x

        edits = {z: edit_heads, mlp: edit_mlp}
        return Birth(layer, len(parts), tuple((s, edits[s]) for s in sites), watch)

    def _here(self, x: torch.Tensor) -> torch.Tensor:
        """Which positions of `x [row, pos, …]` are ablated, `[pos]`."""
        alone = x.shape[1] == 1 and len(self.mask) > 1
        return (self.mask[self.asked.position : self.asked.position + 1] if alone else self.mask).to(x.device)

    def _at(self, site: Site, x: torch.Tensor) -> torch.Tensor:
        value = self.value(site).to(x.device, x.dtype)
        by_position = value.dim() == x.dim() - 1
        if by_position and x.shape[1] == 1:  # the last block may go on at the read position only
            return value[self.asked.position : self.asked.position + 1]
        return value

    def run(
        self, progress: Progress, first: tuple[int, int] | None, proceed: Callable[[float], bool] | None, examples: int
    ) -> HeadEffects:
        """Chunk by chunk, from the last layer down."""
        parts = self.parts()
        self._prepare(parts)
        limit = row_limit(self.live, self.base)
        chunks = chunked(
            parts, lambda p: p.layer, limit, layers=layers_at_once(self.live), first=Part(*first) if first else None
        )
        costing = Costing(len(self.live.anatomy.layers), [p.layer for p in parts])
        for i, chunk in enumerate(chunks):
            start = time.perf_counter()
            self._compute(chunk, last=i == len(chunks) - 1, hovered=first is not None and i == 0)
            costing.add([p.layer for p in chunk], time.perf_counter() - start)
            progress(self._snapshot(costing, examples), costing.share)
            seconds = costing.seconds
            if proceed is not None and seconds is not None:
                if seconds * examples > ASK and costing.share < 1.0 and not proceed(seconds * examples):
                    self.declined = True
                    break
                proceed = None
        return self._snapshot(costing, examples)

    def _compute(self, chunk: list[Part], *, last: bool, hovered: bool) -> None:
        hidden = run_units(self.live, self.base, chunk, self.births, self.cancelled)
        metric = read_metric(self.live, self.base, hidden)
        if metric is not None:
            self._metrics(chunk, metric)
        self.unread.append((chunk, hidden))
        if metric is None or hovered or last or sum(len(c) for c, _ in self.unread) >= READ_AT_ONCE:
            self._read(metric is None)

    def _read(self, metrics: bool) -> None:
        """Whole answers cost a pass over the unembedding, whatever their number, so several chunks are read together."""
        rows = read_rows(self.live, self.base, torch.cat([hidden for _, hidden in self.unread]))
        parts = [part for chunk, _ in self.unread for part in chunk]
        self._take(parts, rows)
        if metrics:
            self._metrics(parts, rows.metric)
        self.unread.clear()

    def _prepare(self, parts: Sequence[Part]) -> None:
        """Values, and the answers without edits of patterns, before the first chunk."""
        for p in parts:
            self.value(Site("mlp" if p.head == MLP else "z", p.layer))
            if not p.restored and self._edited(p) == "pattern":
                others = [i for i in self.interventions if not _of_pattern(i, p)]
                row = rows_of(self.base, read_answer(self.live, self.asked, others, self.cancelled).logits[None])
                self._restore(p, row)

    def _restore(self, p: Part, row: Rows) -> None:
        key = (p.layer, p.head)
        self.table.restored[key] = row
        self.without[key] = float(row.metric[0])

    def _metrics(self, chunk: Sequence[Part], metric: FloatArray) -> None:
        for p, value in zip(chunk, metric, strict=True):
            if p.restored:
                self.without[p.layer, p.head] = float(value)
            elif p.head == MLP:
                self.table.mlp_metrics[p.layer] = value
            else:
                self.table.metrics[p.layer, p.head] = value
        self._effects()

    def _take(self, chunk: Sequence[Part], rows: Rows) -> None:
        t = self.table
        for i, p in enumerate(chunk):
            at = (p.layer, p.head)
            if p.restored:
                t.restored[at] = rows.one(i)
            elif p.head != MLP:
                t.kl[at], t.ranks[at], t.top[at] = rows.kl[i], rows.rank[i], rows.top[i]
                t.probabilities[at], t.chances[at] = rows.probability[i], rows.chance[i]
            else:
                t.mlp_kl[p.layer], t.mlp_ranks[p.layer], t.mlp_chances[p.layer] = (
                    rows.kl[i],
                    rows.rank[i],
                    rows.chance[i],
                )

    def _effects(self) -> None:
        t = self.table
        t.effects[:] = self.baseline - t.metrics
        t.mlp[:] = self.baseline - t.mlp_metrics
        waiting = {(p.layer, p.head) for p in self.parts() if p.restored} - self.without.keys()
        for (layer, head), metric in [*self.without.items(), *((key, float("nan")) for key in waiting)]:
            if head == MLP:
                t.mlp[layer] = metric - t.mlp_metrics[layer]
            else:
                t.effects[layer, head] = metric - t.metrics[layer, head]

    def _snapshot(self, costing: Costing, examples: int) -> HeadEffects:
        arrays = {k: v.copy() for k, v in vars(self.table).items() if isinstance(v, np.ndarray)}
        seconds = costing.seconds
        estimate = float("nan") if seconds is None else seconds * examples
        return replace(self.table, **arrays, restored=dict(self.table.restored), estimate=estimate)


def _by_head(value: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
    """Values of some heads, to be broadcast over `[head, pos, d_head]`."""
    if value.dim() == 0:
        return value
    return value[list(heads)][:, None] if value.dim() == 2 else value[:, list(heads)].transpose(0, 1)


def _row(x: torch.Tensor, row: int) -> torch.Tensor:
    return x[row if x.shape[0] > 1 else 0]


def _of_pattern(intervention: Intervention, part: Part) -> bool:
    site = intervention.site
    cuts = site.part == "pattern" or (isinstance(intervention, Ablate) and intervention.mode == "edge")
    return cuts and site.layer == part.layer and site.index in (None, part.head)
