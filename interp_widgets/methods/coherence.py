"""Coherence: at which strengths text stops being text, by what the plain model thinks of it and by how it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.continuations import joined_text, plain_scores, repeated, written
from interp_widgets.methods.dose_response import (
    STRENGTHS,
    DoseResponse,
    Push,
    as_steers,
    beside,
    doses_of,
    pushed_beside,
)
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import Cancelled, FloatArray

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

TOKENS = 16
SAMPLES = 40


@dataclass(frozen=True)
class PlainText:
    """What samples of the plain model are like.

    Attributes:
        loss, repeats: the ranges that hold 95 % of the samples: mean loss (nats), and share of repeated 4-grams.
        seed: of the sample of median loss.
    """

    loss: tuple[float, float]
    repeats: tuple[float, float]
    seed: int
    nbytes: int = 0


@dataclass(frozen=True)
class Coherence:
    """One continuation per strength, measured against samples of the plain model.

    A strength breaks the text when its loss under the plain model, or its share of repeated 4-grams, lies outside the
    range that holds 95 % of the plain samples.

    Attributes:
        strengths: `[strength]`.
        loss: `[strength]`, mean −log p per token (nats) of the continuation under the plain model.
        repeats: `[strength]`, share of 4-grams of tokens that occurred before in it.
        loss_range, repeats_range: the plain samples' 2.5 % and 97.5 % quantiles.
        texts: the continuations.
        samples: how many plain samples; tokens: how long each may be.
    """

    strengths: FloatArray
    loss: FloatArray
    repeats: FloatArray
    loss_range: tuple[float, float]
    repeats_range: tuple[float, float]
    texts: tuple[str, ...]
    samples: int
    tokens: int

    @property
    def breaks(self) -> npt.NDArray[np.bool_]:
        """`[strength]`, whether the text is outside either range."""
        low, high = self.loss_range
        return (self.loss < low) | (self.loss > high) | (self.repeats > self.repeats_range[1])

    @property
    def criterion(self) -> str:
        """What `breaks` means, in a sentence."""
        low, high = self.loss_range
        return (
            f"Breaks: {self.tokens} tokens whose loss under the plain model is outside {low:.2f} to {high:.2f} nats, or whose "
            f"repeated 4-grams are above {self.repeats_range[1]:.0%} (95 % of {self.samples} plain samples lie within)."
        )


def coherence(
    live: LiveModel,
    asked: Asked,
    vector: Push,
    strengths: Sequence[float] | None = None,
    interventions: Sequence[Intervention] = (),
    *,
    tokens: int = TOKENS,
    samples: int = SAMPLES,
    seed: int = 0,
    cancelled: Cancelled | None = None,
) -> Coherence:
    """Continue the prompt once at every strength, all in one batch, and say where the text breaks.

    Plain samples are drawn first; every strength then continues with the noise of the sample of median loss, so that a
    strength near 0 gives a typical text and what differs is the vector's doing.

    Args:
        live: the model.
        asked: the question; its prompt is continued.
        vector: a `SteeringVector`, a `Steer` with its mode and positions, or several that move together.
        strengths: as in `dose_response`.
        interventions: what is on; this very push, when it is among them, is tried in its place.
        tokens: how many tokens to generate.
        samples: how many plain samples make the range; at least 20.
        seed: of the first sample.
        cancelled: asked between blocks.

    Raises:
        InterventionError: for fewer than 20 samples. CancelledError: when cancelled.

    Example:
        >>> coherence(live, session.question.first, mood).breaks.sum()  # doctest: +SKIP
        6
    """
    if type(samples) is not int or samples < 20:
        raise InterventionError(f"The range of plain text needs at least 20 samples, not {samples!r}.")
    steers = as_steers(vector)
    doses = doses_of(STRENGTHS if strengths is None else strengths)
    plain = plain_text(live, asked, tokens, samples, seed, cancelled)
    around = beside(interventions, *steers)
    edits = [pushed_beside(around, steers, None, c) for c in doses]
    rows = written(live, asked, edits, tokens, [plain.seed] * len(doses), cancelled)
    scores = plain_scores(live, asked, [[t.id for t in row.tokens] for row in rows], cancelled)
    return Coherence(
        np.array(doses, np.float32),
        np.array([-s.mean() for s in scores], np.float32),
        np.array([repeated([t.id for t in row.tokens]) for row in rows], np.float32),
        plain.loss,
        plain.repeats,
        tuple(joined_text(live, row) for row in rows),
        samples,
        tokens,
    )


def plain_text(
    live: LiveModel, asked: Asked, tokens: int, samples: int, seed: int, cancelled: Cancelled | None = None
) -> PlainText:
    """The ranges of loss and repetition of plain samples of this prompt; drawn once for a state of the weights.

    Raises:
        CancelledError: when cancelled.
    """
    key = ("plain text", asked.ids, tokens, samples, seed, live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, PlainText):
        return kept
    seeds = [seed + n for n in range(samples)]
    rows = written(live, asked, [()] * samples, tokens, seeds, cancelled)
    losses = np.array([-np.mean(np.log([max(t.probability, 1e-30) for t in row.tokens])) for row in rows], np.float64)
    repeats = np.array([repeated([t.id for t in row.tokens]) for row in rows])
    found = PlainText(_range(losses), _range(repeats), seeds[int(np.argsort(losses)[samples // 2])])
    live.cache.put(key, found)
    return found


def with_coherence(curve: DoseResponse, found: Coherence) -> DoseResponse:
    """The curve, with the strengths at which text breaks.

    Raises:
        InterventionError: when the two are not of the same strengths.
    """
    if not np.array_equal(curve.strengths, found.strengths):
        raise InterventionError("Curve and coherence are of different strengths; compute both with the same ones.")
    return replace(curve, breaks=found.breaks)


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
