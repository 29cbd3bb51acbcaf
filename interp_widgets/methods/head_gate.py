"""The gate between a head's softmax and the output projection, where a model has one (Qwen3-Next): what its output is multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp_widgets.model.compile import compile_program
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Ablate, Intervention
from interp_widgets.model.parts import Layer
from interp_widgets.model.question import Asked
from interp_widgets.model.reads import capture
from interp_widgets.model.rows import Cancelled
from interp_widgets.model.run import forward
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

_SLACK = 1e-3  # of the largest entry


def gate_of(
    live: LiveModel,
    asked: Asked,
    layer: Layer,
    interventions: Sequence[Intervention] = (),
    cancelled: Cancelled | None = None,
) -> torch.Tensor:
    """What each head's output is multiplied with at the read position, `[head, d_head]` float64.

    One forward in which attention gives ones; ones everywhere where there is no gate.

    Raises:
        FeatureOffError: where attention does not go through the registry. CancelledError: when cancelled.

    Example:
        >>> gate_of(live, session.question.first, live.anatomy.layers[3]).shape  # doctest: +SKIP
        torch.Size([16, 256])
    """
    attention = layer.attention
    assert attention is not None
    if not attention.gated:
        return torch.ones(attention.n_heads, attention.d_head, dtype=torch.float64, device="cpu")
    if not live.patterns_wrapped:
        raise FeatureOffError(_unsplit(layer))
    site, caught = Site("z", layer.index), dict[Site, torch.Tensor]()
    with live.lock:
        live.ready()
        batch = live.batch(asked.tokens)
        others = without_edits(interventions, layer.index)
        program = compile_program(live, batch, others, (), [asked.tokens], cancelled).program
        program.instead[attention.module] = _ones
        capture(live, program, site, 1, caught)
        forward(live.caller, live.anatomy, batch, program, [asked.position])
    return caught[site][0, asked.position].to("cpu", torch.float64)


def _ones(original: Any, module: Any, query: Any, key: Any, value: Any, mask: Any, args: Any, kwargs: Any) -> Any:
    out = original(module, query, key, value, mask, *args, **kwargs)
    return torch.ones_like(out[0]), out[1]


def without_edits(interventions: Sequence[Intervention], layer: int) -> list[Intervention]:
    """Those that do not edit what heads of a layer give (edits of their patterns stay)."""
    return [i for i in interventions if i.site.part != "z" or i.site.layer != layer or _cuts(i)]


def _cuts(intervention: Intervention) -> bool:
    return isinstance(intervention, Ablate) and intervention.edge is not None


def need_split(live: LiveModel, layer: Layer, mixed: torch.Tensor, z: torch.Tensor) -> None:
    """Refuse to split heads over their sources whose outputs are not the mix of values that attention makes of them.

    Args:
        mixed: Σ attention · value · gate, `[head, d_head]`.
        z: what the heads gave.

    Raises:
        FeatureOffError: when the two differ by more than rounding.
    """
    slack = max(_SLACK, 8 * torch.finfo(live.dtype).eps if live.dtype.is_floating_point else _SLACK)
    if float((mixed - z).abs().max()) > slack * float(z.abs().max().clamp_min(1e-12)):
        raise FeatureOffError(_unsplit(layer))


def _unsplit(layer: Layer) -> str:
    gated = layer.attention is not None and layer.attention.gated
    why = "a gate or norm lies behind their attention" if gated else "they are not attention × values alone"
    return f"What the heads of layer {layer.index} write cannot be split over tokens: {why}."
