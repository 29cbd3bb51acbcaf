"""The deletion test: replace the tokens that an attribution ranks first, and look at the real answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.baselines import Baseline, BaselineSpec, find_baseline, neutral
from interp_widgets.methods.explained import Cancelled, Explained, Progress, explained, give_up, logits_of_rows
from interp_widgets.methods.occlusion import replaced
from interp_widgets.methods.row_memory import MEMORY, chunk_rows
from interp_widgets.methods.spans import SpanKind, SpanSpec, span_scores
from interp_widgets.methods.words import said
from interp_widgets.model.errors import PromptError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question

Curve = npt.NDArray[np.float64]
ORDERS = 20  # random orders that a ranking is compared with


@dataclass(frozen=True, eq=False)
class Deletion:
    """What the answer becomes as tokens are replaced, best first, against random orders (Samek et al. 2017; Petsiuk et al. 2018).

    Attributes:
        units: what is replaced at once, best first: tokens (up to the read position, and not special), or
            spans of such tokens, by the sum of their scores.
        deletion: `[k]`, the metric with the first k of `units` replaced, k = 0 to len(units).
        insertion: `[k]`, the metric with everything *but* the first k replaced.
        random_deletion, random_insertion: `[order drawn, k]`, the same for random orders.
        baseline: what tokens were replaced by.
        unit: `"token"`, `"word"`, `"sentence"`, `"line"`, or `"span"`.
    """

    units: tuple[tuple[int, ...], ...]
    deletion: Curve
    insertion: Curve
    random_deletion: Curve
    random_insertion: Curve
    baseline: str
    unit: str = "token"

    @property
    def order(self) -> tuple[int, ...]:
        """The positions that can be replaced, best unit first."""
        return tuple(position for unit in self.units for position in unit)

    @property
    def deletion_area(self) -> float:
        """Mean metric along the deletion curve: the lower the better the ranking."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Mean metric along the insertion curve: the higher the better the ranking."""
        return area(self.insertion)

    @property
    def random_deletion_areas(self) -> Curve:
        """The deletion area of every random order."""
        return np.array([area(curve) for curve in self.random_deletion])

    @property
    def random_insertion_areas(self) -> Curve:
        """The insertion area of every random order."""
        return np.array([area(curve) for curve in self.random_insertion])

    def cost(self, k: int) -> float:
        """What replacing the first k costs."""
        return float(self.deletion[0] - self.deletion[k])

    def random_cost(self, k: int) -> float:
        """What replacing k random units costs, on average over the random orders."""
        return float(self.random_deletion[:, 0].mean() - self.random_deletion[:, k].mean())

    def line(self, k: int = 3) -> str:
        """The evidence in one line."""
        k = min(k, len(self.units))
        return Evidence(k, self.cost(k), self.random_cost(k), self.baseline, self.unit).line

    def to_pandas(self) -> Any:
        """One row per k: both curves and the means of the random ones."""
        import pandas as pd

        return pd.DataFrame(
            {
                "replaced": range(len(self.deletion)),
                "deletion": self.deletion,
                "insertion": self.insertion,
                "random_deletion": self.random_deletion.mean(0),
                "random_insertion": self.random_insertion.mean(0),
            }
        )


@dataclass(frozen=True)
class Evidence:
    """What replacing the first k tokens of a ranking costs, and k random ones on average; see `evidence`."""

    k: int
    cost: float
    random_cost: float
    baseline: str
    unit: str = "token"

    @property
    def line(self) -> str:
        """The evidence in one line, in the words of `Deletion.line`."""
        of = str(self.k) if self.unit == "token" else f"{self.k} {self.unit}{'s' if self.k != 1 else ''}"
        return (
            f"deleting its top {of} costs {said(self.cost)}, random {self.k} costs {said(self.random_cost)} (evidence)"
        )


@dataclass(frozen=True, eq=False)
class Deleted:
    """The real answer with some tokens replaced: logits `[vocab]` (float32) at the read position, and the metric."""

    positions: tuple[int, ...]
    logits: torch.Tensor
    metric: float
    baseline: str


def area(curve: npt.ArrayLike) -> float:
    """The area under a curve over the unit interval, by trapezoids."""
    y = np.asarray(curve, dtype=np.float64)
    return float((y[1:] + y[:-1]).mean() / 2) if len(y) > 1 else float(y[0])


