"""What a decoder is made of: frozen data, found by `find_anatomy`."""

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
    """One layer's attention: `z [pos, head, d_head]` is the input of `output`, the output projection.

    Attributes:
        module: the module that computes the softmax (what an attention function is handed as its module).
        output: the output projection.
        write: what reaches the residual stream, or None when it was not found.
        gain: the write is `gain` times the projection's output, or None when a norm lies between the two (`norm`).
        norm: that norm (sandwich norms, a convolution over positions), or None.
        gated: z is the softmax's output after a further gate or norm, not that output itself.
    """

    module: nn.Module
    output: nn.Module
    n_heads: int
    n_kv_heads: int
    d_head: int
    write: Write | None
    gain: float | None = 1.0
    norm: nn.Module | None = None
    gated: bool = False


@dataclass(frozen=True, eq=False)
class Mlp:
    """One layer's MLP: `neurons` is the down projection, whose input the neurons are (None for a mixture of experts).

    `entry` is the module whose first input is what the MLP reads, or None where it was not found.
    """

    module: nn.Module
    neurons: nn.Module | None
    d_neurons: int
    write: Write | None
    entry: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """One block of the residual stream; `attention is None` is a hole, and `hole` says why.

    Attributes:
        norms: the norms that read the stream inside the block, in the order of their calls.
        middle: the module whose input is the stream between attention and MLP, or None (parallel blocks).
        input: where the stream is among the block's arguments: a position, or a keyword.
        output: the element of the block's output that is the stream, or None when it is the output.
        others: what else is added to the stream (a recurrent mixer, cross attention, per-layer inputs).
        carry: the stream that enters is multiplied by this on its way through the block.
        post_norm: the stream is normalised after each addition, so that additions are not sums of the last stream.
    """

    index: int
    module: nn.Module
    attention: Attention | None
    mlp: Mlp | None
    hole: str | None = None
    norms: tuple[nn.Module, ...] = ()
    middle: nn.Module | None = None
    input: int | str = 0
    output: int | None = None
    others: tuple[Write, ...] = ()
    carry: float = 1.0
    post_norm: bool = False


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of one decoder.

    Attributes:
        root: the eager causal-LM module whose forward is run (a compiled wrapper is unwrapped).
        embed: the token embedding.
        layers: the blocks, in order.
        final_norm: the module whose input is the last residual stream.
        unembed: the unembedding (`lm_head`); its input is the normed stream.
        between: modules that the stream goes through after the final norm, in order (nearly always none).
        softcap: logits are `softcap * tanh(x / softcap)`, or None.
        logit_scale: logits are multiplied by this before the cap.
        hidden_scale: the unembedding is given this times the final norm's output.
        paths: the dotted name of every module above in `root`, to notice a replaced module.
        notes: what was found unusual, as sentences.
        gaps: a feature that this model cannot have and the reason: `heads`, `every head`, `writes`, `neurons`,
            `direct` (direct effects on the logits), `lens` (logits of any layer's stream), `logits`, `stream`.
        errors: the largest relative error of each identity on the probe.
    """

    root: nn.Module
    embed: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    unembed: nn.Module
    d_model: int
    vocab: int
    between: tuple[nn.Module, ...] = ()
    softcap: float | None = None
    logit_scale: float = 1.0
    hidden_scale: float = 1.0
    paths: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    notes: tuple[str, ...] = ()
    gaps: dict[str, str] = field(default_factory=dict[str, str])
    errors: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def head_counts(self) -> list[int]:
        """How many heads each layer has, 0 where it has no softmax attention."""
        return [0 if layer.attention is None else layer.attention.n_heads for layer in self.layers]
