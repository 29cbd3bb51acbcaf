"""Sweeps: many edits of one run, each a row of a batch that grows from block to block.

The state on screen is recorded once (`Base`). A row is *born* in the block that its edit is in, and only the blocks
from there on are called for it; rows of several blocks go on side by side. All calls are of the user's own modules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.compile import place_step
from interp_widgets.model.gate import Program, activate
from interp_widgets.model.places import Touch, first_block, hidden_of, on_output, place, put_hidden
from interp_widgets.model.replay import finish, run_layers
from interp_widgets.model.residual import rounding
from interp_widgets.model.rows import Base, Cancelled, replays, same_model
from interp_widgets.model.run import batch_of, force_eager, forward, modes
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Step

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Birth:
    """Rows that are born in block `layer`: copies of the base row, edited there.

    Attributes:
        layer: the block; the number of blocks stands for the final norm.
        count: how many rows.
        edits: at a site of this block, what `[count, pos, ...]` (copies of the base row's) becomes; may be done in place.
        after: how many of the base's interventions act before these edits; None for all of them.
        watch: called with what is at a site, `[count, pos, ...]` or one row for all, before the interventions that stay on
            act there.
    """

    layer: int
    count: int
    edits: tuple[tuple[Site, Edit], ...]
    watch: tuple[tuple[Site, Callable[[torch.Tensor], None]], ...] = ()
    after: int | None = None

    @property
    def inside(self) -> bool:
        """Whether the rows part at the heads' outputs, so that what comes before need not be computed for every row."""
        parts = {site.part for site, _ in self.edits}
        return "z" in parts and parts <= {"z", "mlp"}


# ---- which way rows are computed -----------------------------------------------------------------------------------


def grows(live: LiveModel) -> bool:
    """Whether a batch of rows may grow from block to block."""
    return replays(live) and "growing batch" not in live.report.off


def splits(live: LiveModel) -> bool:
    """Whether rows may be born inside a block, after its attention."""
    return "split block" not in live.report.off


def narrows(live: LiveModel) -> bool:
    """Whether the last block may be computed at the read position only, past its attention."""
    return "read position only" not in live.report.off


# ---- rows through the blocks ------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """One growing batch through the blocks.

    Attributes:
        split: new rows are copies of the base row up to their block's attention, which is computed once for all of them:
            the one row becomes many where the first edit is, and the block's own additions broadcast from there on.
        narrow: the last block goes on at the read position only, once its attention has mixed positions.
        rows: how many rows there are at the module that runs.
    """

    live: LiveModel
    base: Base
    cancelled: Cancelled | None
    split: bool
    narrow: bool
    rows: int = 1

    def program(self) -> Program:
        """An empty program."""
        return self.live.program(self.cancelled, sys.maxsize)

    def place_steps(self, program: Program, steps: Sequence[Step]) -> None:
        """The interventions that stay on act on every row alike."""
        for step in steps:
            place_step(self.live, program, step, lambda: self.rows)

    def narrowing(self, program: Program) -> None:
        """In the last block, go on at the read position only: what is added there broadcasts over the others, unread."""
        layer = self.live.anatomy.layers[-1]
        modules = [layer.attention.output] if layer.attention is not None else []
        if layer.mlp is not None:
            modules.append(layer.middle or layer.mlp.entry or layer.mlp.module)
        position, width = self.base.asked.position, len(self.base.asked.tokens)

        def cut(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
            x, where = hidden_of(args, kwargs)
            whole = x.reshape(self.rows, -1, x.shape[-1]) if x.dim() == 2 else x
            short = whole[:, position : position + 1] if whole.shape[1] > 1 else whole
            return put_hidden(args, kwargs, where, short.reshape(-1, *short.shape[2:]) if x.dim() == 2 else short)

        def broadcast(x: torch.Tensor) -> torch.Tensor | None:
            return x.expand(-1, width, -1) if x.shape[1] == 1 else None

        for module in modules:
            program.on_before(module, cut)
        if layer.mlp is not None and layer.mlp.write is not None:
            # rows and positions in one dimension do not broadcast by themselves
            on_output(program, layer.mlp.write, lambda: self.rows, broadcast, flat=True)

    def call(self, layer: int, hidden: torch.Tensor, program: Program) -> torch.Tensor:
        """One block on `hidden`."""
        with activate(program):
            return run_layers(self.live.anatomy, self.base.trace, hidden, layer, layer + 1, self.live.dims)

    def birth(self, birth: Birth, narrow: bool) -> torch.Tensor:
        """The stream of new rows after the block (or the final norm) that they are born in."""
        program = self.program()
        split = self.split and birth.inside
        for site, look in birth.watch:
            place(program, self.live.anatomy, site, lambda: self.rows, look)
        self.place_steps(program, self.base.steps[: birth.after])
        for site, edit in birth.edits:
            place(program, self.live.anatomy, site, lambda: self.rows, self._grown(birth.count, edit))
        if split:
            self._widen(program, birth)
        if birth.after is not None:
            self.place_steps(program, self.base.steps[birth.after :])
        if narrow and birth.inside:
            self.narrowing(program)
        n = len(self.live.anatomy.layers)
        stream = self.base.trace.calls[birth.layer].hidden if birth.layer < n else self.base.trace.last
        assert stream is not None
        self.rows = 1 if split else birth.count
        if not split:
            stream = stream.expand(birth.count, -1, -1)
        if birth.layer < n:
            return self._full(self.call(birth.layer, stream, program), birth.count)
        with activate(program):
            return self._full(finish(self.live.anatomy, stream), birth.count)

    def _widen(self, program: Program, birth: Birth) -> None:
        """The MLP's write as many rows as the heads', where a parallel block adds the one to the other in place."""
        layer = self.live.anatomy.layers[birth.layer]
        if layer.mlp is None or layer.mlp.write is None or any(site.part == "mlp" for site, _ in birth.edits):
            return
        count = birth.count

        def touch(x: torch.Tensor) -> torch.Tensor | None:
            return None if x.shape[0] == count else x.expand(count, *x.shape[1:]).clone()

        place(program, self.live.anatomy, Site("mlp", birth.layer), lambda: self.rows, touch)

    def _full(self, hidden: torch.Tensor, count: int) -> torch.Tensor:
        return hidden if hidden.shape[0] == count else hidden.expand(count, -1, -1)

    def _grown(self, count: int, edit: Edit) -> Touch:
        def touch(x: torch.Tensor) -> torch.Tensor:
            self.rows = count
            return edit(x.expand(count, *x.shape[1:]).clone() if x.shape[0] != count else x.clone())

        return touch

    def run(self, births: Sequence[Birth]) -> torch.Tensor:
        """The unembedding's input of every row, `[row, d_model]`, in the order of `births` (by layer)."""
        n = len(self.live.anatomy.layers)
        carried: torch.Tensor | None = None
        plain = self.program()
        self.place_steps(plain, self.base.steps)
        short = self.program()
        self.place_steps(short, self.base.steps)
        self.narrowing(short)
        for layer in range(births[0].layer, n):
            last = self.narrow and layer == n - 1
            parts: list[torch.Tensor] = []
            if carried is not None:
                self.rows = carried.shape[0]
                parts.append(self.call(layer, carried, short if last else plain))
            parts += [self.birth(b, last) for b in births if b.layer == layer]
            carried = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._finish(carried, [b for b in births if b.layer == n], plain)

    def _finish(self, carried: torch.Tensor | None, births: Sequence[Birth], program: Program) -> torch.Tensor:
        position = self.base.asked.position
        parts: list[torch.Tensor] = []
        if carried is not None:
            self.rows = carried.shape[0]
            if not self._edited_at_end():
                carried, position = carried[:, position : position + 1], 0
            with activate(program):
                parts.append(finish(self.live.anatomy, carried)[:, position])
        parts += [self.birth(b, narrow=False)[:, self.base.asked.position] for b in births]
        return torch.cat(parts)

    def _edited_at_end(self) -> bool:
        return any(first_block(self.live.anatomy, s.site) >= len(self.live.anatomy.layers) for s in self.base.steps)


def run_rows(live: LiveModel, base: Base, births: Sequence[Birth], cancelled: Cancelled | None = None) -> torch.Tensor:
    """The unembedding's input `[row, d_model]` of every row of `births` (sorted by layer), in one pass.

    By whole forwards where growing is not verified on this model.

    Raises:
        ModelChangedError: when the model is no longer the one that `base` was recorded with.
        CancelledError: when `cancelled()` says so, between two blocks.
    """
    with live.lock:
        live.ready()
        same_model(live, base)
        if not grows(live) or any(b.layer < 0 for b in births):
            return _whole(live, base, births, cancelled)
        last = len(live.anatomy.layers) - 1
        steady = all(first_block(live.anatomy, s.site) < last for s in base.steps)
        walk = Walk(live, base, cancelled, splits(live), narrows(live) and steady)
        with modes(live.device), force_eager(live.anatomy.root):
            return walk.run(births)


# ---- without replay: whole forwards -----------------------------------------------------------------------------------


def _whole(live: LiveModel, base: Base, births: Sequence[Birth], cancelled: Cancelled | None) -> torch.Tensor:
    """Whole forwards of copies of the prompt, with one unedited copy to show that rows do not touch each other."""
    total = sum(b.count for b in births)
    hidden = _whole_batch(live, base, births, range(total), cancelled, guard=True)
    with modes(live.device):
        off = float((live.readout.logits(hidden[:1]) - base.logits).abs().max())
    if off <= 64 * rounding(live.dtype) * float(base.logits.abs().max()):
        return hidden[1:]
    return torch.cat([_whole_batch(live, base, births, range(i, i + 1), cancelled, guard=False) for i in range(total)])


def _whole_batch(
    live: LiveModel, base: Base, births: Sequence[Birth], wanted: range, cancelled: Cancelled | None, guard: bool
) -> torch.Tensor:
    first = int(guard)
    count = first + len(wanted)
    batch = batch_of([base.asked.tokens] * count, live.device)
    program = live.program(cancelled, count)
    placed: list[tuple[Birth, slice, slice]] = []
    start = 0
    for birth in births:
        rows = range(max(start, wanted.start), min(start + birth.count, wanted.stop))
        if rows:
            at = slice(first + rows.start - wanted.start, first + rows.stop - wanted.start)
            placed.append((birth, at, slice(rows.start - start, rows.stop - start)))
        start += birth.count
    for birth, at, own in placed:
        for site, look in birth.watch:
            place(program, live.anatomy, site, lambda: count, _seen_rows(at, own, birth.count, look))
    for i, step in enumerate([*base.steps, None]):
        for birth, at, own in placed:
            if i == (len(base.steps) if birth.after is None else birth.after):
                for site, edit in birth.edits:
                    place(program, live.anatomy, site, lambda: count, _edited_rows(at, own, birth.count, edit))
        if step is not None:
            place_step(live, program, step, lambda: count)
    position = base.asked.position
    _, hidden = forward(live.caller, live.anatomy, batch, program, [position])
    return hidden[:, -1] if hidden.shape[1] == 1 else hidden[:, position]


def _own_rows(x: torch.Tensor, at: slice, own: slice, count: int) -> torch.Tensor:
    """The rows of a birth in a batch of which they are a part; rows that are not there stand for themselves."""
    copies = x[at.start : at.start + 1].expand(count, *x.shape[1:]).clone()
    copies[own] = x[at]
    return copies


def _seen_rows(at: slice, own: slice, count: int, look: Callable[[torch.Tensor], None]) -> Touch:
    return lambda x: look(_own_rows(x, at, own, count))


def _edited_rows(at: slice, own: slice, count: int, edit: Edit) -> Touch:
    def touch(x: torch.Tensor) -> torch.Tensor:
        whole = x.clone()
        whole[at] = edit(_own_rows(x, at, own, count))[own]
        return whole

    return touch
