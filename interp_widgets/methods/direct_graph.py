"""The graph of straight ways from what each part wrote to the answer: nothing that a block reads passes a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from interp_widgets.methods.explained import Cancelled, Explained, give_up, read_logits
from interp_widgets.methods.lrp import affine, also_hooked, norm_rule
from interp_widgets.methods.no_gradient import watch
from interp_widgets.model.anatomy import Layer, Write
from interp_widgets.model.compile import Compiled, place_step
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import Tap, activate
from interp_widgets.model.live import LiveModel
from interp_widgets.model.native_attention import NativeAttention, Pattern
from interp_widgets.model.places import on_input, on_output, reader_of
from interp_widgets.model.reads import is_centred
from interp_widgets.model.run import force_eager, modes

Table = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass
class StraightWays:
    """One run's graph of straight ways: what was written, by name, and the numbers that it leads to.

    Attributes:
        what: what is read, at one position or at several; compiled, batch: its run.
        native: the watch over attention that computes softmax itself, or None where the wrapper shows it.
        outputs: which of the numbers are led back, by their place; all of them where empty.
        kept: what was written, `[row, pos, d]`, by name and layer.
        seen: pattern `[head, dest, src]` and values `[key-value head, src, d_head]`, by layer.
    """

    what: Explained
    compiled: Compiled
    batch: Any
    native: NativeAttention | None
    outputs: Sequence[int] = ()
    cancelled: Cancelled | None = None
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
        native, module = self.native, attention.module
        native.add(module, self._see_native(layer.index))
        program.on_before(module, lambda _args, _kwargs: native.enter(module))
        program.on_after(module, lambda _args, _kwargs, _output: native.leave())

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

    def _see_native(self, layer: int) -> Callable[[Pattern, torch.Tensor], None]:
        def see(pattern: Pattern, value: torch.Tensor) -> None:
            weights = pattern().detach()
            self.seen[layer] = (
                weights.reshape(-1, *weights.shape[-2:]),
                value.reshape(-1, *value.shape[-2:]),
            )

        return see

    def run(self, each: Callable[[int, float], T]) -> list[T]:
        """One forward, and one backward for each number that is read; `each` gets its place, and what it is.

        Nothing where attention's pattern and values were not seen in every layer.

        Raises:
            FeatureOffError: for a metric that has no gradient.
        """
        live, what = self.what.live, self.what
        hooked = also_hooked(before=self.readers, after=[*self.norms, *_finals(live), *self._writers(), *self.readers])
        with (
            hooked,
            self.native or nullcontext(),
            modes(live.device, grad=True),
            force_eager(live.anatomy.root),
            activate(self.compiled.program),
        ):
            values = what.score(read_logits(what, self.compiled, self.batch)).flatten()
        if not values.requires_grad:
            raise FeatureOffError(
                "The metric is a function of your own that gives a plain number, which has no gradient; let it return a "
                "tensor made from the logits."
            )
        if len(self.seen) < len(live.anatomy.layers):
            return []
        joined = {name: x for name, x in self.kept.items() if x.requires_grad}
        found: list[T] = []
        for output in self.outputs or range(len(values)):
            give_up(self.cancelled)
            with modes(live.device, grad=True):
                slopes: Sequence[torch.Tensor | None] = torch.autograd.grad(
                    values[output], list(joined.values()), allow_unused=True, retain_graph=True
                )
            self.slopes = dict(zip(joined, slopes, strict=True))
            found.append(each(output, float(values[output].detach())))
        return found

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

    def edited(self, layer: int, q: int) -> float:
        """What edits wrote themselves, beside what they passed on of what was there."""
        names = [name for name, at in self.kept if at == layer and name.endswith(" out of")]
        pairs = [(self.part(name, layer, q), self.part(name.replace(" out of", " into"), layer, q)) for name in names]
        return sum((after - before for after, before in pairs if after != before), 0.0)

    def heads(self, layer: Layer, q: int) -> tuple[Table, Table]:
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

    def constant(self, q: int, output: int) -> float:
        """What reaches the metric with nothing in the stream: the final norm's bias and the unembedding's."""
        live, what = self.what.live, self.what
        norm, normed = live.anatomy.final_norm, self.kept.get(("normed", 0))
        with modes(live.device):
            empty = torch.zeros(1, live.anatomy.d_model, device=live.device, dtype=live.dtype)
            logits = live.readout.logits(empty)[None].expand(1, len(what.positions), -1)
            nothing = float(what.score(logits).flatten()[output])
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
