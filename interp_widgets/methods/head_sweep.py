"""One example's sweep over every head and MLP: the rows in chunks, from the last layer down, into a table that fills."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp_widgets.methods.head_births import Part, Replacement
from interp_widgets.methods.head_table import MLP, HeadEffects
from interp_widgets.model.chunks import chunked, layers_at_once, row_limit, run_units
from interp_widgets.model.costing import Costing
from interp_widgets.model.interventions import Ablate, AblateMode, Intervention
from interp_widgets.model.positions import Positions
from interp_widgets.model.question import Asked
from interp_widgets.model.reading import read_answer
from interp_widgets.model.reference import Reference
from interp_widgets.model.rows import (
    TOP_K,
    Base,
    Cancelled,
    FloatArray,
    Rows,
    base_of,
    divergence_of,
    read_metric,
    read_rows,
    rows_of,
)
from interp_widgets.model.run import modes

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

READ_AT_ONCE = 64  # rows
Progress = Callable[[HeadEffects, float], None]
Key = tuple[int, int]


class Sweep:
    """What is asked, the values put in place, and the table as it fills.

    Attributes:
        declined: whether it ended because it would have taken too long.
    """

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
        self.live, self.asked, self.cancelled, self.mlps = live, asked, cancelled, mlps
        self.put = Replacement(live, asked, mode, reference, positions)
        self.interventions = tuple(interventions)
        self.base: Base = base_of(live, asked, interventions, cancelled)
        self.baseline = float(asked.metric.of(self.base.logits)[0])
        self.table = self._empty()
        self.parts = self._parts()
        self.without: dict[Key, float] = {}
        self.answers: dict[Part, torch.Tensor] = {}  # of parts that are edited: the logits of both answers, `[vocab]`
        self.declined = False
        self.unread: list[tuple[list[Part], torch.Tensor]] = []

    def _empty(self) -> HeadEffects:
        layers = self.live.anatomy.layers
        shape = (len(layers), max(layer.attention.n_heads for layer in layers if layer.attention is not None))
        k = min(TOP_K, self.live.anatomy.vocab)

        def nan(*s: int) -> FloatArray:
            return np.full(s, np.nan, np.float32)

        now = rows_of(self.base, self.base.logits)
        used = self.put.reference or self.live.reference
        named = "" if self.put.mode == "zero" or used is None else f"{used.name} ({used.digest})"
        return HeadEffects(
            nan(*shape), nan(shape[0]), nan(*shape), nan(shape[0]), nan(*shape), np.full(shape, -1), np.full((*shape, k), -1),
            nan(*shape, k), nan(*shape), nan(shape[0]), np.full(shape[0], -1), nan(shape[0]), self.baseline, int(now.rank[0]),
            float(now.chance[0]), 2 * self.live.report.floor, self.put.mode, named,
        )  # fmt: skip

    def _parts(self) -> list[Part]:
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

    # ---- rows -----------------------------------------------------------------------------------------------------

    def run(
        self, progress: Progress, first: Key | None, proceed: Callable[[float], bool] | None, sweeps: int
    ) -> HeadEffects:
        """Chunk by chunk, from the last layer down; `sweeps` is how many like this one there are in all.

        `proceed` is asked once, with the seconds that all of them will take.
        """
        self._prepare()
        chunks = chunked(
            self.parts,
            lambda p: p.layer,
            row_limit(self.live, self.base),
            layers=layers_at_once(self.live),
            first=Part(*first) if first else None,
        )
        costing = Costing(len(self.live.anatomy.layers), [p.layer for p in self.parts])
        for i, chunk in enumerate(chunks):
            start = time.perf_counter()
            self._compute(chunk, last=i == len(chunks) - 1, hovered=first is not None and i == 0)
            costing.add([p.layer for p in chunk], time.perf_counter() - start)
            progress(self._snapshot(costing, sweeps), costing.share)
            seconds = costing.seconds
            if proceed is not None and seconds is not None:
                if costing.share < 1.0 and not proceed(seconds * sweeps):
                    self.declined = True
                    break
                proceed = None
        return self._snapshot(costing, sweeps)

    def _prepare(self) -> None:
        """Values, and the answers without edits of patterns, before the first chunk."""
        for p in self.parts:
            self.put.value(p.site)
            if not p.restored and self._edited(p) == "pattern":
                others = [i for i in self.interventions if not _of_pattern(i, p)]
                logits = read_answer(self.live, self.asked, others, self.cancelled).logits
                row = rows_of(self.base, logits[None])
                self.table.restored[p.layer, p.head] = row
                self.without[p.layer, p.head] = float(row.metric[0])
                self.answers[Part(p.layer, p.head, restored=True)] = logits

    def _compute(self, chunk: list[Part], *, last: bool, hovered: bool) -> None:
        hidden = run_units(self.live, self.base, chunk, self.put.births, self.cancelled)
        metric = read_metric(self.live, self.base, hidden)
        if metric is not None:
            self._metrics(chunk, metric)
        self.unread.append((chunk, hidden))
        if metric is None or hovered or last or sum(len(c) for c, _ in self.unread) >= READ_AT_ONCE:
            self._read(metric is None)

    # ---- what is read of them -------------------------------------------------------------------------------------

    def _read(self, metrics: bool) -> None:
        """Whole answers cost a pass over the unembedding, whatever their number, so several chunks are read together."""
        hidden = torch.cat([hidden for _, hidden in self.unread])
        rows = read_rows(self.live, self.base, hidden, self.cancelled)
        parts = [part for chunk, _ in self.unread for part in chunk]
        self._take(parts, rows)
        if metrics:
            self._metrics(parts, rows.metric)
        self._compare(parts, hidden)
        self.unread.clear()

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
                t.mlp_kl[p.layer], t.mlp_ranks[p.layer] = rows.kl[i], rows.rank[i]
                t.mlp_chances[p.layer] = rows.chance[i]

    def _compare(self, parts: Sequence[Part], hidden: torch.Tensor) -> None:
        """For a part that is edited, the divergence is that from the answer without those edits."""
        edited = {*self.table.restored, *((p.layer, p.head) for p in self.parts if p.restored)}
        if not edited:
            return
        for row, p in enumerate(parts):
            key = (p.layer, p.head)
            if key not in edited:
                continue
            with self.live.lock, modes(self.live.device):
                self.answers[p] = self.live.readout.logits(hidden[row : row + 1])[0]
            both = [Part(*key, restored=True), Part(*key)]
            value = float("nan")
            if all(part in self.answers for part in both):
                value = divergence_of(*(self.answers.pop(part) for part in both))
            if p.head == MLP:
                self.table.mlp_kl[p.layer] = value
            else:
                self.table.kl[key] = value

    def _effects(self) -> None:
        t = self.table
        t.effects[:] = self.baseline - t.metrics
        t.mlp[:] = self.baseline - t.mlp_metrics
        waiting = {(p.layer, p.head) for p in self.parts if p.restored} - self.without.keys()
        for (layer, head), metric in [*self.without.items(), *((key, float("nan")) for key in waiting)]:
            if head == MLP:
                t.mlp[layer] = metric - t.mlp_metrics[layer]
            else:
                t.effects[layer, head] = metric - t.metrics[layer, head]

    def _snapshot(self, costing: Costing, sweeps: int) -> HeadEffects:
        arrays = {k: v.copy() for k, v in vars(self.table).items() if isinstance(v, np.ndarray)}
        seconds = costing.seconds
        estimate = float("nan") if seconds is None else seconds * sweeps
        return replace(self.table, **arrays, restored=dict(self.table.restored), estimate=estimate)


def _of_pattern(intervention: Intervention, part: Part) -> bool:
    site = intervention.site
    cuts = site.part == "pattern" or (isinstance(intervention, Ablate) and intervention.mode == "edge")
    return cuts and site.layer == part.layer and site.index in (None, part.head)
