"""The answer to a question: logits at the read position, by one path whatever is on.

With nothing on, the stored plain row is given back. With something on, the plain run's recorded calls are replayed from the
lowest edited block; where replay is not verified for this model, or the edit is at the embedding, the whole model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.blame import not_finite
from interp_widgets.model.compile import Compiled, check_edge, compile_steps, place_step, receipts_of
from interp_widgets.model.errors import InterventionError, ModelChangedError
from interp_widgets.model.gate import activate
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.places import first_block
from interp_widgets.model.question import Asked
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.replay import Trace, finish, record, run_layers
from interp_widgets.model.run import Batch, force_eager, forward, modes
from interp_widgets.model.steps import Frame, Step

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass(frozen=True)
class Reading:
    """Logits `[vocab]` (float32) at the read position, and what every intervention did."""

    logits: torch.Tensor
    receipts: tuple[Receipt, ...]


def acts(step: Step) -> bool:
    """Whether a step can change anything in this forward."""
    intervention = step.intervention
    still = isinstance(intervention, Steer) and intervention.coefficient == 0 and intervention.mode != "clamp"
    return step.active and not still


def plain_trace(live: LiveModel, asked: Asked, cancelled: Callable[[], bool] | None = None) -> Trace:
    """The recorded plain run of a question, kept while the model is the same; `trace.logits` is `[1, vocab]`."""
    key = ("trace", asked.ids, asked.position, live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, Trace):
        return kept
    batch = live.batch(asked.tokens)
    program = live.program(cancelled)
    trace = record(program, live.anatomy)
    with live.unchanged(), modes(live.device):
        own, hidden = forward(live.caller, live.anatomy, batch, program, [asked.position])
        column = hidden[:, -1] if hidden.shape[1] == 1 else hidden[:, asked.position]
        trace.hidden = column
        trace.logits = live.readout.logits(column)
        _same_as_own(trace.logits, own[:, -1] if own.shape[1] == 1 else own[:, asked.position])
    if not bool(torch.isfinite(trace.logits).all()):
        raise InterventionError(not_finite(live, "The model's own logits are", asked.tokens, ()))
    live.cache.put(key, trace)
    return trace


def _same_as_own(logits: torch.Tensor, own: torch.Tensor) -> None:
    """Hold what is read from the last hidden state to the model's own logits.

    Raises:
        ModelChangedError: where they differ: what lies behind the hidden state is not what was found on opening.
    """
    logits = logits[:, : own.shape[-1]]  # an embedding that was padded to a round number has rows of no token
    off = float((logits - own.float()).abs().max() / own.float().abs().max().clamp_min(1e-6))
    if off > (1e-3 if own.dtype == torch.float32 else 5e-2):
        raise ModelChangedError(
            f"What the model makes of its last hidden state has changed since it was opened: its own logits are {off:.1%} from "
            "those that are read there; open the model again with iw.open(model, tokenizer)."
        )


def read_answer(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention], cancelled: Callable[[], bool] | None = None
) -> Reading:
    """See `LiveModel.answer`."""
    with live.lock, live.unchanged():
        live.ready()
        trace = plain_trace(live, asked, cancelled)
        assert trace.logits is not None
        batch = live.batch(asked.tokens)
        compiled = Compiled(
            live.program(cancelled), compile_steps(live, interventions, asked.tokens), position=asked.position
        )
        compiled.enter(Frame(batch.rows, batch.ids.shape[1]))
        for step in compiled.steps:
            check_edge(step.intervention, len(asked.tokens))
            place_step(live, compiled.program, step, lambda: 1)
        moving = [step for step in compiled.steps if acts(step)]
        if not moving:
            for step in compiled.steps:
                step.tally.fired += 1
            return Reading(trace.logits[0].clone(), receipts_of(compiled, live.anatomy, batch, 0))
        logits = edited_row(live, trace, batch, compiled, moving, asked.position)
        if not bool(torch.isfinite(logits).all()):
            raise InterventionError(not_finite(live, "The answer is", asked.tokens, [s.intervention for s in moving]))
        return Reading(logits[0], receipts_of(compiled, live.anatomy, batch, 0))


def edited_row(
    live: LiveModel, trace: Trace, batch: Batch, compiled: Compiled, moving: Sequence[Step], position: int
) -> torch.Tensor:
    """Logits `[1, vocab]` under the compiled steps: replayed where verified, else by the whole model."""
    start = min(first_block(live.anatomy, step.site) for step in moving)
    if start < 0 or "replay" in live.report.off or live.report.unverified:
        _, hidden = forward(live.caller, live.anatomy, batch, compiled.program, [position])
        column = hidden[:, -1] if hidden.shape[1] == 1 else hidden[:, position]
        with modes(live.device):
            return live.readout.logits(column)
    with modes(live.device), force_eager(live.anatomy.root), activate(compiled.program):
        stream = trace.calls[start].hidden if start < len(trace.calls) else trace.last
        assert stream is not None
        hidden = finish(live.anatomy, run_layers(live.anatomy, trace, stream, start, len(trace.calls), live.dims))
    with modes(live.device):
        return live.readout.logits(hidden[:, position])


def finite(logits: torch.Tensor, what: str) -> torch.Tensor:
    """Refuse numbers that are not numbers.

    Raises:
        InterventionError: naming what made them.
    """
    if not bool(torch.isfinite(logits).all()):
        raise InterventionError(f"The result is not finite after {what}; lower the strength, or check the weights.")
    return logits
