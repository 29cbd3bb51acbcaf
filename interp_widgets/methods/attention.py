"""Where every head looks: patterns under the interventions, weighted by what is carried, and what they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Token
from interp_widgets.model.sites import Site

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of one run.

    Attributes:
        tokens: the prompt.
        patterns: `[layer, head, dest, src]`, rows sum to 1; NaN where a layer has no such head.
        weights: `[layer, head, src]`: the norm of what source `src` would put into the stream through the head,
            ‖v_src W_O‖, so that `patterns * weights[:, :, None]` is value-weighted attention (Kobayashi et al. 2020);
            None unless asked for.
    """

    tokens: tuple[Token, ...]
    patterns: Array
    weights: Array | None = None

    @property
    def value_weighted(self) -> Array:
        """`[layer, head, dest, src]`, attention times the norm of what it carries.

        Raises:
            ValueError: when the weights were not asked for.
        """
        if self.weights is None:
            raise ValueError("Value-weighted attention was not asked for; call attention(..., value_weighted=True).")
        return self.patterns * self.weights[:, :, None, :]

    @property
    def previous_token(self) -> Array:
        """`[layer, head]`: mean attention from each position to the one before it (Olsson et al. 2022)."""
        return np.diagonal(self.patterns, offset=-1, axis1=2, axis2=3).mean(-1)

    @property
    def duplicate_token(self) -> Array:
        """`[layer, head]`: mean attention to earlier occurrences of the same token, over positions that have one; NaN if none."""
        return _mean_over(self.patterns, _same(self.tokens))

    @property
    def induction(self) -> Array:
        """`[layer, head]`: mean attention to what followed an earlier occurrence of the token (Olsson et al. 2022); NaN if none."""
        follows = np.zeros_like(_same(self.tokens))
        follows[:, 1:] = _same(self.tokens)[:, :-1]
        return _mean_over(self.patterns, follows & np.tri(len(self.tokens), dtype=bool))


def attention(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention] = (),
    *,
    value_weighted: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> Attention:
    """The attention patterns of every head under `interventions`, in one forward.

    Args:
        asked: the prompt.
        interventions: what is on.
        value_weighted: also measure what each source would carry.

    Raises:
        FeatureOffError: when this model's attention cannot be read, with the reason.

    Example:
        >>> attention(live, session.question.first).patterns.shape  # doctest: +SKIP
        (4, 8, 15, 15)
    """
    live.need("patterns read")
    layers = [layer for layer in live.anatomy.layers if layer.attention is not None]
    reads = [Site("pattern", layer.index) for layer in layers]
    if value_weighted:
        reads += [Site("v", layer.index) for layer in layers]
    run = live.runs([list(asked.ids)], interventions, reads, logits=False, cancelled=cancelled)[0]
    n, heads = len(asked.tokens), max((layer.attention.n_heads for layer in layers if layer.attention), default=0)
    patterns = np.full((len(live.anatomy.layers), heads, n, n), np.nan, dtype=np.float32)
    weights = np.full((len(live.anatomy.layers), heads, n), np.nan, dtype=np.float32) if value_weighted else None
    for layer in layers:
        found = run[Site("pattern", layer.index)]
        patterns[layer.index, : found.shape[0]] = found.float().cpu().numpy()
        if weights is not None:
            weights[layer.index, : found.shape[0]] = carried(live, layer.index, run[Site("v", layer.index)])
    return Attention(asked.tokens, patterns, weights)


def carried(live: LiveModel, layer: int, values: torch.Tensor) -> Array:
    """‖v_src W_O‖ of every head, `[head, src]`, from values `[src, kv_head, d_head]` through the user's own projection."""
    part = live.anatomy.layers[layer].attention
    assert part is not None
    heads = part.n_heads
    v = values.repeat_interleave(heads // values.shape[1], dim=1)
    alone = torch.zeros(heads + 1, v.shape[0], heads, v.shape[2], dtype=v.dtype, device=v.device)
    for h in range(heads):
        alone[h, :, h] = v[:, h]
    with torch.no_grad():
        out = part.output.forward(alone.flatten(2))
        return (out[:heads] - out[heads:]).float().norm(dim=-1).cpu().numpy()


def _same(tokens: Sequence[Token]) -> npt.NDArray[np.bool_]:
    ids = np.array([t.id for t in tokens])
    return (ids[:, None] == ids[None, :]) & np.tri(len(ids), k=-1, dtype=bool)


def _mean_over(patterns: Array, where: npt.NDArray[np.bool_]) -> Array:
    rows = where.any(-1)
    if not rows.any():
        return np.full(patterns.shape[:2], np.nan, dtype=np.float32)
    return (patterns * where).sum(-1)[..., rows].mean(-1)
