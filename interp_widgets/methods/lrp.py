"""Layer-wise relevance propagation for transformers: one backward through a linearised graph, never another model.

CP-LRP (Ali et al. 2022, "XAI for Transformers: better explanations through conservative propagation"; the other rules
as in Achtibat et al. 2024, AttnLRP) is gradient × input where, on the way back,

- attention passes relevance through its values only: the pattern is a constant (queries and keys get no gradient; the
  gated attention wrapper shows them, and where a model calls softmax itself its output is cut),
- a norm divides by a constant: its gradient is that of centring, dividing by this run's number, and the gain,
- an activation f passes relevance on unchanged: its gradient is f(x)/x,
- of a product of gate and value each gets half.

The forward's numbers stay the model's own, bit for bit: every rule adds an exact zero that carries the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from interp_widgets.methods.explained import Cancelled, Explained, gradients
from interp_widgets.methods.gradients import Scores
from interp_widgets.model.anatomy import Layer
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import After, Args, Kwargs, Program, Tap, after_hook, before_hook
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import hidden_of, on_input
from interp_widgets.model.reads import is_centred

_ACTIVATIONS = ("gelu", "silu", "relu", "elu", "swish", "mish", "tanh", "sigmoid", "laplace", "activation")
_FEW = 8  # an activation may have a few learned numbers, a projection has more
_LOUD = 64.0


def cp_lrp(what: Explained, cancelled: Cancelled | None = None) -> tuple[Scores, float]:
    """R_i = ⟨e_i, ∂m/∂e_i⟩ under the rules above: one forward and one backward.

    Conserving: where only tokens feed the stream (no biases, no position embeddings) the scores sum to the metric.

    Returns:
        scores `[pos]`, and the metric.

    Raises:
        FeatureOffError: for a part that there is no rule for, by name.
    """
    refuse_parts(what.live)
    value, embeds, slope = gradients(what, lambda own: own[None].clone(), 1, cancelled, rules=linearised)
    return (embeds[0] * slope[0]).sum(-1).numpy(), float(value[0])


def refuse_parts(live: LiveModel) -> None:
    """Refuse a model with parts that CP-LRP has no rule for.

    Raises:
        FeatureOffError: naming the first of them.
    """
    for layer in live.anatomy.layers:
        lacking = _without_rule(layer)
        if lacking:
            raise FeatureOffError(
                f"LRP has rules for attention and MLPs, but layer {layer.index} has {lacking}; use "
                "method='integrated_gradients'."
            )


def _without_rule(layer: Layer) -> str:
    if layer.attention is None or layer.others:
        return layer.hole or "parts of another kind"
    if layer.attention.gated:
        return "a gate after its softmax"
    if layer.mlp is None:
        return "an MLP whose parts were not found"
    return "a mixture of experts" if layer.mlp.neurons is None else ""


@contextmanager
def linearised(live: LiveModel, program: Program, rows: int) -> Generator[None]:
    """Put the rules into `program`; hooks that the gate lacks are there for this block only, inert in any other run."""
    last: list[torch.Tensor] = []
    held: list[Any] = []
    ruled: list[nn.Module] = []
    for module in live.anatomy.root.modules():
        rule = None if list(module.children()) else _rule_of(module, last)
        if rule is not None:
            program.on_after(module, rule)
            ruled.append(module)
    for layer in live.anatomy.layers:
        if layer.attention is not None and layer.mlp is not None and layer.mlp.neurons is not None:
            program.attention.setdefault(layer.attention.module, []).append(Tap(_constant_pattern(held)))
            on_input(program, layer.mlp.neurons, lambda: rows, _product_rule(last))
    handed = live.patterns_wrapped and "patterns read" not in live.report.off
    with also_hooked(after=ruled), nullcontext() if handed else _ConstantSoftmax(held):
        yield
        if len(held) < len(live.anatomy.layers):
            raise FeatureOffError(
                "LRP needs to hold attention's pattern constant, and this model's attention neither goes through "
                "transformers' registry nor calls softmax; load it with attn_implementation='sdpa', or use "
                "method='integrated_gradients'."
            )


@contextmanager
def also_hooked(before: Sequence[nn.Module] = (), after: Sequence[nn.Module] = ()) -> Generator[None]:
    """Put the gate's hooks on modules that lack them, for this block only; like all of them, inert in any other run."""
    handles = [
        m.register_forward_pre_hook(before_hook, prepend=True, with_kwargs=True)
        for m in before
        if before_hook not in m._forward_pre_hooks.values()  # pyright: ignore[reportPrivateUsage]
    ]
    handles += [
        m.register_forward_hook(after_hook, prepend=True, with_kwargs=True)
        for m in after
        if after_hook not in m._forward_hooks.values()  # pyright: ignore[reportPrivateUsage]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rule_of(module: nn.Module, last: list[torch.Tensor]) -> After | None:
    name = type(module).__name__.lower()
    if "norm" in name:
        return norm_rule(module)
    plain = sum(p.numel() for p in module.parameters()) <= _FEW and any(part in name for part in _ACTIVATIONS)
    return _activation_rule(last) if plain else None


def _carrying(value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """`value` bit for bit, with the gradient of `slope`."""
    return value.detach() + (slope - slope.detach())


class _ConstantSoftmax(TorchFunctionMode):
    """Holds the pattern constant where attention calls softmax itself: in this thread, while it is entered.

    `held` gets the function that was called, once per pattern.
    """

    def __init__(self, held: list[Any]) -> None:
        super().__init__()
        self.held = held

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention and len(args) >= 3:
            self.held.append(func)
            return func(args[0].detach(), args[1].detach(), *args[2:], **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if func in (torch.softmax, torch.Tensor.softmax, nn.functional.softmax) and out.dim() >= 3:
            self.held.append(func)
            return out.detach()
        return out


def _constant_pattern(
    held: list[Any],
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]:
    def see(query: torch.Tensor, key: torch.Tensor, _value: torch.Tensor, _pattern: torch.Tensor) -> None:
        held.append(see)
        for tensor in (query, key):
            if tensor.requires_grad:
                tensor.register_hook(_nothing)

    return see


def _nothing(slope: torch.Tensor | None) -> torch.Tensor | None:
    """No gradient; a quantised layer in between may give none to begin with."""
    return None if slope is None else torch.zeros_like(slope)


def _activation_rule(last: list[torch.Tensor]) -> After:
    """f(x) = x · (f(x)/x), the factor a constant."""

    def rule(args: Args, kwargs: Kwargs, output: Any) -> Any:
        x, _ = hidden_of(args, kwargs)
        y = cast("torch.Tensor", output)
        if y.shape != x.shape:
            raise FeatureOffError(
                "LRP has no rule for an activation that changes the shape of what it is given; use "
                "method='integrated_gradients'."
            )
        factor = torch.where(x == 0, torch.zeros_like(y), y / x).detach()
        last[:] = [y.detach()]
        return _carrying(y, x * factor)

    return rule


def _product_rule(last: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """Neurons that are not the activation's output itself are its product with a value: each of the two gets half."""

    def rule(neurons: torch.Tensor) -> torch.Tensor | None:
        if not last:
            raise FeatureOffError(
                "LRP has a rule for an activation that is a module of its own, and an MLP of this model has none; use "
                "method='integrated_gradients'."
            )
        activated = last.pop()
        if activated.numel() == neurons.numel() and torch.equal(activated.reshape(neurons.shape), neurons.detach()):
            return None
        return _carrying(neurons, neurons / 2)

    return rule


def norm_rule(norm: nn.Module) -> After:
    """Pass on gain · (x − mean) / σ + bias, σ a constant; gain and bias are found by what the norm does to two inputs."""

    def rule(args: Args, kwargs: Kwargs, output: Any) -> Any:
        x, _ = hidden_of(args, kwargs)
        y = cast("torch.Tensor", output)
        centred = is_centred(norm)
        with torch.no_grad():
            gain, bias = affine(norm, x, centred)
        wide = x.float()
        shaped = gain * (wide - wide.mean(-1, keepdim=True) if centred else wide)
        target = y.detach().float() - bias
        per_sigma = (shaped.detach() * target).sum(-1, keepdim=True) / shaped.detach().square().sum(
            -1, keepdim=True
        ).clamp_min(1e-30)
        slope = shaped * per_sigma  # 1/σ of this very run, whatever the norm adds under its root
        off = float(torch.dist(slope.detach(), target) / target.norm().clamp_min(1e-30))
        if off > 64 * torch.finfo(y.dtype).eps ** 0.5:
            raise FeatureOffError(
                f"LRP has no rule for {type(norm).__name__}, which is neither a LayerNorm nor an RMSNorm (off by "
                f"{off:.1g}); use method='integrated_gradients'."
            )
        return _carrying(y, slope.to(y.dtype))

    return rule


def affine(norm: nn.Module, x: torch.Tensor, centred: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and bias `[feature]` of a norm, from its answers to an input and to its opposite."""
    signs = torch.where(torch.arange(x.shape[-1], device=x.device) % 2 == 0, 1.0, -1.0).to(x.dtype).expand(1, 1, -1)
    probe = _LOUD * signs  # so loud that what a norm adds under its root does not count
    unit = signs.float() - signs.float().mean(-1, keepdim=True) if centred else signs.float()
    unit = unit / unit.square().mean(-1, keepdim=True).sqrt()
    up, down = norm.forward(probe).float(), norm.forward(-probe).float()
    return ((up - down) / (2 * unit))[0, 0], ((up + down) / 2)[0, 0]
