"""Direct logit attribution: what each part writes to the answer by itself, past all later parts.

The direct effect of a part is its write to the residual stream at the read position, through the final norm *at the scale
that it has in this run*, along the direction of the metric (Elhage et al. 2021; Wang et al. 2023). With the biases and the
remainder (soft cap, several targets, rounding) the direct effects add up to the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from interp_widgets.model.compile import compile_program
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.parts import Attention, Layer
from interp_widgets.model.places import on_input
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.reads import is_centred, norm_scale
from interp_widgets.model.residual import rounding
from interp_widgets.model.rows import Cancelled
from interp_widgets.model.run import forward, modes
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DirectEffects:
    """Direct effects on one answer; they and the rest add up to the metric.

    Attributes:
        heads: `[layer, head]`, NaN where a layer has no such head.
        mlps: `[layer]`.
        embed: of the stream that enters the first block at the read position (token, and position where it is added).
        attention_bias: `[layer]`, of the output projections' biases, which no head owns.
        other: `[layer]`, of whatever else is added: recurrent mixers, steering of the stream.
        bias: of the final norm's and the unembedding's biases.
        remainder: metric − all of these: the soft cap, several targets read together, rounding.
        metric: what they add up to.
        scale: the final norm's scale that they were divided by.
        n: examples that all of these are means of.
    """

    heads: Array
    mlps: Array
    embed: float
    attention_bias: Array
    other: Array
    bias: float
    remainder: float
    metric: float
    scale: float
    n: int = 1

    def to_pandas(self) -> Any:
        """One row per part: its name and its direct effect. Needs pandas."""
        import pandas as pd

        rows = [("embed", self.embed)]
        for layer, mlp in enumerate(self.mlps):
            rows += [(f"L{layer}H{h}", v) for h, v in enumerate(self.heads[layer])]
            rows += [(f"L{layer}.attn bias", self.attention_bias[layer]), (f"L{layer}.mlp", mlp)]
            rows += [(f"L{layer} other", self.other[layer])]
        rows += [("bias", self.bias), ("remainder", self.remainder)]
        return pd.DataFrame(rows, columns=["part", "direct effect"]).dropna().reset_index(drop=True)


@dataclass(frozen=True)
class Frozen:
    """A norm with its scale held: linear in what it is given, `gain · (x − mean) / scale + bias`."""

    gain: torch.Tensor
    bias: torch.Tensor
    scale: float
    centred: bool

    @classmethod
    def at(cls, norm: nn.Module | None, x: torch.Tensor) -> Frozen:
        """`norm` as it acts on `x [d_model]`; its gain and bias are read off what it does, whatever they are called.

        Raises:
            FeatureOffError: when the module is not a norm of this kind.
        """
        one = torch.ones(x.shape[-1], dtype=torch.float64, device="cpu")
        none = torch.zeros_like(one)
        if norm is None:
            return cls(one, none, 1.0, centred=False)
        centred = is_centred(norm)
        dtype = next((p.dtype for p in norm.parameters()), x.dtype)
        probe = torch.ones(x.shape[-1], dtype=torch.float32, device="cpu")
        probe[1::2] = -1.0  # without a mean
        probe[-1] = probe[-1] if x.shape[-1] % 2 == 0 else 0.0
        asked = torch.stack([probe, -probe, x.float().cpu()])[None].to(x.device, dtype)
        with torch.no_grad():
            out = _wide(norm(asked)[0])
        probed = float(norm_scale(norm, asked[0, 0], centred))
        bias = (out[0] + out[1]) / 2
        gain = (out[0] - bias) * probed / _wide(asked[0, 0])
        if x.shape[-1] % 2:
            gain[-1] = torch.nan
        frozen = cls(gain, bias, float(norm_scale(norm, asked[0, 2], centred)), centred)
        given = _wide(asked[0, 2])
        if x.shape[-1] % 2:  # the entry that the probe left out
            rest = (out[2] - bias)[-1] * frozen.scale / (given - given.mean() if centred else given)[-1]
            gain[-1] = rest
        off = float((frozen(given) + bias - out[2]).norm() / out[2].norm().clamp_min(1e-30))
        if off > 64 * rounding(dtype):
            raise FeatureOffError(
                f"Direct effects are off: {type(norm).__name__} is not linear at a held scale (off by {off:.1e})."
            )
        return frozen

    def times(self, factor: float) -> Frozen:
        """This norm with its output multiplied."""
        return Frozen(self.gain * factor, self.bias * factor, self.scale, self.centred)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The share of the norm's output that `x [..., d_model]` makes, without the bias."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x) / self.scale


@dataclass(frozen=True)
class Components:
    """What was added to the stream at the read position, float64 on the CPU, already at its size in the last stream.

    Attributes:
        embed: `[d_model]`; heads: `[layer, head, d_model]`; attention_bias, mlps, other: `[layer, d_model]`.
        last: the last stream, `[d_model]`, their sum.
        norm: the final norm at the scale of this run.
        hidden: the unembedding's input, `[d_model]`, as the model computed it.
        logits: `[vocab]`.
    """

    embed: torch.Tensor
    heads: torch.Tensor
    attention_bias: torch.Tensor
    mlps: torch.Tensor
    other: torch.Tensor
    last: torch.Tensor
    norm: Frozen
    hidden: torch.Tensor
    logits: torch.Tensor


def direct_effects(
    live: LiveModel,
    question: Question | Asked,
    interventions: Sequence[Intervention] = (),
    *,
    cancelled: Cancelled | None = None,
) -> DirectEffects:
    """The direct effect of every head, MLP and the embedding, in one forward.

    Args:
        live: the model.
        question: one example, or a set of them (means are given).
        interventions: what is on.
        cancelled: asked between blocks.

    Raises:
        FeatureOffError: for a metric of one's own (it has no direction), or a model whose writes were not found.

    Example:
        >>> parts = direct_effects(live, session.question)  # doctest: +SKIP
        >>> round(parts.metric - parts.remainder - parts.bias, 3)  # doctest: +SKIP
        3.217
    """
    examples = question.examples if isinstance(question, Question) else (question,)
    found = [_one(live, asked, interventions, cancelled) for asked in examples]
    if len(found) == 1:
        return found[0]
    arrays: dict[str, Any] = {
        name: np.mean([getattr(f, name) for f in found], axis=0)
        for name in ("heads", "mlps", "attention_bias", "other")
    }
    numbers = {
        name: float(np.mean([getattr(f, name) for f in found]))
        for name in ("embed", "bias", "remainder", "metric", "scale")
    }
    return replace(found[0], **arrays, **numbers, n=len(found))


def _one(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention], cancelled: Cancelled | None
) -> DirectEffects:
    parts = components(live, asked, interventions, cancelled)
    along = Direction.of(live, asked, parts)
    norm = parts.norm
    values = {name: along(norm(getattr(parts, name))) for name in ("heads", "mlps", "attention_bias", "other")}
    embed = float(along(norm(parts.embed)))
    bias = along.constant + float(along(norm.bias))
    metric = float(asked.metric.of(parts.logits[None])[0])
    total = embed + bias + sum(float(v.nansum()) for v in values.values())
    return DirectEffects(
        heads=values["heads"].numpy(),
        mlps=values["mlps"].numpy(),
        attention_bias=values["attention_bias"].numpy(),
        other=values["other"].numpy(),
        embed=embed,
        bias=bias,
        remainder=metric - total,
        metric=metric,
        scale=norm.scale,
    )


@dataclass(frozen=True)
class Direction:
    """The metric as a linear function of the unembedding's input: `vector · hidden + constant`.

    For a logit difference this is exact; for several tokens read together it is the tangent at this run.
    """

    vector: torch.Tensor
    constant: float

    @classmethod
    def of(cls, live: LiveModel, asked: Asked, parts: Components) -> Direction:
        """The direction at a run.

        Raises:
            FeatureOffError: for a metric of one's own.
        """
        if asked.metric.fn is not None:
            raise FeatureOffError(
                f"Direct effects need a logit difference; {asked.metric.label!r} is a function of one's own, which has no direction."
            )
        with live.lock, modes(live.device, grad=True):
            logits = parts.logits[None].detach().clone().requires_grad_()
            (weights,) = torch.autograd.grad(asked.metric.of(logits).sum(), logits)
            hidden = parts.hidden[None].float().to(live.device).requires_grad_()
            if not live.readout.direct:
                hidden = parts.hidden[None].to(live.device, live.dtype).requires_grad_()
            raw = (live.readout.uncapped(hidden) * weights).sum()
            (vector,) = torch.autograd.grad(raw, hidden)
        vector = _wide(vector[0])
        return cls(vector, float(raw.detach()) - float(vector @ _wide(hidden[0])))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The share of the metric that `x [..., d_model]`, a part of the unembedding's input, makes."""
        return x @ self.vector


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to("cpu", torch.float64)


