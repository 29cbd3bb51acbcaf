"""Where the parts are in any decoder, found by structure and one probe forward."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True, eq=False)
class Write:
    """A module whose output, times `scale`, is added to the residual stream.

    `index` is the element of the output when the module returns a tuple, else None.
    """

    module: nn.Module
    index: int | None
    scale: float


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention: `z [pos, head, d_head]` is the input of `output`, the output projection."""

    module: nn.Module
    output: nn.Module
    n_heads: int
    n_kv_heads: int
    d_head: int
    write: Write | None


@dataclass(frozen=True, eq=False)
class Mlp:
    """One layer's MLP: `neurons` is the down projection, whose input the neurons are (None for a mixture of experts)."""

    module: nn.Module
    neurons: nn.Module | None
    d_neurons: int
    write: Write | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One block of the residual stream; `attention is None` is a hole, and `hole` says why."""

    index: int
    module: nn.Module
    attention: Attention | None
    mlp: Mlp | None
    hole: str | None = None
    norms: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of one decoder.

    Attributes:
        root: the eager causal-LM module whose forward is run (a compiled wrapper is unwrapped).
        embed: the token embedding.
        layers: the blocks, in order.
        final_norm: the module whose input is the last residual stream.
        unembed: the unembedding (`lm_head`); its input is the normed stream.
        softcap: logits are `softcap * tanh(x / softcap)`, or None.
        logit_scale: logits are multiplied by this before the cap.
        paths: the dotted name of every module above in `root`, to notice a replaced module.
        notes: what was found unusual, as sentences.
    """

    root: nn.Module
    embed: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    unembed: nn.Module
    d_model: int
    vocab: int
    softcap: float | None = None
    logit_scale: float = 1.0
    paths: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    notes: tuple[str, ...] = ()
