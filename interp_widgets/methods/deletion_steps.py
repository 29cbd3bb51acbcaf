"""The deletion test step by step: the real answer at every threshold, and random orders one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.baselines import BaselineSpec
from interp_widgets.methods.deletion import (
    Curve,
    joined,
    metrics_with,
    replacement,
    shuffled,
    unit_name,
    units_of,
)
from interp_widgets.methods.explained import Cancelled, Progress, explained, give_up, logits_of_rows
from interp_widgets.methods.row_memory import MEMORY, chunk_rows
from interp_widgets.methods.spans import SpanSpec
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question, Token


@dataclass(frozen=True, eq=False)
class Steps:
    """The answer as tokens are replaced in one order, at some of the counts.

    Attributes:
        units: what can be replaced at once, best first: tokens, or spans of them.
        counts: `[step]`, how many of them are replaced, from 0 to all.
        deletion: `[step]`, the metric with the first so many replaced; insertion: with everything *but* them replaced.
        tokens: those that are likely at some step; probabilities: `[step, token]`, theirs with the first so many replaced.
        baseline: what tokens were replaced by.
    """

    units: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]
    deletion: Curve
    insertion: Curve
    tokens: tuple[Token, ...]
    probabilities: npt.NDArray[np.float32]
    baseline: str
    unit: str = "token"

    @property
    def order(self) -> tuple[int, ...]:
        """The positions that can be replaced, best unit first."""
        return tuple(position for unit in self.units for position in unit)

    @property
    def tokens_gone(self) -> tuple[int, ...]:
        """How many tokens of `order` are replaced at each step."""
        return tuple(sum(len(unit) for unit in self.units[:count]) for count in self.counts)


def counts_of(n: int, most: int = 40) -> tuple[int, ...]:
    """At most `most` counts from 0 to `n`: every one where they are few, else closer together where they are small.

    Example:
        >>> counts_of(5), counts_of(1000, 6)
        ((0, 1, 2, 3, 4, 5), (0, 1, 6, 32, 178, 1000))
    """
    if n + 1 <= most:
        return tuple(range(n + 1))
    return (0, *sorted({round(float(c)) for c in np.geomspace(1, n, most - 1)}))


def deletion_steps(
    live: LiveModel,
    question: Asked | Question,
    scores: npt.ArrayLike,
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    *,
    spans: SpanSpec = "token",
    most: int = 40,
    top: int = 5,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Steps:
    """A ranking's own two curves with the real answer at every step: what a threshold that is dragged runs over.

    Args:
        spans: what is replaced at once; see `span_scores`.
        most: how many steps at most; see `counts_of`.
        top: how many of the likeliest tokens of each step are kept.

    Example:
        >>> steps = deletion_steps(live, asked, scores)  # doctest: +SKIP
        >>> steps.tokens[steps.probabilities[3].argmax()].text  # doctest: +SKIP
        ' the'
    """
    asked = question.first if isinstance(question, Question) else question
    units = units_of(live, asked, scores, spans)
    counts = counts_of(len(units), most)
    what, chosen = explained(live, asked, interventions), replacement(live, asked, baseline)
    masks = torch.zeros(2 * len(counts), len(asked.tokens), dtype=torch.bool, device="cpu")
    for step, count in enumerate(counts):
        masks[step, [i for unit in units[:count] for i in unit]] = True
        masks[len(counts) + step, [i for unit in units[count:] for i in unit]] = True
    size, metrics = chunk_rows(what, memory, grad=False), list[float]()
    chances: list[torch.Tensor] = []
    for start in range(0, len(masks), size):
        give_up(cancelled)
        here = masks[start : start + size]
        logits = logits_of_rows(what, partial(chosen.where, here), len(here), cancelled)
        metrics += what.score(logits).tolist()
        chances.append(logits[: max(0, len(counts) - start), 0].softmax(-1).cpu())
        if progress is not None:
            progress(min(1.0, (start + size) / len(masks)))
    probabilities = torch.cat(chances)
    likely = probabilities.topk(min(top, probabilities.shape[1]), dim=-1).indices.flatten().tolist()
    ids = list(dict.fromkeys([*asked.metric.target, *asked.metric.foil, *likely]))
    down, up = np.array(metrics).reshape(2, -1)
    tokens = tuple(live.tokens.token(i) for i in ids)
    return Steps(units, counts, down, up, tokens, probabilities[:, ids].numpy(), chosen.name, unit_name(spans))


def random_steps(
    live: LiveModel,
    question: Asked | Question,
    steps: Steps,
    interventions: Sequence[Intervention] = (),
    baseline: BaselineSpec = "auto",
    *,
    seed: int = 0,
    memory: int = MEMORY,
    cancelled: Cancelled | None = None,
) -> Generator[tuple[Curve, Curve]]:
    """Deletion and insertion at the same counts in random orders, one order after the other, without end."""
    asked = question.first if isinstance(question, Question) else question
    what, chosen = explained(live, asked, interventions), replacement(live, asked, baseline)
    draw = np.random.default_rng(seed)
    while True:
        order = shuffled(steps.units, draw)
        sets = [joined(order[:c]) for c in steps.counts] + [joined(order[c:]) for c in steps.counts]
        table = metrics_with(what, chosen, list(dict.fromkeys(sets)), memory, None, cancelled)
        down, up = np.array([table[one] for one in sets]).reshape(2, -1)
        yield down, up


def area_at(counts: Sequence[int], curve: npt.ArrayLike) -> float:
    """The area under a curve that is known at some counts, over the unit interval, by trapezoids.

    Example:
        >>> area_at((0, 1, 4), [4.0, 3.0, 0.0])
        2.0
    """
    x, y = np.asarray(counts, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / x[-1]) if x[-1] > 0 else float(y[0])
