"""Activation patching: what of a run carries the difference between a clean and a corrupt prompt.

Denoising puts a clean activation into the corrupt run (is it sufficient?), noising a corrupt one into the clean run (is it
necessary?). Meng et al. 2022 (causal tracing), Wang et al. 2023; Heimersheim & Nanda 2024 on the two directions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from interp_widgets.model.chunks import chunked, halved, layers_at_once, row_limit, run_units
from interp_widgets.model.errors import InterventionError, PromptError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.packed import Suffix, packs, run_packed
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.rows import Base, Cancelled, FloatArray, base_of, read_metric, read_rows
from interp_widgets.model.sites import Site
from interp_widgets.model.sweep import Birth

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Over = Literal["resid", "heads"]
Progress = Callable[["Patching", float], None]
SMALLEST = 1e-3  # of the larger of the two metrics: below it a share of their difference means nothing


class Cell(NamedTuple):
    """One row: a layer, and a position (`over="resid"`) or a head."""

    layer: int
    at: int


@dataclass(frozen=True)
class Patching:
    """A patched run per cell, in both directions; NaN where nothing is computed yet or there is no head.

    Attributes:
        over: `"resid"`: `[layer, pos]`, the stream as block `layer` reads it; `"heads"`: `[layer, head]`, z at all positions.
        denoise: share of the difference that the clean activation brings back into the corrupt run: 0 none, 1 all of it.
        noise: share that the corrupt activation takes away from the clean run: 0 none, 1 all of it.
        denoise_metrics, noise_metrics: the metrics behind them, same shape.
        clean, corrupt: the metric of the two runs.
        tokens, corrupt_tokens: the texts of the two prompts (of the first example).
        floor: cells below it are rounding, as a share.
        n: examples that the metrics are means of.
        seconds: how long it took.
    """

    over: Over
    denoise: FloatArray
    noise: FloatArray
    denoise_metrics: FloatArray
    noise_metrics: FloatArray
    clean: float
    corrupt: float
    tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    floor: float
    n: int = 1
    seconds: float = 0.0

    def to_pandas(self) -> Any:
        """One row per cell: layer, position or head, both shares, both metrics. Needs pandas."""
        import pandas as pd

        name = "position" if self.over == "resid" else "head"
        layers, width = self.denoise.shape
        at = np.array([(layer, i) for layer in range(layers) for i in range(width)])
        table = {"layer": at[:, 0], name: at[:, 1]}
        for column in ("denoise", "noise", "denoise_metrics", "noise_metrics"):
            table[column] = getattr(self, column).ravel()
        return pd.DataFrame(table).dropna(subset=["denoise"]).reset_index(drop=True)


def patching(
    live: LiveModel,
    question: Question | Asked,
    over: Over = "resid",
    interventions: Sequence[Intervention] = (),
    *,
    directions: Iterable[Literal["denoise", "noise"]] = ("denoise", "noise"),
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Patching:
    """Patch every position of every block's input, or every head, between the clean and the corrupt prompt.

    Args:
        live: the model.
        question: with a corrupt prompt of the same number of tokens; a set of examples gives the mean of their metrics.
        over: `"resid"` or `"heads"`.
        interventions: what is on, in both runs.
        directions: which of the two to compute.
        progress: called with what is there so far and the share done, after every chunk, the last layers first.
        cancelled: asked between blocks.

    Raises:
        PromptError: without a corrupt prompt, or when the two do not line up.
        InterventionError: when the two prompts have the same metric, so that there is no difference to explain, or for another `over`.

    Example:
        >>> patching(live, session.question).denoise.shape  # doctest: +SKIP
        (4, 15)
    """
    start = time.perf_counter()
    if over not in get_args(Over):
        raise InterventionError(f'There is nothing to patch over called {over!r}; choose "resid" or "heads".')
    if over == "heads":
        live.need("heads")
    examples = question.examples if isinstance(question, Question) else (question,)
    _check(examples, over)
    pairs = [_Pair(live, asked, over, interventions, cancelled) for asked in examples]
    _refuse_equal(pairs)
    wanted = tuple(directions)
    for i, (pair, direction) in enumerate(jobs := [(p, d) for d in wanted for p in pairs]):

        def report(share: float, i: int = i) -> None:
            if progress is not None:
                progress(_result(live, pairs, over), (i + share) / len(jobs))

        pair.run(direction, report)
    return replace(_result(live, pairs, over), seconds=time.perf_counter() - start)


def _check(examples: Sequence[Asked], over: Over) -> None:
    for asked in examples:
        if asked.corrupt is None:
            raise PromptError(
                f"Patching compares two prompts, and {asked.prompt!r:.60} has no corrupt one; ask(..., corrupt=...) gives it."
            )
        if len(asked.corrupt) != len(asked.tokens):
            raise PromptError(
                f"The clean prompt has {len(asked.tokens)} tokens and the corrupt one {len(asked.corrupt)}; "
                "write one that lines up token by token."
            )
    lengths = sorted({len(asked.tokens) for asked in examples})
    if over == "resid" and len(lengths) > 1:
        raise PromptError(
            f"Positions are averaged over examples of one length, and these have {lengths} tokens; patch over='heads'."
        )


def _refuse_equal(pairs: Sequence[_Pair]) -> None:
    clean, corrupt = (float(np.mean([getattr(p, name) for p in pairs])) for name in ("clean_metric", "corrupt_metric"))
    if abs(clean - corrupt) <= SMALLEST * max(abs(clean), abs(corrupt), SMALLEST):
        raise InterventionError(
            f"The clean and the corrupt prompt have the same answer ({clean:.4g} and {corrupt:.4g}), so there is no "
            "difference to patch; choose a corrupt prompt that changes the answer."
        )


class _Pair:
    """One example: both runs, recorded, and the metrics of the patched ones."""

    def __init__(
        self,
        live: LiveModel,
        asked: Asked,
        over: Over,
        interventions: Sequence[Intervention],
        cancelled: Cancelled | None,
    ) -> None:
        assert asked.corrupt is not None
        self.live, self.over, self.cancelled = live, over, cancelled
        other = replace(asked, prompt="".join(t.text for t in asked.corrupt), tokens=asked.corrupt, corrupt=None)
        self.clean = base_of(live, asked, interventions, cancelled)
        self.corrupt = base_of(live, other, interventions, cancelled)
        self.clean_metric, self.corrupt_metric = (
            float(b.asked.metric.of(b.logits)[0]) for b in (self.clean, self.corrupt)
        )
        self.layers = live.anatomy.layers
        heads = [layer.attention.n_heads for layer in self.layers if layer.attention is not None]
        width = len(asked.tokens) if over == "resid" else max(heads)
        self.metrics = {d: np.full((len(self.layers), width), np.nan, np.float32) for d in ("denoise", "noise")}
        self._heads = self._read_heads(interventions) if over == "heads" else {}

    def _read_heads(self, interventions: Sequence[Intervention]) -> dict[tuple[str, int], torch.Tensor]:
        """Z `[pos, head, d_head]` of both runs, by layer."""
        sites = [Site("z", layer.index) for layer in self.layers if layer.attention is not None]
        prompts = [b.asked.ids for b in (self.clean, self.corrupt)]
        runs = self.live.runs(prompts, interventions, sites, logits=False, cancelled=self.cancelled)
        names = ("denoise", "noise")  # denoising takes from the clean run, noising from the corrupt one
        return {(d, s.layer): run[s] for d, run in zip(names, runs, strict=True) for s in sites if s.layer is not None}

    def run(self, direction: str, report: Callable[[float], None]) -> None:
        """Every cell of one direction, the last layers first."""
        base, source = (self.corrupt, self.clean) if direction == "denoise" else (self.clean, self.corrupt)
        table = self.metrics[direction]
        cells = self._cells(direction, base, source, table)
        total, done = sum(len(self.layers) - c.layer for c in cells) or 1, 0
        if not cells:
            report(1.0)

        packed = self.over == "resid" and packs(self.live, base)
        limit = row_limit(self.live, base)
        for chunk in chunked(cells, lambda c: c.layer, limit, layers=layers_at_once(self.live, 2 if packed else 3)):
            run = self._packed if packed else self._whole
            hidden = run(base, source, chunk, direction)
            metric = read_metric(self.live, base, hidden)
            metric = read_rows(self.live, base, hidden, self.cancelled).metric if metric is None else metric
            for cell, value in zip(chunk, metric, strict=True):
                table[cell] = value
            done += sum(len(self.layers) - c.layer for c in chunk)
            report(done / total)

    def _whole(self, base: Base, source: Base, chunk: Sequence[Cell], direction: str) -> torch.Tensor:
        def births(part: Sequence[Cell]) -> list[Birth]:
            layers = sorted({c.layer for c in part})
            return [self._birth(direction, n, [c.at for c in part if c.layer == n], source) for n in layers]

        return run_units(self.live, base, chunk, births, self.cancelled)

    def _packed(self, base: Base, source: Base, chunk: Sequence[Cell], direction: str) -> torch.Tensor:  # noqa: ARG002
        """The rows of a chunk, each from its position on."""

        def run(cells: Sequence[Cell]) -> torch.Tensor:
            suffixes: list[Suffix] = []
            for layer in sorted({c.layer for c in cells}):
                at = tuple(c.at for c in cells if c.layer == layer)
                suffixes.append(Suffix(layer, at, source.trace.calls[layer].hidden[0, list(at)]))
            return run_packed(self.live, base, suffixes, self.cancelled)

        return halved(self.live, base, chunk, run)

    def _cells(self, direction: str, base: Base, source: Base, table: FloatArray) -> list[Cell]:
        """The cells that need a run; where both runs hold the same numbers, patching changes nothing."""
        cells: list[Cell] = []
        here = self.corrupt_metric if direction == "denoise" else self.clean_metric
        for layer in self.layers:
            if self.over == "resid":
                ours, theirs = (b.trace.calls[layer.index].hidden[0] for b in (base, source))
                same = (ours == theirs).all(-1).tolist()
            elif layer.attention is not None:
                ours, theirs = self._heads["denoise", layer.index], self._heads["noise", layer.index]
                same = (ours == theirs).all(-1).all(0).tolist()
            else:
                continue
            unseen = base.asked.position if self.over == "resid" and packs(self.live, base) else len(same)
            for at, equal in enumerate(same):
                if equal or at > unseen:  # what comes after the read position cannot be seen there
                    table[layer.index, at] = here
                else:
                    cells.append(Cell(layer.index, at))
        return cells

    def _birth(self, direction: str, layer: int, at: Sequence[int], source: Base) -> Birth:
        rows = list(range(len(at)))
        if self.over == "resid":
            stream = source.trace.calls[layer].hidden[0]

            def put(x: torch.Tensor) -> torch.Tensor:
                x[rows, list(at)] = stream[list(at)].to(x.device)
                return x

            # recorded before the interventions at this place, which act on the patched stream as on any other
            return Birth(layer, len(at), ((Site("resid_pre", layer), put),), after=0)
        z = self._heads[direction, layer]

        def put_heads(x: torch.Tensor) -> torch.Tensor:
            x[rows, :, list(at)] = z[:, list(at)].transpose(0, 1).to(x.device)
            return x

        return Birth(layer, len(at), ((Site("z", layer), put_heads),))


def _result(live: LiveModel, pairs: Sequence[_Pair], over: Over) -> Patching:
    denoise, noise = (np.mean([p.metrics[d] for p in pairs], axis=0).astype(np.float32) for d in ("denoise", "noise"))
    clean, corrupt = (float(np.mean([getattr(p, name) for p in pairs])) for name in ("clean_metric", "corrupt_metric"))
    span = clean - corrupt
    first = pairs[0]
    return Patching(
        over=over,
        denoise=(denoise - corrupt) / span,
        noise=(clean - noise) / span,
        denoise_metrics=denoise,
        noise_metrics=noise,
        clean=clean,
        corrupt=corrupt,
        tokens=tuple(t.text for t in first.clean.asked.tokens),
        corrupt_tokens=tuple(t.text for t in first.corrupt.asked.tokens),
        floor=2 * live.report.floor / abs(span),
        n=len(pairs),
    )
