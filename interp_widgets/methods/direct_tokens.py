"""Direct logit attribution by source token: what each head carried from each position straight to the answer.

Elhage et al. 2021 ("A mathematical framework for transformer circuits"), with the final norm's divisor held at this run's
value. One forward and one backward through a graph in which nothing that a block *reads* from the stream passes a
gradient: what is left is the straight way from every write to the metric, with whatever a family puts on it (multipliers,
norms behind attention), found without a line of code for that family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from interp_widgets.methods.explained import Cancelled, Explained, explained, read_logits
from interp_widgets.methods.lrp import affine, also_hooked, norm_rule
from interp_widgets.methods.native_attention import NativeAttention
from interp_widgets.methods.no_gradient import refuse_gradients, watch
from interp_widgets.model.anatomy import Layer, Write
from interp_widgets.model.compile import Compiled, place_step
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import Tap, activate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import on_input, on_output, reader_of
from interp_widgets.model.question import Asked, Question, Token
from interp_widgets.model.reads import is_centred
from interp_widgets.model.run import force_eager, modes

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DirectTokens:
    """What reaches the metric straight, part by part; the parts sum to the metric.

    Attributes:
        tokens: the prompt.
        sources: `[layer, head, src]`, what the head carried from that position: pattern · value · output · direction.
        replaced: `[layer, head]`, what an edit put into a head beside that; 0 where nothing is edited.
        attention_biases: `[layer]`, of the output projections (and of norms behind attention).
        mlps: `[layer]`, at the read position; embedding: of the token there, its position included.
        edits: `[layer]`, what edits of the stream, of attention's or of the MLP's write put there; 0 where nothing is edited.
        constant: the final norm's and the unembedding's biases.
        metric: what all of it sums to.
        error: sum of all parts − metric: rounding, or a metric that is not linear.
        explains: `"plain run"` or `"edited run"`.
    """

    tokens: tuple[Token, ...]
    sources: Table
    replaced: Table
    attention_biases: Table
    mlps: Table
    edits: Table
    embedding: float
    constant: float
    metric: float
    error: float
    explains: Literal["plain run", "edited run"]

    @property
    def label(self) -> str:
        """What the numbers are, and are not."""
        return "direct, by source position: what sits there may come from other tokens"

    @property
    def heads(self) -> Table:
        """What each head wrote, `[layer, head]`."""
        return self.sources.sum(2) + self.replaced

    @property
    def by_token(self) -> Table:
        """What all heads together carried from each position, `[src]`."""
        return self.sources.sum((0, 1))

    def carriers(self, position: int, n: int = 5) -> list[tuple[str, float]]:
        """The `n` heads that carried most from `position`, by size: `("L1H0", 3.2)`."""
        table = self.sources[:, :, position]
        order = np.argsort(-np.abs(table), axis=None)[:n]
        return [(f"L{i // table.shape[1]}H{i % table.shape[1]}", float(table.flat[i])) for i in order.tolist()]

    def to_pandas(self) -> Any:
        """One row per layer, head and source position."""
        import pandas as pd

        rows = [
            (layer, head, src, self.tokens[src].text, float(self.sources[layer, head, src]))
            for layer, head, src in np.ndindex(*self.sources.shape)
        ]
        return pd.DataFrame(rows, columns=["layer", "head", "source", "token", "contribution"])


def direct_by_source(
    live: LiveModel,
    question: Asked | Question,
    interventions: Sequence[Intervention] = (),
    cancelled: Cancelled | None = None,
) -> DirectTokens:
    """Split the metric into what every head carried from every position, and what MLPs, embedding, biases and edits wrote.

    Raises:
        FeatureOffError: where what a block adds to the stream, or attention's pattern, was not found in this model.

    Example:
        >>> direct = direct_by_source(live, session.question)  # doctest: +SKIP
        >>> direct.carriers(4)[0]  # doctest: +SKIP
        ('L1H0', 42.4)
    """
    asked = question.first if isinstance(question, Question) else question
    _refuse(live)
    refuse_gradients(live)
    what = explained(live, asked, interventions)
    for native in (False, True) if live.patterns_wrapped else (True,):
        with live.lock, modes(live.device):
            live.ready()
            graph = _Graph(what, *what.compiled(1, cancelled), NativeAttention() if native else None)
            graph.place()
            value = graph.run()
        if len(graph.seen) == len(live.anatomy.layers):
            return graph.split(value, asked, "edited run" if what.edited else "plain run")
    raise FeatureOffError(_UNSEEN)


_UNSEEN = (
    "Direct attribution by source token needs attention's pattern and values, and this model's attention neither goes through "
    "transformers' registry nor multiplies what softmax gave with its values; use method='occlusion'."
)


def _refuse(live: LiveModel) -> None:
    for feature in ("writes", "stream", "heads", "direct"):
        live.need(feature)
    for layer in live.anatomy.layers:
        reason = _hole(layer)
        if reason:
            raise FeatureOffError(f"Direct attribution by source token is off: in layer {layer.index}, {reason}.")


def _hole(layer: Layer) -> str:
    if layer.attention is None or layer.others:
        return layer.hole or "something beside attention and MLP writes to the stream"
    if layer.attention.gated:
        return "heads are gated after their softmax"
    if layer.post_norm:
        return "the stream is normalised after each addition"
    if layer.attention.write is None or layer.mlp is None or layer.mlp.write is None:
        return "what is added to the stream was not found"
    return ""


@dataclass
class _Graph:
    """One run's graph of straight ways: what was written, by name, and the metric that it leads to."""

    what: Explained
    compiled: Compiled
    batch: Any
    native: NativeAttention | None
    kept: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict[tuple[str, int], torch.Tensor])
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict[int, tuple[torch.Tensor, torch.Tensor]]
    )

    def place(self) -> None:
        """Interventions stand between two keepers: what comes out beside what went in is what they wrote themselves."""
        live, program = self.what.live, self.compiled.program
        self.norms = [
            m for m in live.anatomy.root.modules() if "norm" in type(m).__name__.lower() and not list(m.children())
        ]
        for norm in self.norms:
            program.on_after(norm, norm_rule(norm))
        on_input(program, live.anatomy.layers[0].module, lambda: 1, self._leaf("embedding", 0))
        for layer in live.anatomy.layers:
            self._place_writes(layer)
        if self.compiled.steps:
            self._place_streams("into")
        for step in self.compiled.steps:
            place_step(live, program, step, lambda: 1)
        if self.compiled.steps:
            self._place_streams("out of")
        if live.anatomy.final_norm is not None:
            on_output(program, Write(live.anatomy.final_norm, None, 1.0), lambda: 1, self._keeper("normed", 0))
        self.readers: list[nn.Module] = []
        for layer in live.anatomy.layers:
            self._place_layer(layer)

    def _place_writes(self, layer: Layer) -> None:
        """What attention and the MLP write, before anything edits it."""
        assert layer.attention is not None and layer.attention.write is not None
        assert layer.mlp is not None and layer.mlp.write is not None
        program, index = self.compiled.program, layer.index
        on_output(program, _raw(layer.attention.write), lambda: 1, watch(f"the attention of layer {index}"))
        on_output(program, _raw(layer.attention.write), lambda: 1, self._keeper("attention", index))
        on_output(program, _raw(layer.mlp.write), lambda: 1, self._leaf("mlp", index))

    def _place_streams(self, side: str) -> None:
        """Keep whatever an edit of the stream or of a write is handed (`"into"`), or gives (`"out of"`)."""
        program, anatomy = self.compiled.program, self.what.live.anatomy
        on_input(program, anatomy.layers[0].module, lambda: 1, self._keeper(f"first {side}", 0))
        for layer in anatomy.layers:
            assert layer.attention is not None and layer.attention.write is not None
            assert layer.mlp is not None and layer.mlp.write is not None
            reader, after = reader_of(anatomy, layer.index), self._keeper(f"stream {side}", layer.index)
            if reader is not None:
                on_input(program, reader, lambda: 1, after)
            else:
                on_output(program, Write(layer.module, layer.output, 1.0), lambda: 1, after)
            on_output(program, _raw(layer.attention.write), lambda: 1, self._keeper(f"attn {side}", layer.index))
            on_output(program, _raw(layer.mlp.write), lambda: 1, self._keeper(f"mlp {side}", layer.index))

    def _place_layer(self, layer: Layer) -> None:
        attention, mlp, program = layer.attention, layer.mlp, self.compiled.program
        assert attention is not None and mlp is not None
        for reader in (attention.module, mlp.entry or mlp.module):
            on_input(program, reader, lambda: 1, torch.Tensor.detach)
            self.readers.append(reader)
        on_input(program, attention.output, lambda: 1, self._leaf("z", layer.index))
        if self.native is None:
            program.attention.setdefault(attention.module, []).append(Tap(self._see(layer.index)))
            return
        program.on_before(attention.module, lambda _args, _kwargs: self._inside(layer.index))
        program.on_after(attention.module, lambda _args, _kwargs, _output: self._inside(None))

    def _inside(self, layer: int | None) -> None:
        """Tell the watch over the model's own softmax whose it is."""
        assert self.native is not None
        self.native.layer = layer

    def _leaf(self, name: str, layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def touch(x: torch.Tensor) -> torch.Tensor:
            self.kept[name, layer] = x.detach().requires_grad_()
            return self.kept[name, layer].clone()  # some families go on in place (falcon), which no leaf allows

        return touch

    def _keeper(self, name: str, layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def touch(x: torch.Tensor) -> torch.Tensor:
            # A tensor of its own on the way, whatever shape it came in; an edit may put a constant there.
            self.kept[name, layer] = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            return self.kept[name, layer].clone()

        return touch

    def _see(self, layer: int) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]:
        def see(_q: torch.Tensor, _k: torch.Tensor, value: torch.Tensor, pattern: torch.Tensor) -> None:
            self.seen[layer] = (pattern.detach()[0], value.detach()[0])

        return see

    def run(self) -> torch.Tensor:
        """The metric, with the gradient of every part beside it."""
        live, what = self.what.live, self.what
        hooked = also_hooked(before=self.readers, after=[*self.norms, *_finals(live), *self._writers(), *self.readers])
        with (
            hooked,
            self.native or nullcontext(),
            modes(live.device, grad=True),
            force_eager(live.anatomy.root),
            activate(self.compiled.program),
        ):
            value = what.score(read_logits(what, self.compiled, self.batch))
            if not value.requires_grad:
                raise FeatureOffError(
                    "The metric is a function of your own that gives a plain number, which has no gradient; let it return a "
                    "tensor made from the logits."
                )
            joined = {name: x for name, x in self.kept.items() if x.requires_grad}
            slopes: Sequence[torch.Tensor | None] = torch.autograd.grad(
                value.sum(), list(joined.values()), allow_unused=True
            )
        self.slopes = dict(zip(joined, slopes, strict=True))
        if self.native is not None:
            self.seen = self.native.seen
        return value.detach()

    def _writers(self) -> list[nn.Module]:
        return [
            part.write.module
            for layer in self.what.live.anatomy.layers
            for part in (layer.attention, layer.mlp)
            if part is not None and part.write is not None
        ]

    def part(self, name: str, layer: int, position: int) -> float:
        """⟨what was written, the metric's gradient there⟩ at one position."""
        slope = self.slopes.get((name, layer))
        if slope is None:
            return 0.0
        return float((self.kept[name, layer][0, position].detach().double() * slope[0, position].double()).sum())

    def split(self, value: torch.Tensor, asked: Asked, explains: Literal["plain run", "edited run"]) -> DirectTokens:
        """The table of all parts."""
        layers, q = self.what.live.anatomy.layers, asked.position
        n_heads = max(layer.attention.n_heads for layer in layers if layer.attention is not None)
        sources = np.zeros((len(layers), n_heads, len(asked.tokens)))
        replaced = np.zeros((len(layers), n_heads))
        biases, mlps = np.zeros(len(layers)), np.zeros(len(layers))
        for layer in layers:
            carried, wrote = self._heads(layer, q)
            sources[layer.index, : len(carried)] = carried
            beside = wrote - carried.sum(1)
            scale = np.abs(carried).sum(1) + np.abs(wrote)
            replaced[layer.index, : len(carried)] = np.where(np.abs(beside) > 1e-4 * scale, beside, 0.0)
            biases[layer.index] = self.part("attention", layer.index, q) - wrote.sum()
            mlps[layer.index] = self.part("mlp", layer.index, q)
        edits = np.array([self._edited(layer.index, q) for layer in layers])
        embedding, constant = self.part("embedding", 0, q), self._constant(q)
        metric = float(value[0])
        total = sources.sum() + replaced.sum() + biases.sum() + mlps.sum() + edits.sum() + embedding + constant
        return DirectTokens(
            asked.tokens,
            sources,
            replaced,
            biases,
            mlps,
            edits,
            embedding,
            constant,
            metric,
            float(total) - metric,
            explains,
        )

    def _edited(self, layer: int, q: int) -> float:
        """What edits wrote themselves, beside what they passed on of what was there."""
        names = [name for name, at in self.kept if at == layer and name.endswith(" out of")]
        pairs = [(self.part(name, layer, q), self.part(name.replace(" out of", " into"), layer, q)) for name in names]
        return sum((after - before for after, before in pairs if after != before), 0.0)

    def _heads(self, layer: Layer, q: int) -> tuple[Table, Table]:
        """What each head carried from each position `[head, src]`, and what each wrote `[head]`."""
        assert layer.attention is not None
        n, slope = layer.attention.n_heads, self.slopes.get(("z", layer.index))
        pattern, value = self.seen[layer.index]
        if slope is None:  # an edit put something else in the place of what this layer's attention wrote
            return np.zeros((n, pattern.shape[-1])), np.zeros(n)
        direction = slope[0, q].double().unflatten(-1, (n, -1))
        wrote = (self.kept["z", layer.index][0, q].detach().double().unflatten(-1, (n, -1)) * direction).sum(-1)
        values = value.double().repeat_interleave(n // value.shape[0], dim=0)
        carried = pattern[:, q].double() * torch.einsum("hpd,hd->hp", values, direction)
        return carried.cpu().numpy(), wrote.cpu().numpy()

    def _constant(self, q: int) -> float:
        """What reaches the metric with nothing in the stream: the final norm's bias and the unembedding's."""
        live, what = self.what.live, self.what
        norm, normed = live.anatomy.final_norm, self.kept.get(("normed", 0))
        with modes(live.device):
            empty = torch.zeros(1, live.anatomy.d_model, device=live.device, dtype=live.dtype)
            nothing = float(what.score(live.readout.logits(empty)[None])[0])
            slope = self.slopes.get(("normed", 0))
            if norm is None or normed is None or slope is None:
                return nothing
            bias = affine(norm, normed.detach(), is_centred(norm))[1]
        return nothing + float((bias.double() * slope[0, q].double()).sum())


def _raw(write: Write) -> Write:
    """The same output without its scale: ⟨s·x, g⟩ = ⟨x, s·g⟩, and what is given back is bit for bit the model's own."""
    return Write(write.module, write.index, 1.0)


def _finals(live: LiveModel) -> list[nn.Module]:
    return [] if live.anatomy.final_norm is None else [live.anatomy.final_norm]