def ranking(question: Asked | Question, scores: npt.ArrayLike, *, by: str = "score") -> tuple[int, ...]:
    """The positions that can be replaced, best first: by `"score"` (toward the target) or by `"size"` (either way).

    Raises:
        PromptError: when the scores are not one per token, or no token can be replaced.
    """
    asked = question.first if isinstance(question, Question) else question
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(asked.tokens),):
        raise PromptError(f"There are {values.size} scores for {len(asked.tokens)} tokens; pass one score per token.")
    can = [i for i, t in enumerate(asked.tokens[: asked.position + 1]) if t.kind != "special"]
    if not can:
        raise PromptError(
            "Every token of the prompt is a special token, so there is nothing to replace; write a few words."
        )
    keys = values if by == "score" else np.abs(values)
    return tuple(sorted(can, key=lambda i: (-keys[i], i)))


def units_of(
    live: LiveModel, question: Asked | Question, scores: npt.ArrayLike, spans: SpanSpec = "token", *, by: str = "score"
) -> tuple[tuple[int, ...], ...]:
    """What can be replaced at once, best first: the spans of `span_scores`, without tokens that cannot be replaced.

    Raises:
        PromptError: as `ranking` and `span_scores`.

    Example:
        >>> units_of(live, asked, scores, "word")[0]  # doctest: +SKIP
        (3, 4)
    """
    asked = question.first if isinstance(question, Question) else question
    can = ranking(asked, scores, by=by)
    if isinstance(spans, str) and spans == "token":
        return tuple((position,) for position in can)
    free = frozenset(can)
    sums = {
        tuple(i for i in span.positions if i in free): span.score for span in span_scores(live, asked, scores, spans)
    }
    sums.pop((), None)
    return tuple(sorted(sums, key=lambda unit: (-abs(sums[unit]) if by == "size" else -sums[unit], unit)))


def unit_name(spans: SpanSpec) -> str:
    """What one of `spans` is called: `"token"`, `"word"`, `"sentence"`, `"line"`, else `"span"`."""
    return spans if isinstance(spans, str) and spans in get_args(SpanKind) else "span"