def components(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention] = (), cancelled: Cancelled | None = None
) -> Components:
    """Take the last stream at the read position apart, in one forward under `interventions`.

    Raises:
        FeatureOffError: when what is added to this model's stream was not found.
    """
    for feature in ("heads", "writes", "stream", "direct"):
        live.need(feature)
    layers, position = live.anatomy.layers, asked.position
    reads = [Site("resid_pre", layer.index) for layer in layers]
    for layer in layers:
        if layer.attention is not None and layer.attention.write is not None:
            reads += [Site("z", layer.index), Site("attn", layer.index)]
        if layer.mlp is not None and layer.mlp.write is not None:
            reads.append(Site("mlp", layer.index))
    with live.lock:
        live.ready()
        batch = live.batch(asked.tokens)
        compiled = compile_program(live, batch, interventions, reads, [asked.tokens], cancelled)
        last: list[torch.Tensor] = []
        end = live.anatomy.final_norm or live.anatomy.unembed
        on_input(compiled.program, end, lambda: 1, lambda x: last.append(x.detach().clone()))
        _, hidden = forward(live.caller, live.anatomy, batch, compiled.program, [position])
        column = hidden[0, -1 if hidden.shape[1] == 1 else position]
        with modes(live.device):
            logits = live.readout.logits(column[None])[0]
            stream = last[0][0, -1 if last[0].shape[1] == 1 else position]
            here = {site: value[0, position] for site, value in compiled.caught.items()}
            return _take_apart(live, here, stream, column, logits)


