"""Do the methods agree? Rank correlation between attributions of one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.attribution import Attribution
from interp_widgets.model.errors import InterpError


@dataclass(frozen=True, eq=False)
class Agreement:
    """Spearman's rank correlation of every pair of methods: `correlations [method, method]`, NaN where one has no ranking."""

    methods: tuple[str, ...]
    correlations: npt.NDArray[np.float64]

    def to_pandas(self) -> Any:
        """The table, with the methods as its rows and columns."""
        import pandas as pd

        return pd.DataFrame(self.correlations, index=list(self.methods), columns=list(self.methods))


def agreement(attributions: Sequence[Attribution] | Mapping[str, npt.ArrayLike]) -> Agreement:
    """Spearman's rank correlation between methods over the tokens of one prompt (ties share their mean rank).

    Raises:
        InterpError: when there are not at least two, or their tokens differ.

    Example:
        >>> agreement({"a": [1.0, 2.0, 3.0], "b": [1.0, 4.0, 9.0], "c": [3.0, 2.0, 1.0]}).correlations[0].tolist()
        [1.0, 1.0, -1.0]
    """
    if isinstance(attributions, Mapping):
        named = {name: np.asarray(scores, dtype=np.float64) for name, scores in attributions.items()}
    else:
        named = {a.method: a.scores for a in attributions}
        if len({tuple(t.id for t in a.tokens) for a in attributions}) > 1:
            raise InterpError(
                "The attributions are of different prompts, so they have no agreement; attribute one prompt."
            )
    if len(named) < 2:
        raise InterpError(
            f"Agreement needs at least two methods, and there are {len(named)}; attribute with another one as well."
        )
    if len({scores.shape for scores in named.values()}) > 1:
        raise InterpError("The attributions have different numbers of tokens; attribute one prompt.")
    ranked = np.array([ranks(scores) for scores in named.values()])
    return Agreement(tuple(named), _correlations(ranked))


def ranks(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Ranks from 0 for the lowest; ties share their mean rank.

    Example:
        >>> ranks([5.0, 1.0, 5.0]).tolist()
        [1.5, 0.0, 1.5]
    """
    values = np.asarray(scores, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]


def _correlations(ranked: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = ranked - ranked.mean(1, keepdims=True)
    norms = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        table = (centred @ centred.T) / np.outer(norms, norms)
    return np.clip(table, -1.0, 1.0)
