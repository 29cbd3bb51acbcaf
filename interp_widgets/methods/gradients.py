"""Attribution by gradients: gradient × input, and integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.baselines import Baseline
from interp_widgets.methods.explained import Cancelled, Explained, Progress, embeddings, give_up, gradients, numbers
from interp_widgets.methods.row_memory import MEMORY, chunk_rows
from interp_widgets.model.live import LiveModel

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Path:
    """Integrated gradients along one straight line.

    Attributes:
        scores: `[pos]`.
        metric: at the input; baseline_metric: at the baseline.
        error: sum of scores − (metric − baseline_metric): the quadrature's remainder.
    """

    scores: Scores
    metric: float
    baseline_metric: float

    @property
    def total(self) -> float:
        """metric(input) − metric(baseline)."""
        return self.metric - self.baseline_metric

    @property
    def error(self) -> float:
        """Sum of scores − total."""
        return float(self.scores.sum()) - self.total


def gradient_x_input(what: Explained, cancelled: Cancelled | None = None) -> tuple[Scores, float]:
    """A_i = ⟨e_i, ∂m/∂e_i⟩ at the token embeddings e (Denil et al. 2014; Shrikumar et al. 2016).

    Cost: one forward and one backward. First order, so a saturated softmax makes it zero or wrong; it sums to the
    metric only where that is homogeneous of degree one.

    Returns:
        scores `[pos]`, and the metric.

    Example:
        >>> scores, metric = gradient_x_input(explained(live, asked))  # doctest: +SKIP
    """
    value, embeds, slope = gradients(what, lambda own: own[None].clone(), 1, cancelled)
    return (embeds[0] * slope[0]).sum(-1).numpy(), float(value[0])


def integrated_gradients(
    what: Explained,
    baseline: Baseline,
    steps: int = 32,
    *,
    metric: float | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Path:
    """A_i = ⟨e_i − b_i, ∫₀¹ ∂m/∂e_i (b + a(e − b)) da⟩ by Gauss–Legendre quadrature (Sundararajan, Taly & Yan 2017).

    Cost: `steps` forwards and backwards, in batches of as many as `memory` bytes hold, and one forward for both ends.

    Args:
        what: what is explained.
        baseline: where the line starts.
        steps: nodes on the line.
        metric: the metric at the input, where it is known.
        memory: bytes that the graphs of one batch may hold.
        progress: called with the part done, 0 to 1.
        cancelled: asked before every block and every batch.
    """
    alpha, weight = nodes(steps)
    ends = [1.0, 0.0] if metric is None else [0.0]
    at_ends = numbers(
        what,
        lambda own: along(own, baseline, torch.tensor(ends, dtype=torch.float64, device="cpu")),
        len(ends),
        cancelled,
    )
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    size, start = chunk_rows(what, memory, grad=True), 0
    while start < steps:
        give_up(cancelled)
        here = alpha[start : start + size]
        try:
            _, _, slope = gradients(what, lambda own, a=here: along(own, baseline, a), len(here), cancelled)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        total = total + torch.einsum("r,rpd->pd", weight[start : start + size], slope)
        start += len(here)
        if progress is not None:
            progress(start / steps)
    own = embeddings(what.live, what.tokens).double().cpu()
    difference = own - baseline.rows(own)
    scores = (difference * total).sum(-1).numpy()
    return Path(scores, float(at_ends[0]) if metric is None else metric, float(at_ends[-1]))


def small(live: LiveModel, error: float, metric: float, baseline_metric: float) -> bool:
    """Whether a remainder is small beside what it is the remainder of: 1 %, in half precision 5 %."""
    tolerance = 0.01 if live.dtype.is_floating_point and torch.finfo(live.dtype).bits >= 32 else 0.05
    return abs(error) <= tolerance * max(abs(metric - baseline_metric), abs(metric), abs(baseline_metric), 1e-6)


def nodes(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss–Legendre nodes and weights on the unit interval, float64 `[steps]`; n nodes are exact up to degree 2n − 1."""
    at, weight = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((at + 1) / 2), torch.from_numpy(weight / 2)


def first_step(what: Explained, baseline: Baseline, steps: int) -> float:
    """How much of the way from the baseline's metric to the input's is gone before the first of `steps` nodes, 0 to 1.

    A norm without a position embedding in front of it forgets the length of its input, so that on the line from zero
    everything happens in the first instant, where no node is. On a smooth line this is about 1.4 / steps².
    """
    first = float(nodes(steps)[0][0])
    value = numbers(
        what, lambda own: along(own, baseline, torch.tensor([1.0, first, 0.0], dtype=torch.float64, device="cpu")), 3
    )
    end, start, zero = (float(v) for v in value)
    return (start - zero) / max(abs(end - zero), abs(end), abs(zero), 1e-6)


def along(own: torch.Tensor, baseline: Baseline, alpha: torch.Tensor) -> torch.Tensor:
    """Points b + a(e − b) on the line from the baseline to the embeddings, `[row, pos, d]`."""
    start = baseline.rows(own)
    return start + alpha.to(start)[:, None, None] * (own - start)
