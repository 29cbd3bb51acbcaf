"""A vector at every layer and strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_widgets.methods.dose_response import STRENGTHS, DoseResponse, as_steer, dose_response
from interp_widgets.methods.steering import SteeringVector
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import Cancelled, FloatArray
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass(frozen=True)
class StrengthMap:
    """The answer for one vector, added after every block at every strength.

    Attributes:
        layers: `[layer]`; strengths: `[strength]`.
        metric: `[layer, strength]`; kl: `[layer, strength]`, nats. NaN where not computed yet.
        baseline: the metric without the vector.
        label: what the metric is called.
    """

    layers: tuple[int, ...]
    strengths: FloatArray
    metric: FloatArray
    kl: FloatArray
    baseline: float
    label: str

    def to_pandas(self) -> Any:
        """The metric, one row per layer and one column per strength. Needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.metric, index=pd.Index(self.layers, name="layer"), columns=[*self.strengths.tolist()])


def strength_map(
    live: LiveModel,
    asked: Asked,
    vector: SteeringVector | Steer,
    strengths: Sequence[float] = STRENGTHS,
    layers: Sequence[int] | None = None,
    interventions: Sequence[Intervention] = (),
    *,
    progress: Callable[[StrengthMap, float], None] | None = None,
    cancelled: Cancelled | None = None,
) -> StrengthMap:
    """One vector in the residual stream after every block, at every strength; the last layers come first.

    Args:
        live: the model.
        asked: the question.
        vector: a `SteeringVector`, or a `Steer` with its mode and positions.
        strengths: as in `dose_response`.
        layers: all of them unless given.
        interventions: what is on and stays on; this very push, when it is among them, is taken out.
        progress: called after every layer, with what is there so far and the share done.
        cancelled: asked between blocks.

    Raises:
        SiteError: for a layer that does not exist. InterventionError: for no layer. CancelledError: when cancelled.

    Example:
        >>> strength_map(live, session.question.first, mood).metric.shape  # doctest: +SKIP
        (4, 21)
    """
    chosen = tuple(range(len(live.anatomy.layers))) if layers is None else tuple(layers)
    if not chosen:
        raise InterventionError("There is no layer to try; pass at least one, or leave layers out for all of them.")
    steer = as_steer(vector)
    others = [i for i in interventions if not (isinstance(i, Steer) and i.at(1.0) == steer)]
    done: dict[int, DoseResponse] = {}
    for layer in sorted(chosen, reverse=True):
        site = Site("resid_post", layer)
        done[layer] = dose_response(live, asked, steer, strengths, others, site=site, randoms=0, cancelled=cancelled)
        if progress is not None:
            progress(_map(chosen, done), len(done) / len(chosen))
    return _map(chosen, done)


def _map(layers: tuple[int, ...], done: dict[int, DoseResponse]) -> StrengthMap:
    one = next(iter(done.values()))
    empty = np.full_like(one.metric, np.nan)
    metric = np.stack([done[layer].metric if layer in done else empty for layer in layers])
    kl = np.stack([done[layer].kl if layer in done else empty for layer in layers])
    return StrengthMap(layers, one.strengths, metric, kl, one.baseline, one.label)
