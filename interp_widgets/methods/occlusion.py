"""Attribution by occlusion: what the answer loses when a token is replaced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from interp_widgets.methods.baselines import Baseline
from interp_widgets.methods.explained import Cancelled, Explained, Progress, give_up, numbers, streams_in
from interp_widgets.methods.gradients import Path, Scores
from interp_widgets.methods.row_memory import MEMORY, chunk_rows
from interp_widgets.model.chunks import halved
from interp_widgets.model.live import LiveModel
from interp_widgets.model.packed import Suffix, packs, run_packed
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import Base, base_of, read_metric, read_rows

PACKED = 192  # tokens up to which a packed pass, whose attention sees all rows at once, costs less than whole rows
_TOGETHER = 1024  # tokens of one packed pass


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
        masks = torch.zeros(len(at) + 1 + (start == 0), n, dtype=torch.bool, device="cpu")
        masks[torch.arange(1, len(at) + 1, device="cpu"), at] = True
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


def occlusion_packed(
    what: Explained,
    asked: Asked,
    baseline: Baseline,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Path | None:
    """`occlusion` where row i is computed from token i on: before it, every token is the plain run's.

    Half the work of whole rows. None where it does not apply: rows that cannot be packed on this model, an edited run, a
    long prompt, or embeddings that mix tokens before the first block.
    """
    live, last = what.live, asked.position
    if last >= PACKED or what.edited:
        return None
    base = base_of(live, asked, (), cancelled)
    if not packs(live, base):
        return None
    streams = _replaced_streams(what, base, baseline)
    if streams is None:
        return None
    scores: Scores = np.zeros(len(asked.tokens))
    metric = everything = 0.0
    start, together = 0, max(2, min(_TOGETHER, memory // _bytes_per_token(live)) // (last + 1))
    while start <= last:
        give_up(cancelled)
        at = list(range(start, min(start + together, last + 1)))
        values = _metrics_from(live, base, at, streams[: last + 1], cancelled)
        everything, metric = values[0], values[-1]
        scores[at] = metric - values[1:-1]
        start = at[-1] + 1
        if progress is not None:
            progress(start / (last + 1))
    return Path(scores, float(metric), float(everything))


def _metrics_from(
    live: LiveModel, base: Base, at: list[int], streams: torch.Tensor, cancelled: Cancelled | None
) -> Scores:
    """The metric with all tokens replaced, with each of `at`, and of the plain run, all from one pass."""
    last, own = base.asked.position, base.trace.calls[0].hidden[0]
    rows = [(0, streams), *((i, streams[i]) for i in at), (last, own[last])]

    def run(part: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
        suffix = Suffix(0, tuple(start for start, _ in part), [stream for _, stream in part])
        return run_packed(live, base, [suffix], cancelled)

    hidden = halved(live, base, rows, run)
    metric = read_metric(live, base, hidden)
    metric = read_rows(live, base, hidden, cancelled).metric if metric is None else metric
    return np.asarray(metric, dtype=np.float64)


def _replaced_streams(what: Explained, base: Base, baseline: Baseline) -> torch.Tensor | None:
    """What the first block is given with every token replaced, `[pos, d_model]`; None when that depends on other tokens.

    Seen by replacing every second token as well.
    """
    masks = torch.ones(2, len(what.tokens), dtype=torch.bool, device="cpu")
    masks[1, ::2] = False
    own, (whole, half) = base.trace.calls[0].hidden[0], streams_in(what, lambda e: baseline.where(masks, e), 2)
    expected = torch.where(masks[1].to(own.device)[:, None], whole, own)
    alone = torch.allclose(half, expected, rtol=1e-5, atol=1e-6 * float(own.abs().max()))
    return whole if alone else None


def _bytes_per_token(live: LiveModel) -> int:
    """Memory that one more token of a packed pass takes: the widest activations, and a row of every head's pattern."""
    layers = live.anatomy.layers
    neurons = max([m.d_neurons for layer in layers if (m := layer.mlp) is not None] + [4 * live.anatomy.d_model])
    heads = max([a.n_heads for layer in layers if (a := layer.attention) is not None] + [1])
    return 4 * (10 * live.anatomy.d_model + 4 * neurons + 3 * heads * _TOGETHER)
