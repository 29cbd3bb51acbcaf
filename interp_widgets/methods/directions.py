"""Directions between two sets of activations, and how well they separate what they have not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.errors import InterventionError

Rows = npt.NDArray[np.float64]
_FOLDS = 5
_RIDGE = 1.0


@dataclass(frozen=True)
class Separation:
    """How well a direction separates prompts that it was not made from, by cross-validation.

    Attributes:
        auc: probability that a held-out positive prompt lies further along it than a held-out negative one.
        accuracy: share of held-out prompts on the right side of the midpoint of the others.
        n: how many prompts were held out in all; folds: in how many parts.
    """

    auc: float
    accuracy: float
    n: int
    folds: int

    def __str__(self) -> str:
        return f"held-out accuracy {self.accuracy:.0%}, AUC {self.auc:.2f} ({self.n} prompts, {self.folds} folds)"


def direction(above: Rows, below: Rows, method: str) -> Rows:
    """The direction `[d]` from `below [n, d]` to `above [m, d]`, as long as the difference of the means along it.

    Raises:
        InterventionError: `pca_center` for sets that are not pairs, or fewer than two of them.
    """
    difference = above.mean(0) - below.mean(0)
    if method == "mean_difference":
        return difference
    found = _pca_center(above, below) if method == "pca_center" else _probe(above, below)
    unit = found / max(float(np.linalg.norm(found)), 1e-30)
    return unit * float(difference @ unit)


def _pca_center(above: Rows, below: Rows) -> Rows:
    """First principal component of both kinds around the midpoints of their pairs."""
    if above.shape != below.shape:
        raise InterventionError(
            f"pca_center needs pairs, but there are {len(above)} positive and {len(below)} negative prompts; "
            "write one negative for each positive, or use mean_difference."
        )
    half = (above - below) / 2
    return np.linalg.svd(half, full_matrices=False)[2][0]


def _probe(above: Rows, below: Rows) -> Rows:
    """Weights of a logistic regression on standardised activations, with a quadratic penalty, in activation space."""
    x = np.concatenate([above, below])
    scale = float(x.std()) or 1.0
    features = torch.from_numpy((x - x.mean(0)) / scale)
    labels = torch.from_numpy(np.concatenate([np.ones(len(above)), np.zeros(len(below))]))
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, device="cpu", requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        value = value + _RIDGE * weights[:-1].square().sum() / 2
        (weights.grad,) = torch.autograd.grad(value, [weights])
        return value

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # pyright: ignore[reportArgumentType]  (the stub wants a float)
    return weights.detach()[:-1].numpy()


def held_out(above: Rows, below: Rows, method: str) -> Separation | None:
    """Cross-validated separation; None where fewer than two prompts of a kind leave nothing to hold out.

    Pairs stay together: the *k*-th positive and the *k*-th negative prompt are in the same fold.
    """
    fewest = min(len(above), len(below))
    if fewest < 2 or (method == "pca_center" and above.shape != below.shape):
        return None
    folds = min(_FOLDS, fewest)
    up: list[float] = []
    down: list[float] = []
    for k in range(folds):
        a, b = np.arange(len(above)) % folds == k, np.arange(len(below)) % folds == k
        found = direction(above[~a], below[~b], method)
        unit = found / max(float(np.linalg.norm(found)), 1e-30)
        middle = (above[~a].mean(0) + below[~b].mean(0)) / 2
        up += list((above[a] - middle) @ unit)
        down += list((below[b] - middle) @ unit)
    u, d = np.array(up), np.array(down)
    auc = float((u[:, None] > d[None]).mean() + 0.5 * (u[:, None] == d[None]).mean())
    accuracy = float((np.concatenate([u, -d]) > 0).mean())
    return Separation(auc, accuracy, len(u) + len(d), folds)
