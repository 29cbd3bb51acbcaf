"""Dose and response: the answer at every strength of a vector, beside random vectors of the same norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.steering import SteeringVector, is_centred_model, visible_norm
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Intervention, Steer, finite_strength
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import Cancelled, FloatArray
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Step, op_of, reach_of
from interp_widgets.model.track import track

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

STRENGTHS: tuple[float, ...] = tuple(round(0.2 * n, 1) for n in range(-10, 11))
RANDOMS = 8


@dataclass(frozen=True)
class DoseResponse:
    """The answer at every strength, all from one batch; 0 is the state on screen, not computed anew.

    Attributes:
        steer: what was tried, at strength 1.
        strengths: `[strength]`, increasing.
        metric: `[strength]`, the question's metric.
        kl: `[strength]`, nats, of the answer on screen to the answer at that strength.
        top, probability: `[strength, k]`, the most probable tokens' ids and their probabilities.
        random_metric, random_kl: `[random, strength]`, the same for random vectors of equal norm (`[0, strength]`: none were run).
        baseline: the metric on screen.
        label: what the metric is called.
        reason: why every number is the same, when the vector cannot reach the answer; empty otherwise.
        breaks: `[strength]`, whether text at that strength is outside the plain samples' range; None until `coherence` has run.
    """

    steer: Steer
    strengths: FloatArray
    metric: FloatArray
    kl: FloatArray
    top: npt.NDArray[np.int64]
    probability: FloatArray
    random_metric: FloatArray
    random_kl: FloatArray
    baseline: float
    label: str
    reason: str = ""
    breaks: npt.NDArray[np.bool_] | None = None

    @property
    def random_low(self) -> FloatArray:
        """`[strength]`, the lowest metric among the random vectors; NaN where there are none."""
        return self._band(np.min)

    @property
    def random_high(self) -> FloatArray:
        """`[strength]`, the highest."""
        return self._band(np.max)

    def _band(self, pick: Any) -> FloatArray:
        if not len(self.random_metric):
            return np.full_like(self.metric, np.nan)
        return pick(self.random_metric, axis=0)

    def at(self, strength: float) -> float:
        """The metric at one of the strengths.

        Raises:
            InterventionError: for a strength that was not run: nothing is read off between two points.
        """
        found = np.flatnonzero(np.isclose(self.strengths, strength, rtol=0, atol=1e-6))
        if not len(found):
            raise InterventionError(f"Strength {strength:g} was not run; there are {', '.join(f'{s:g}' for s in self.strengths)}.")
        return float(self.metric[found[0]])

    def to_pandas(self) -> Any:
        """One row per strength. Needs pandas."""
        import pandas as pd

        table = {"strength": self.strengths, "metric": self.metric, "kl": self.kl}
        table |= {"random_low": self.random_low, "random_high": self.random_high}
        return pd.DataFrame(table if self.breaks is None else {**table, "breaks": self.breaks})


def dose_response(
    live: LiveModel,
    asked: Asked,
    vector: SteeringVector | Steer,
    strengths: Sequence[float] | None = None,
    interventions: Sequence[Intervention] = (),
    *,
    site: str | Site | None = None,
    positions: Any = None,
    randoms: int = RANDOMS,
    seed: int = 0,
    cancelled: Cancelled | None = None,
) -> DoseResponse:
    """The answer at every strength, and what random vectors of equal norm do to it: the blocks after the site, in one batch.

    Args:
        vector: a `SteeringVector`, or a `Steer` (with its mode and positions; its own strength does not matter).
        strengths: −2 to 2 in 21 steps unless given; 0 is the state on screen.
        interventions: what is on and stays on; the vector acts after them.
        site: where, if not where the vector was made.
        positions: as in `Steer`, if not `"content"`.
        randoms: how many random vectors of equal norm; 0 for none.
        seed: of the random vectors, from a generator of their own.
        cancelled: asked between blocks.

    Raises:
        InterventionError: for a strength that is not a finite number, or when the answer is not finite at one of them.
        CancelledError, ModelChangedError: as their names say.

    Example:
        >>> curve = dose_response(live, session.question.first, mood)   # doctest: +SKIP
        >>> curve.metric.shape                                          # doctest: +SKIP
        (21,)
    """
    steer = as_steer(vector, site, positions)
    doses = sorted({finite_strength(s) for s in (STRENGTHS if strengths is None else [_number(s) for s in strengths])})
    if not doses:
        raise InterventionError("There is no strength to try; pass at least one number.")
    if type(randoms) is not int or not 0 <= randoms <= 1000:
        raise InterventionError(f"randoms is a whole number from 0 to 1000, not {randoms!r}.")
    found = track(
        live, asked, interventions, steer, doses,
        controls=randoms, seed=seed, norm=_norm(live, steer), cancelled=cancelled,
    )  # fmt: skip
    rows = found.rows
    now = float(asked.metric.of(live.answer(asked, _others(interventions, steer), cancelled).logits[None])[0])
    return DoseResponse(
        steer, found.strengths, rows.metric, rows.kl, rows.top, rows.probability, found.controls, found.control_kl,
        now, asked.metric.label, reach(live, asked, steer),
    )  # fmt: skip


def _others(interventions: Sequence[Intervention], steer: Steer) -> list[Intervention]:
    at = next((i for i, other in enumerate(interventions) if other == steer), len(interventions))
    return [*interventions[:at], *interventions[at + 1 :]]


def _norm(live: LiveModel, steer: Steer) -> float:
    """The norm of a vector as far as the model can see it."""
    stream = steer.vector.shape == (live.anatomy.d_model,) and steer.site.part not in ("z", "neurons")
    return visible_norm(steer.vector.values, stream and is_centred_model(live))


def as_steer(vector: SteeringVector | Steer, site: str | Site | None = None, positions: Any = None) -> Steer:
    """A vector as an intervention of strength 1.

    Raises:
        InterventionError: for anything else.
    """
    if isinstance(vector, Steer):
        where = vector.site if site is None else site
        return replace_steer(vector, where, vector.positions if positions is None else positions)
    if isinstance(vector, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Steer(vector.site if site is None else site, vector, 1.0, positions="content" if positions is None else positions)
    raise InterventionError(f"A dose-response curve needs a SteeringVector or a Steer, not {type(vector).__name__}.")


def replace_steer(steer: Steer, site: str | Site, positions: Any) -> Steer:
    """The same push elsewhere, at strength 1."""
    return Steer(site, steer.vector, 1.0, steer.mode, positions, steer.name, steer.origin)


def reach(live: LiveModel, asked: Asked, steer: Steer) -> str:
    """Why the answer cannot move, or nothing."""
    row = row_of(asked.tokens, len(asked.tokens))
    if not steer.positions.mask(row).any():
        if steer.positions.kind == "generated":
            return "it acts on generated positions only, and the prompt's answer is read"
        return f"no position matches {steer.positions}"
    return reach_of(Step(steer, steer.site, op_of(steer)), live.anatomy, row, asked.position) or ""


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