def _take_apart(
    live: LiveModel, here: dict[Site, torch.Tensor], last: torch.Tensor, hidden: torch.Tensor, logits: torch.Tensor
) -> Components:
    layers, d = live.anatomy.layers, live.anatomy.d_model
    n_heads = max(layer.attention.n_heads for layer in layers if layer.attention is not None)
    heads = torch.full((len(layers), n_heads, d), torch.nan, dtype=torch.float64, device="cpu")
    bias, mlps, other = (torch.zeros(len(layers), d, dtype=torch.float64, device="cpu") for _ in range(3))
    streams = [_wide(here[Site("resid_pre", layer.index)]) for layer in layers] + [_wide(last)]
    for i, layer in enumerate(layers):
        rest = streams[i + 1] - layer.carry * streams[i]
        if Site("z", i) in here and layer.attention is not None:
            write = _wide(here[Site("attn", i)])
            written = head_writes(layer.attention, here[Site("z", i)])
            heads[i, : layer.attention.n_heads] = written
            bias[i] = write - written.sum(0)
            rest = rest - write
        if Site("mlp", i) in here:
            mlps[i] = _wide(here[Site("mlp", i)])
            rest = rest - mlps[i]
        other[i] = rest
    size = sizes(layers)
    whole = float(size[0]) * layers[0].carry
    size = size[:, None]
    return Components(
        whole * streams[0], heads * size[..., None], bias * size, mlps * size, other * size, _wide(last),
        Frozen.at(live.anatomy.final_norm, last).times(live.anatomy.hidden_scale), hidden, logits,
    )  # fmt: skip


def sizes(layers: Sequence[Layer]) -> torch.Tensor:
    """What a unit that a layer adds to the stream has become by the last stream, `[layer]` float64."""
    size = torch.ones(len(layers), dtype=torch.float64, device="cpu")
    for i in range(len(layers) - 2, -1, -1):
        size[i] = size[i + 1] * layers[i + 1].carry
    return size


def head_writes(attention: Attention, z: torch.Tensor) -> torch.Tensor:
    """What each head of `z [head, d_head]` adds to the stream, `[head, d_model]` float64, by the module's own projection."""
    n = z.shape[0]
    alone = torch.zeros(n + 2, n, z.shape[-1], dtype=z.dtype, device=z.device)
    each = torch.arange(n, device=z.device)
    alone[each, each] = z
    alone[n + 1] = z
    return through_output(attention, alone.flatten(1))


def through_output(attention: Attention, z: torch.Tensor) -> torch.Tensor:
    """What rows of the output projection's input add to the stream, `[row, d_model]` float64, without biases.

    Args:
        attention: of the layer.
        z: `[row + 2, head · d_head]`; the last row but one is zero, and the last is the run's own, at which a norm between
            the projection and the stream has its scale.
    """
    with torch.no_grad():
        out = attention.output(z[:, None])
    wide = _wide(out[:, 0] if out.dim() == 3 else out)
    rows, zero, own = wide[:-2], wide[-2], wide[-1]
    if attention.norm is None:
        scale = attention.gain if attention.gain is not None else 1.0
        return (rows - zero) * scale
    assert attention.write is not None
    norm = Frozen.at(attention.norm, own.to(z.device, torch.float32))
    return norm(rows - zero) * attention.write.scale
