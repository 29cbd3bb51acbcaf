"""The state that a sweep starts from, and what is kept of every row that was computed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.compile import check_edge, compile_steps, place_step
from interp_widgets.model.errors import ModelChangedError
from interp_widgets.model.fingerprint import Fingerprint
from interp_widgets.model.gate import activate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.places import first_block
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.reading import acts, finite, plain_trace
from interp_widgets.model.receipts import Tally
from interp_widgets.model.replay import Trace, finish, record, run_layers
from interp_widgets.model.run import Batch, force_eager, forward, modes
from interp_widgets.model.steps import Frame, Step

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Cancelled = Callable[[], bool]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TOP_K = 5
READ_BYTES = 128 << 20  # logits of rows that are read at once


class _Unheard(Tally):
    """A sweep's rows leave no receipts."""

    __slots__ = ()

    def add(self, before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Count nothing."""


class _Shared(Step):
    """An intervention that stays on: it acts alike on every row, however many there are."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.intervention, step.site, step.op, step.value, step.by_position, tally=_Unheard())

    def chosen(self, n: int) -> Sequence[int]:
        """Every row, each starting at the prompt's first position."""
        self.shifts = (0,) * n
        return range(n)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The edited copy of `x [row, pos, ...feature]`."""
        self.chosen(x.shape[0])
        return super().__call__(x)


@dataclass(frozen=True)
class Base:
    """The state that a sweep starts from: the question under the interventions that stay on.

    Attributes:
        trace: every block's recorded call under `steps`; the blocks' inputs are those *before* an edit at them.
        steps: the interventions that act, to be placed on every row.
        logits: `[1, vocab]`, the answer of this state.
        fingerprint: the weights and hooks it was recorded with.
    """

    asked: Asked
    trace: Trace
    steps: tuple[Step, ...]
    logits: torch.Tensor
    fingerprint: Fingerprint
    batch: Batch


def base_of(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention] = (), cancelled: Cancelled | None = None
) -> Base:
    """Record the state on screen: by replay from the lowest edited block, as the number on screen is made."""
    with live.lock, live.unchanged():
        live.ready()
        key = live.fingerprint()
        plain = plain_trace(live, asked, cancelled)
        assert plain.logits is not None
        batch = live.batch(asked.tokens)
        steps = [_Shared(step) for step in compile_steps(live, interventions, asked.tokens)]
        for step in steps:
            check_edge(step.intervention, len(asked.tokens))
            step.enter(Frame(batch.rows, batch.ids.shape[1]))
        moving = tuple(step for step in steps if acts(step))
        if not moving:
            return Base(asked, plain, (), plain.logits, key, batch)
        trace, hidden = _record_edited(live, plain, batch, moving, asked.position, cancelled)
        with modes(live.device):
            logits = finite(live.readout.logits(hidden), "the interventions that are on")
        return Base(asked, trace, moving, logits, key, batch)


def _record_edited(
    live: LiveModel, plain: Trace, batch: Batch, steps: Sequence[Step], position: int, cancelled: Cancelled | None
) -> tuple[Trace, torch.Tensor]:
    program = live.program(cancelled)
    trace = record(program, live.anatomy)
    for step in steps:
        place_step(live, program, step, lambda: 1)
    start = min(first_block(live.anatomy, step.site) for step in steps)
    if start < 0 or not replays(live):
        _, hidden = forward(live.caller, live.anatomy, batch, program, [position])
        return trace, hidden[:, -1] if hidden.shape[1] == 1 else hidden[:, position]
    n = len(live.anatomy.layers)
    with modes(live.device), force_eager(live.anatomy.root), activate(program):
        stream = plain.calls[start].hidden if start < n else plain.last
        assert stream is not None
        hidden = finish(live.anatomy, run_layers(live.anatomy, plain, stream, start, n, live.dims))
    trace.calls[:0] = plain.calls[:start]
    return trace, hidden[:, position]


def replays(live: LiveModel) -> bool:
    """Whether blocks may be called again with recorded arguments."""
    return "replay" not in live.report.off and not live.report.unverified


def same_model(live: LiveModel, base: Base) -> None:
    """Refuse to go on with a model that is not the recorded one.

    Raises:
        ModelChangedError: in a sentence.
    """
    if live.fingerprint() != base.fingerprint:
        raise ModelChangedError("The model was changed (its weights or a hook) while its parts were swept; ask again.")


@dataclass(frozen=True)
class Rows:
    """What is kept of every row.

    Attributes:
        metric: `[row]`; kl: `[row]`, nats, of the base's answer to the row's.
        rank: `[row]`, of the target, from 1.
        top: `[row, k]`, the most probable token ids; probability: `[row, k]`, theirs.
        chance: `[row]`, the probability of the target, summed over several.
    """

    metric: FloatArray
    kl: FloatArray
    rank: IntArray
    top: IntArray
    probability: FloatArray
    chance: FloatArray

    def one(self, row: int) -> Rows:
        """One row, still with a row axis."""
        at = slice(row, row + 1)
        return Rows(self.metric[at], self.kl[at], self.rank[at], self.top[at], self.probability[at], self.chance[at])

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Several, one after the other."""
        names = ("metric", "kl", "rank", "top", "probability", "chance")
        columns = [[getattr(p, name) for p in parts] for name in names]
        return cls(*(np.concatenate(c) for c in columns))


def read_rows(live: LiveModel, base: Base, hidden: torch.Tensor, cancelled: Cancelled | None = None) -> Rows:
    """Metric, KL, rank and top tokens of `hidden [row, d_model]`, in float32, a few hundred megabytes at a time.

    Raises:
        ModelChangedError: when the model is no longer the one that `base` was recorded with.
        CancelledError: when cancelled between two calls of the user's own metric.
    """
    step = max(1, READ_BYTES // (4 * live.anatomy.vocab))
    with live.lock, modes(live.device):
        same_model(live, base)
        parts = [
            rows_of(base, live.readout.logits(hidden[i : i + step]), cancelled) for i in range(0, hidden.shape[0], step)
        ]
    return parts[0] if len(parts) == 1 else Rows.join(parts)


def read_metric(live: LiveModel, base: Base, hidden: torch.Tensor) -> FloatArray | None:
    """The metric alone, `[row]`, from the few logits that it needs; None where it needs them all."""
    metric = base.asked.metric
    if metric.fn is not None or not metric.foil:
        return None
    ids = (*metric.target, *metric.foil)
    n = len(metric.target)
    with live.lock, modes(live.device):
        few = Metric(tuple(range(n)), tuple(range(n, len(ids))))
        return few.of(finite(live.readout.some(hidden, ids), "an edit of this sweep")).cpu().numpy()


def target_of(base: Base) -> int:
    """The token whose rank is kept: the target, else what the base says."""
    ids = base.asked.metric.target
    return ids[0] if ids else int(base.logits[0].argmax())


def divergence_of(before: torch.Tensor, after: torch.Tensor) -> float:
    """KL(before ‖ after) in nats, of two rows of logits `[vocab]`."""
    p, q = torch.log_softmax(before.double(), -1), torch.log_softmax(after.double(), -1)
    return max(0.0, float((p.exp() * (p - q)).sum()))


def rows_of(base: Base, logits: torch.Tensor, cancelled: Cancelled | None = None) -> Rows:
    """What is kept of `logits [row, vocab]`, compared with the base's answer."""
    own = torch.log_softmax(base.logits[0].float(), -1)
    share = own.exp()
    total = finite(logits.logsumexp(-1), "an edit of this sweep")
    kl = (share * own).sum() - (logits @ share - total)
    values, top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
    rank = (logits > logits[:, target_of(base), None]).sum(-1) + 1
    probability = (values - total[:, None]).exp()
    wanted = list(base.asked.metric.target) or [target_of(base)]
    chance = (logits[:, wanted] - total[:, None]).exp().sum(-1)
    columns = (base.asked.metric.of(logits, cancelled), kl.clamp_min(0.0), rank, top, probability, chance)
    return Rows(*(c.cpu().numpy() for c in columns))
