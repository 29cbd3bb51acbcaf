"""Reading: any site of a forward, after the interventions at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import Program, Tap
from interp_widgets.model.native_attention import NativeAttention, Pattern
from interp_widgets.model.parts import Layer
from interp_widgets.model.places import layer_of, on_input, place
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Look = Callable[[torch.Tensor], None]


def capture(live: LiveModel, program: Program, site: Site, rows: int, caught: dict[Site, torch.Tensor]) -> None:
    """Let `program` keep what stands at `site`, `[row, pos, ...]`, in `caught`.

    Raises:
        FeatureOffError: where this model does not let the site be read, with the reason.
    """

    def keep(x: torch.Tensor) -> None:
        caught[site] = x.detach().clone()

    watch(live, program, site, rows, keep)


def watch(live: LiveModel, program: Program, site: Site, rows: int, look: Look) -> None:
    """Let `program` show what stands at `site`, `[row, pos, ...]`, to `look` while it is there; it must not be kept.

    Raises:
        FeatureOffError: where this model does not let the site be read, with the reason.
    """
    if site.part in ("pattern", "q", "k", "v", "q_unrotated", "k_unrotated"):
        _watch_attention(live, program, site, rows, look)
    elif site.part in ("attn_norm", "mlp_norm", "final_norm"):
        _watch_norm(live, program, site, rows, look)
    else:

        def see(x: torch.Tensor) -> None:
            look(x)

        place(program, live.anatomy, site, lambda: rows, see)


def _watch_attention(live: LiveModel, program: Program, site: Site, rows: int, look: Look) -> None:
    layer = layer_of(live.anatomy, site)
    attention = layer.attention
    assert attention is not None
    if site.part in ("q_unrotated", "k_unrotated") and live.rotary:
        raise FeatureOffError(
            f"{site.lens_name} is not read on a rotary model: what its attention receives is already rotated; "
            f"read {site.lens_name.replace('hook_', 'hook_rot_')} instead."
        )
    live.need("patterns read")

    def pick(whole: torch.Tensor) -> torch.Tensor:  # [row, head, pos, d_head] -> [row, pos, head, d_head]
        return whole.transpose(1, 2) if site.index is None else whole[:, site.index]

    def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: torch.Tensor) -> None:
        if site.part == "pattern":
            look(pattern if site.index is None else pattern[:, site.index])
        else:
            look(pick({"q": q, "k": k, "v": v}[site.part[0]]))

    if live.patterns_wrapped:
        program.attention.setdefault(attention.module, []).append(Tap(see))
        return
    if site.part == "v":
        _watch_own(program, layer, rows, lambda v: look(pick(v)))
        return
    if site.part != "pattern":
        raise FeatureOffError(
            f"{site.name} is off: attention of this model does not go through transformers' registry."
        )
    program.on_after(attention.module, lambda _a, _k, out: _native(out, site, look))


def _watch_own(program: Program, layer: Layer, rows: int, look: Look) -> None:
    """Values that do not pass the registry are seen where the module multiplies them with its pattern."""
    attention = layer.attention
    assert attention is not None
    own = program.own if isinstance(program.own, NativeAttention) else NativeAttention()
    program.own = own
    if attention.module not in own.modules:
        program.on_before(layer.module, lambda _a, _k: own.enter(attention.module))
        program.on_after(attention.module, lambda _a, _k, _out: own.leave())

    def take(_pattern: Pattern, values: torch.Tensor) -> None:
        each = values.reshape(rows, -1, *values.shape[-2:])
        look(each[:, :: max(1, each.shape[1] // attention.n_kv_heads)])  # heads of a group have the same

    own.add(attention.module, take)


def native_pattern(output: Any) -> torch.Tensor | None:
    """The pattern that an eager attention module returns beside its output, `[row, head, dest, src]`."""
    if isinstance(output, (tuple, list)):
        for item in output[1:]:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(item, torch.Tensor) and item.dim() == 4 and item.is_floating_point():
                return item
    return None


def _native(output: Any, site: Site, look: Look) -> None:
    pattern = native_pattern(output)
    if pattern is not None:
        look((pattern if site.index is None else pattern[:, site.index]).float())


def _watch_norm(live: LiveModel, program: Program, site: Site, rows: int, look: Look) -> None:
    norm: nn.Module | None
    if site.part == "final_norm":
        norm = live.anatomy.final_norm
    else:
        layer = layer_of(live.anatomy, site)
        norm = layer.norms[0] if site.part == "attn_norm" and layer.norms else None
        norm = layer.middle if site.part == "mlp_norm" else norm
    if norm is None:
        raise FeatureOffError(f"{site.name} does not exist: this model has no norm there.")

    centred = is_centred(norm)

    def see(x: torch.Tensor) -> None:
        look(norm_scale(norm, x.detach(), centred))

    on_input(program, norm, lambda: rows, see)


def is_centred(norm: nn.Module) -> bool:
    """Whether a norm subtracts the mean (LayerNorm) or not (RMSNorm), by what it does to a shifted input."""
    cached = getattr(norm, "weight", None)
    if not isinstance(cached, torch.Tensor) or cached.is_meta:
        return "layernorm" in type(norm).__name__.lower() and "rms" not in type(norm).__name__.lower()
    x = torch.linspace(-1, 1, cached.numel(), device=cached.device, dtype=cached.dtype).view(1, 1, -1)
    with torch.no_grad():
        return bool(torch.allclose(norm.forward(x), norm.forward(x + 3.0), atol=1e-3))


def _epsilon(norm: nn.Module, like: torch.Tensor) -> float:
    """What a norm adds to the variance, from how it treats a large and a small input of one direction."""
    small = 1e-3
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)
    one = torch.ones(like.shape[-1], device=like.device, dtype=dtype)
    one[1::2] = -1.0
    with torch.no_grad():
        spans = [norm.forward(s * one[None, None]) - norm.forward(-s * one[None, None]) for s in (1.0, small)]
    share = float((spans[1].float().norm() / spans[0].float().norm().clamp_min(1e-30)).square())
    rest = share - small**2
    return small**2 * (1 - share) / rest if rest > 0 and share < 1 else 0.0


def norm_scale(norm: nn.Module, x: torch.Tensor, centred: bool) -> torch.Tensor:
    """What a norm divides by, float32 `[row, pos]`: the standard deviation (LayerNorm) or root mean square (RMSNorm)."""
    x = x.float()
    said = (getattr(norm, name, None) for name in ("eps", "variance_epsilon", "epsilon"))
    eps = next((float(value) for value in said if value is not None), None)
    eps = _epsilon(norm, x) if eps is None else eps
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return (x.square().mean(-1) + eps).sqrt()
