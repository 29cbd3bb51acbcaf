"""Where a gradient would fail, or be silently wrong: refused in a sentence that names what lacks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import Program
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import on_input, on_output

if TYPE_CHECKING:
    from interp_widgets.methods.explained import Explained


def watch_gradients(what: Explained, program: Program, rows: int) -> None:
    """Stop where a layer's kernel has no gradient: the stream around it would carry on, and the result be silently wrong."""
    edited = min((-1 if i.site.layer is None else i.site.layer for i in what.interventions), default=None)

    for layer in what.live.anatomy.layers:
        if edited is not None and layer.index >= edited:
            return  # what an edit puts there may well be a constant
        if layer.attention is not None:
            on_input(program, layer.attention.output, lambda: rows, watch(f"the heads of layer {layer.index}"))
        for part, name in ((layer.attention, "attention"), (layer.mlp, "MLP")):
            if part is not None and part.write is not None:
                on_output(program, part.write, lambda: rows, watch(f"the {name} of layer {layer.index}"))
        if layer.mlp is not None and layer.mlp.neurons is not None:
            on_input(program, layer.mlp.neurons, lambda: rows, watch(f"the neurons of layer {layer.index}"))


def watch(name: str) -> Callable[[torch.Tensor], None]:
    """A look at a tensor of a graph: one without a gradient is refused by name."""

    def see(x: torch.Tensor) -> None:
        if not x.requires_grad:
            raise FeatureOffError(
                f"No gradient comes out of {name} (a quantised or compiled kernel without one), so a gradient through "
                "the rest would be wrong; use method='occlusion', which needs none."
            )

    return see


def refuse_gradients(live: LiveModel) -> None:
    """Refuse a model whose gradients would fail, or be silently wrong.

    Raises:
        FeatureOffError: with gradient checkpointing on, or for weights that were made in inference mode.
    """
    root = live.anatomy.root
    if any(p.is_inference() for p in root.parameters()):
        raise FeatureOffError(
            "The weights of this model were made inside torch.inference_mode(), so it has no gradients; load it outside, or "
            "use method='occlusion', which needs none."
        )
    if any(m.training and getattr(m, "gradient_checkpointing", False) for m in root.modules()):
        raise FeatureOffError(
            "Gradient checkpointing is on, so blocks are computed a second time outside this run; call "
            "model.gradient_checkpointing_disable() or model.eval() first."
        )
