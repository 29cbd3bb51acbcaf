"""Attribution by occlusion: what the answer loses when a token is replaced."""

from __future__ import annotations

import numpy as np
import torch

from interp_widgets.methods.baselines import Baseline
from interp_widgets.methods.explained import MEMORY, Cancelled, Explained, Progress, chunk_rows, give_up, numbers
from interp_widgets.methods.gradients import Path, Scores


def occlusion(
    what: Explained,
    baseline: Baseline,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Path:
    """A_i = m(x) − m(x with the embedding of token i replaced by the baseline's) (Zeiler & Fergus 2014).

    Exact, one run per token. Tokens are replaced, never deleted, so every other token keeps its position. Attention is
    causal: a token after the read position scores exactly 0 and is not run. Differences are taken within one batch, so
    a token that does nothing scores exactly 0.

    Cost: one forward per token up to the read position, in batches, and one with all tokens replaced.
    """
    n, last = len(what.tokens), max(what.positions)
    scores: Scores = np.zeros(n)
    size, start = max(2, chunk_rows(what, memory, grad=False)), 0
    metric = everything = 0.0
    while start <= last:
        give_up(cancelled)
        at = list(range(start, min(start + size - 1, last + 1)))
        masks = torch.zeros(len(at) + 1 + (start == 0), n, dtype=torch.bool)
        masks[torch.arange(1, len(at) + 1), at] = True
        if start == 0:
            masks[-1] = True
        value = replaced(what, baseline, masks, cancelled)
        scores[at] = (value[0] - value[1 : len(at) + 1]).numpy()
        if start == 0:
            metric, everything = float(value[0]), float(value[-1])
        start = at[-1] + 1
        if progress is not None:
            progress(start / (last + 1))
    return Path(scores, metric, everything)


def replaced(
    what: Explained, baseline: Baseline, masks: torch.Tensor, cancelled: Cancelled | None = None
) -> torch.Tensor:
    """The number `[row]` with the tokens where `masks [row, pos]` is True replaced by the baseline's embeddings."""
    return numbers(what, lambda own: baseline.where(masks, own), masks.shape[0], cancelled)