def deletion_test(
    live: LiveModel,
    question: Asked | Question,
    scores: npt.ArrayLike,
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    *,
    by: str = "score",
    spans: SpanSpec = "token",
    orders: int = ORDERS,
    seed: int = 0,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Deletion:
    """Deletion and insertion curves of a ranking, and of `orders` random ones, in batches.

    Sets of tokens that come up twice (no token, all tokens, the first k of two orders) are run once.

    Args:
        live: the model.
        question: what was asked.
        scores: `[pos]`, from any method.
        interventions: what is on.
        baseline: what tokens are replaced by; `"auto"` is the unknown token, else the mean embedding.
        by: rank by `"score"` (toward the target first) or by `"size"`.
        spans: what is replaced at once, as in `span_scores`: `"token"`, `"word"`, `"sentence"`, `"line"`, ...
        orders: how many random orders.
        seed: of the random orders; the same seed gives the same curves.
        memory: bytes that one batch may hold.
        progress: called with the part done, 0 to 1.
        cancelled: asked before every block.

    Example:
        >>> test = deletion_test(live, asked, attribute(live, asked).scores)  # doctest: +SKIP
        >>> test.deletion_area < test.random_deletion_areas.mean()  # doctest: +SKIP
        True
    """
    asked = question.first if isinstance(question, Question) else question
    units = units_of(live, asked, scores, spans, by=by)
    what, chosen = explained(live, asked, interventions), replacement(live, asked, baseline)
    draw = np.random.default_rng(seed)
    all_orders = [units, *(shuffled(units, draw) for _ in range(orders))]
    firsts = [[joined(o[:k]) for k in range(len(o) + 1)] for o in all_orders]
    lasts = [[joined(o[k:]) for k in range(len(o) + 1)] for o in all_orders]
    wanted = dict.fromkeys(one for row in (*firsts, *lasts) for one in row)
    table = metrics_with(what, chosen, list(wanted), memory, progress, cancelled)
    down, up = (np.array([[table[one] for one in row] for row in rows]) for rows in (firsts, lasts))
    return Deletion(units, down[0], up[0], down[1:], up[1:], chosen.name, unit_name(spans))


def shuffled(units: Sequence[tuple[int, ...]], draw: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """The units in a random order, which does not depend on the order that they come in."""
    first = sorted(units)
    return tuple(first[int(i)] for i in draw.permutation(len(first)))


def joined(units: Sequence[tuple[int, ...]]) -> frozenset[int]:
    """All positions of some units."""
    return frozenset(position for unit in units for position in unit)


def evidence(
    live: LiveModel,
    question: Asked | Question,
    scores: npt.ArrayLike,
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    *,
    k: int = 3,
    orders: int = ORDERS,
    seed: int = 0,
    cancelled: Cancelled | None = None,
) -> Evidence:
    """One point of the deletion test, `Deletion.cost(k)` and `Deletion.random_cost(k)`, in about `orders` rows.

    Raises:
        PromptError: when the scores are not one per token, or no token can be replaced.

    Example:
        >>> evidence(live, asked, scores).line  # doctest: +SKIP
        'deleting its top 3 costs 2.50, random 3 costs 0.70 (evidence)'
    """
    one = {"": scores}
    return evidences(live, question, one, interventions, baseline, k=k, orders=orders, seed=seed, cancelled=cancelled)[
        ""
    ]


def evidences(
    live: LiveModel,
    question: Asked | Question,
    scores: Mapping[str, npt.ArrayLike],
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    *,
    k: int = 3,
    orders: int = ORDERS,
    seed: int = 0,
    cancelled: Cancelled | None = None,
) -> dict[str, Evidence]:
    """`evidence` of several rankings by name, all held to the same random ones, which are run once."""
    asked = question.first if isinstance(question, Question) else question
    ranked = {name: ranking(asked, values) for name, values in scores.items()}
    words = sorted(next(iter(ranked.values())))
    k = min(k, len(words))
    what, chosen = explained(live, asked, interventions), replacement(live, asked, baseline)
    draw = np.random.default_rng(seed)
    drawn = [frozenset(int(i) for i in draw.permutation(words)[:k]) for _ in range(orders)]
    none, firsts = frozenset[int](), {name: frozenset(order[:k]) for name, order in ranked.items()}
    table = metrics_with(what, chosen, list(dict.fromkeys([none, *firsts.values(), *drawn])), MEMORY, None, cancelled)
    random_cost = table[none] - float(np.mean([table[one] for one in drawn]))
    return {
        name: Evidence(k, float(table[none] - table[first]), random_cost, chosen.name) for name, first in firsts.items()
    }


def delete(
    live: LiveModel,
    question: Asked | Question,
    positions: Sequence[int],
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    cancelled: Cancelled | None = None,
) -> Deleted:
    """The real answer with the tokens at `positions` replaced: one forward.

    Raises:
        PromptError: for a position outside the prompt.
    """
    asked = question.first if isinstance(question, Question) else question
    n = len(asked.tokens)
    for position in positions:
        if not -n <= position < n:
            raise PromptError(
                f"Position {position} does not exist: the prompt has {n} tokens (0 to {n - 1}, or -1 to -{n})."
            )
    at = tuple(dict.fromkeys(p % n for p in positions))
    what, chosen = explained(live, asked, interventions), replacement(live, asked, baseline)
    mask = torch.zeros(1, n, dtype=torch.bool, device="cpu")
    mask[0, list(at)] = True
    logits = logits_of_rows(what, lambda own: chosen.where(mask, own), 1, cancelled)
    return Deleted(at, logits[0, 0], float(what.score(logits)[0]), chosen.name)


def replacement(live: LiveModel, asked: Asked, baseline: BaselineSpec) -> Baseline:
    """What tokens are replaced by; `"auto"` is what `neutral` says."""
    free = isinstance(baseline, str) and baseline == "auto"
    return find_baseline(live, asked, neutral(live) if free else baseline)


def metrics_with(
    what: Explained,
    baseline: Baseline,
    sets: Sequence[frozenset[int]],
    memory: int,
    progress: Progress | None,
    cancelled: Cancelled | None,
) -> dict[frozenset[int], float]:
    """The metric with each set of positions replaced."""
    size, table = chunk_rows(what, memory, grad=False), dict[frozenset[int], float]()
    for start in range(0, len(sets), size):
        give_up(cancelled)
        here = sets[start : start + size]
        masks = torch.zeros(len(here), len(what.tokens), dtype=torch.bool, device="cpu")
        for row, positions in enumerate(here):
            masks[row, list(positions)] = True
        values = replaced(what, baseline, masks, cancelled)
        table.update({positions: float(value) for positions, value in zip(here, values, strict=True)})
        if progress is not None:
            progress(min(1.0, (start + size) / len(sets)))
    return table
