"""The answer to a session's question: one number with where it came from, and the receipts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from interp_widgets.model.interventions import Intervention, with_reference
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.receipts import Receipt, merged
from interp_widgets.model.reference import Reference
from interp_widgets.model.rows import divergence_of


@dataclass(frozen=True)
class Next:
    """A next token: its probability now, and in the plain run."""

    id: int
    text: str
    probability: float
    plain_probability: float


@dataclass(frozen=True)
class Answer:
    """What the model answers under the interventions.

    Attributes:
        metric: in logits (or the unit of your own metric), positive toward the target; the mean over a prompt set.
        plain_metric: the same with nothing on.
        values: the metric of every example, `[example]`; `plain_values`, `ranks`, `target_probabilities`, `kls` likewise.
        interval: half the 95 % interval of the mean over a prompt set, None for one prompt.
        rank: of the target among all tokens, from 1; the mean over a prompt set.
        target_probability: of the target (summed over several); the mean over a prompt set.
        kl: KL(plain ‖ edited) at the read position, in nats; the mean over a prompt set.
        top: the most likely next tokens of both runs, in the first example.
        receipts: one per intervention.
        seconds: what the run took.
    """

    metric: float
    plain_metric: float
    values: tuple[float, ...]
    plain_values: tuple[float, ...]
    interval: float | None
    rank: float
    target_probability: float
    plain_target_probability: float
    kl: float
    top: tuple[Next, ...]
    receipts: tuple[Receipt, ...]
    seconds: float
    ranks: tuple[int, ...] = ()
    target_probabilities: tuple[float, ...] = ()
    kls: tuple[float, ...] = ()


def reference_for(live: LiveModel, question: Question, chosen: Reference | None) -> Reference | None:
    """Which prompts a mean ablation uses: the chosen ones, the question's corrupt prompts, its prompt set, the model's own."""
    if chosen is not None:
        return chosen
    given = [a for a in question.examples if a.corrupt is not None]
    if given:
        name = "corrupt prompt" if len(given) == 1 else f"{len(given)} corrupt prompts"
        pairs = tuple((a.ids, tuple(t.id for t in a.corrupt or ())) for a in given)
        return Reference(name, tuple(_text(a) for a in given), pairs=pairs)
    if question.n > 1:
        asked = tuple(((), a.ids) for a in question.examples)
        return Reference("the prompt set", tuple(a.prompt for a in question.examples), pairs=asked)
    return live.reference


def _text(asked: Asked) -> str:
    """The corrupt prompt as it was written."""
    return asked.corrupt_prompt or "".join(t.text for t in asked.corrupt or () if t.kind != "special")


def with_references(interventions: tuple[Intervention, ...], reference: Reference | None) -> tuple[Intervention, ...]:
    """Fill in the reference of every ablation that names none."""
    return tuple(with_reference(i, reference) for i in interventions)


def compute_answer(
    live: LiveModel,
    question: Question,
    interventions: tuple[Intervention, ...],
    reference: Reference | None = None,
    cancelled: Callable[[], bool] | None = None,
    top: int = 5,
) -> Answer:
    """Ask the model.

    Raises:
        InterpError: when an intervention makes no sense here, in a sentence.
    """
    start = time.perf_counter()
    uses = with_references(interventions, reference_for(live, question, reference))
    plain: list[torch.Tensor] = []
    edited: list[torch.Tensor] = []
    receipts: list[tuple[Receipt, ...]] = []
    for asked in question.examples:
        plain.append(live.answer(asked, (), cancelled).logits)
        reading = live.answer(asked, uses, cancelled) if uses else None
        edited.append(reading.logits if reading is not None else plain[-1])
        if reading is not None:
            receipts.append(reading.receipts)
    values = _metrics(question, edited)
    plain_values = _metrics(question, plain) if uses else values
    examples = question.examples
    ranks = tuple(_rank(a, row) for a, row in zip(examples, edited, strict=True))
    chances, plain_chances = (
        tuple(_probability(a, row) for a, row in zip(examples, rows, strict=True)) for rows in (edited, plain)
    )
    kls = tuple(divergence_of(p, q) if uses else 0.0 for p, q in zip(plain, edited, strict=True))
    interval = float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Answer(
        metric=float(np.mean(values)),
        plain_metric=float(np.mean(plain_values)),
        values=values,
        plain_values=plain_values,
        interval=interval,
        rank=ranks[0] if len(ranks) == 1 else float(np.mean(ranks)),
        target_probability=float(np.mean(chances)),
        plain_target_probability=float(np.mean(plain_chances)),
        kl=float(np.mean(kls)),
        top=_top(live, plain[0], edited[0], top),
        receipts=merged(receipts),
        seconds=time.perf_counter() - start,
        ranks=ranks,
        target_probabilities=chances,
        kls=kls,
    )


def _metrics(question: Question, rows: list[torch.Tensor]) -> tuple[float, ...]:
    return tuple(float(a.metric.of(row[None])[0]) for a, row in zip(question.examples, rows, strict=True))


def _rank(asked: Asked, logits: torch.Tensor) -> int:
    best = max(float(logits[i]) for i in asked.metric.target)
    return int((logits > best).sum()) + 1


def _probability(asked: Asked, logits: torch.Tensor) -> float:
    return float(torch.softmax(logits, -1)[list(asked.metric.target)].sum())


def _top(live: LiveModel, plain: torch.Tensor, edited: torch.Tensor, k: int) -> tuple[Next, ...]:
    p, q = torch.softmax(plain, -1), torch.softmax(edited, -1)
    n = min(k, q.numel())
    ids = list(dict.fromkeys([*q.topk(n).indices.tolist(), *p.topk(min(2, n)).indices.tolist()]))
    ids.sort(key=lambda i: -float(q[i]))
    return tuple(Next(i, live.tokens.token(i).text, float(q[i]), float(p[i])) for i in ids)
