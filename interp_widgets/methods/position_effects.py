"""What the interventions change at every position: the metric read there, and how far the whole answer moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interp_widgets.model.compile import compile_program
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Asked, Question, Token
from interp_widgets.model.rows import READ_BYTES, Cancelled, FloatArray
from interp_widgets.model.run import forward, modes

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass(frozen=True, eq=False)
class PositionEffects:
    """The same target and foil, read at every position of the prompt.

    Attributes:
        tokens: the prompt.
        plain: `[pos]`, the metric of the plain run, read at each position.
        edited: `[pos]`, the same under the interventions.
        kl: `[pos]`, KL(plain ‖ edited) of the next-token distributions there, in nats; exactly 0 before the first edit acts.
    """

    tokens: tuple[Token, ...]
    plain: FloatArray
    edited: FloatArray
    kl: FloatArray

    @property
    def change(self) -> FloatArray:
        """`[pos]`, edited − plain; positive = toward the target."""
        return self.edited - self.plain

    def to_pandas(self) -> Any:
        """One row per position: token, plain, edited, change, kl. Needs pandas."""
        import pandas as pd

        columns = {"plain": self.plain, "edited": self.edited, "change": self.change, "kl": self.kl}
        return pd.DataFrame({"token": [t.text for t in self.tokens], **columns})


def position_effects(
    live: LiveModel,
    question: Question | Asked,
    interventions: Sequence[Intervention],
    cancelled: Cancelled | None = None,
) -> PositionEffects:
    """The metric at every position, plain and under `interventions`; two forwards. Of a prompt set the first example.

    Raises:
        InterventionError: for an intervention that cannot be applied to this prompt. CancelledError: when cancelled.

    Example:
        >>> found = position_effects(live, session.question, session.interventions)  # doctest: +SKIP
        >>> found.change[session.question.first.position]  # doctest: +SKIP
        -1.14
    """
    asked = question.first if isinstance(question, Question) else question
    plain, edited = _hidden(live, asked, (), cancelled), _hidden(live, asked, interventions, cancelled)
    step = max(1, READ_BYTES // (8 * live.anatomy.vocab))
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(asked.tokens), step):
        with live.lock, modes(live.device):
            before, after = (live.readout.logits(rows[start : start + step]) for rows in (plain, edited))
            parts.append(
                (asked.metric.of(before, cancelled), asked.metric.of(after, cancelled), _divergences(before, after))
            )
    arrays = (torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True))
    return PositionEffects(asked.tokens, *arrays)


def _divergences(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    same = (before == after).all(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0.0).masked_fill(same, 0.0)


def _hidden(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention], cancelled: Cancelled | None
) -> torch.Tensor:
    """The unembedding's input at every position, `[pos, d_model]`; that of the plain run is kept."""
    key = ("hidden", asked.ids, live.fingerprint())
    kept = live.cache.get(key) if not interventions else None
    if isinstance(kept, torch.Tensor):
        return kept
    with live.lock:
        live.ready()
        batch = live.batch(asked.tokens)
        compiled = compile_program(live, batch, interventions, (), [asked.tokens], cancelled)
        _, hidden = forward(live.caller, live.anatomy, batch, compiled.program)
    if not interventions:
        live.cache.put(key, hidden[0])
    return hidden[0]
