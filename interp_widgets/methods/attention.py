"""Where every head looks: patterns under the interventions, weighted by what is carried, and what they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.compile import compile_program
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Token
from interp_widgets.model.reads import watch
from interp_widgets.model.run import forward
from interp_widgets.model.sites import Site

Array = npt.NDArray[np.float32]
Take = Callable[[int, Array, Array | None], None]


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
    layers: Sequence[int] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Attention:
    """The attention patterns of every head under `interventions`, in one forward.

    Args:
        asked: the prompt.
        interventions: what is on.
        value_weighted: also measure what each source would carry.
        layers: only these, in this order.

    Raises:
        FeatureOffError: when this model's attention cannot be read, with the reason.

    Example:
        >>> attention(live, session.question.first).patterns.shape  # doctest: +SKIP
        (4, 8, 15, 15)
    """
    wanted = range(len(live.anatomy.layers)) if layers is None else layers
    n, heads = (
        len(asked.tokens),
        max((layer.attention.n_heads for layer in live.anatomy.layers if layer.attention), default=0),
    )
    patterns = np.full((len(wanted), heads, n, n), np.nan, dtype=np.float32)
    weights = np.full((len(wanted), heads, n), np.nan, dtype=np.float32) if value_weighted else None
    row = {layer: i for i, layer in enumerate(wanted)}

    def take(layer: int, found: Array, norms: Array | None) -> None:
        patterns[row[layer], : len(found)] = found
        if weights is not None and norms is not None:
            weights[row[layer], : len(norms)] = norms

    each_layer(live, asked, interventions, take, layers=wanted, value_weighted=value_weighted, cancelled=cancelled)
    return Attention(asked.tokens, patterns, weights)


def each_layer(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention],
    take: Take,
    *,
    layers: Sequence[int] | None = None,
    value_weighted: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """The patterns of one forward, a layer at a time while it runs: what is held is one layer's, however large the model.

    Args:
        take: called with the layer's number, its patterns `[head, dest, src]` and, when `value_weighted`, the norms
            `[head, src]` of what each source would carry; from the first layer up, once for every layer that has heads.
        layers: only these.

    Raises:
        FeatureOffError: when this model's attention cannot be read, with the reason. CancelledError: when cancelled.

    Example:
        >>> each_layer(live, asked, (), lambda layer, patterns, _: print(layer, patterns.shape))  # doctest: +SKIP
        0 (8, 15, 15)
    """
    live.need("patterns read")
    wanted = [
        layer.index for layer in live.anatomy.layers if layer.attention and (layers is None or layer.index in layers)
    ]
    values: dict[int, torch.Tensor] = {}
    with live.lock:
        live.ready()
        batch = live.batch(asked.tokens)
        compiled = compile_program(live, batch, interventions, (), [asked.tokens], cancelled)
        for index in wanted:
            if value_weighted:
                watch(live, compiled.program, Site("v", index), 1, lambda v, index=index: values.update({index: v[0]}))

            def see(pattern: torch.Tensor, index: int = index) -> None:
                need_own_pattern(live, index, pattern.shape[1])
                norms = carried(live, index, _seen(values, index)) if value_weighted else None
                take(index, pattern[0].detach().float().cpu().numpy(), norms)

            watch(live, compiled.program, Site("pattern", index), 1, see)
        forward(live.caller, live.anatomy, batch, compiled.program, [len(asked.tokens) - 1])


def need_own_pattern(live: LiveModel, layer: int, patterns: int) -> None:
    """Refuse a layer whose heads are not one softmax each.

    Raises:
        FeatureOffError: with both numbers.
    """
    part = live.anatomy.layers[layer].attention
    if part is not None and patterns != part.n_heads:
        raise FeatureOffError(
            f"Layer {layer} takes {patterns} softmaxes for its {part.n_heads} heads, so none of its heads has one pattern."
        )


def _seen(values: dict[int, torch.Tensor], layer: int) -> torch.Tensor:
    if layer not in values:
        raise FeatureOffError(
            f"The values of layer {layer} are not seen: its attention multiplies them in a way of its own."
        )
    return values.pop(layer)


def carried(live: LiveModel, layer: int, values: torch.Tensor) -> Array:
    """‖v_src W_O‖ of every head, `[head, src]`, from values `[src, kv_head, d_head]` through the user's own projection."""
    part = live.anatomy.layers[layer].attention
    assert part is not None
    heads = part.n_heads
    if values.shape[-1] != part.d_head:
        raise FeatureOffError(
            f"The values of layer {layer} are {values.shape[-1]} wide and what a head gives is {part.d_head}: something lies between them."
        )
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
