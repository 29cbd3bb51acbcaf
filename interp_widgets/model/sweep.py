"""Sweeps: many edits of one run, each a row of a batch that grows from block to block.

The state on screen is recorded once (`Base`). A row is *born* in the block that its edit is in, and only the blocks
from there on are called for it; rows of several blocks go on side by side. All calls are of the user's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.compile import check_edge, compile_steps, place_step
from interp_widgets.model.errors import InterpError, ModelChangedError
from interp_widgets.model.fingerprint import Fingerprint
from interp_widgets.model.gate import Program, activate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.places import Touch, hidden_of, place, put_hidden
from interp_widgets.model.question import Asked
from interp_widgets.model.reading import acts, finite, first_block, plain_trace
from interp_widgets.model.receipts import Tally
from interp_widgets.model.replay import Trace, finish, record, run_layers
from interp_widgets.model.run import Batch, batch_of, force_eager, forward, modes
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Frame, Step

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Cancelled = Callable[[], bool]
Edit = Callable[[torch.Tensor], torch.Tensor]
Unit = TypeVar("Unit")
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TOP_K = 5
CPU_BYTES = 512 << 20


class _Unheard(Tally):
    """A sweep's rows leave no receipts."""

    __slots__ = ()

    def add(self, before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Count nothing."""


class _Shared(Step):
    """An intervention that stays on: it acts alike on every row, however many there are."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.intervention, step.site, step.op, step.value, step.by_position, tally=_Unheard())

    def chosen(self, n: int) -> Sequence[int]:
        """Every row, each starting at the prompt's first position."""
        self.shifts = (0,) * n
        return range(n)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The edited copy of `x [row, pos, ...feature]`."""
        self.chosen(x.shape[0])
        return super().__call__(x)


@dataclass(frozen=True)
class Base:
    """The state that a sweep starts from: the question under the interventions that stay on.

    Attributes:
        trace: every block's recorded call under `steps`; the blocks' inputs are those *before* an edit at them.
        steps: the interventions that act, to be placed on every row.
        logits: `[1, vocab]`, the answer of this state.
        fingerprint: the weights and hooks it was recorded with.
    """

    asked: Asked
    trace: Trace
    steps: tuple[Step, ...]
    logits: torch.Tensor
    fingerprint: Fingerprint
    batch: Batch


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
        """Whether all edits are past the attention of the block, so that it need not be computed for every row."""
        return all(site.part in ("z", "mlp") for site, _ in self.edits)


@dataclass(frozen=True)
class Rows:
    """What is kept of every row.

    Attributes:
        metric: `[row]`; kl: `[row]`, nats, of the base's answer to the row's.
        rank: `[row]`, of the target, from 1.
        top: `[row, k]`, the most probable token ids; probability: `[row, k]`, theirs.
    """

    metric: FloatArray
    kl: FloatArray
    rank: IntArray
    top: IntArray
    probability: FloatArray

    def one(self, row: int) -> Rows:
        """One row, still with a row axis."""
        at = slice(row, row + 1)
        return Rows(self.metric[at], self.kl[at], self.rank[at], self.top[at], self.probability[at])

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Several, one after the other."""
        columns = [[getattr(p, name) for p in parts] for name in ("metric", "kl", "rank", "top", "probability")]
        return cls(*(np.concatenate(c) for c in columns))


def base_of(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention] = (), cancelled: Cancelled | None = None
) -> Base:
    """Record the state on screen: by replay from the lowest edited block, as the number on screen is made."""
    with live.lock:
        live.ready()
        key = live.fingerprint()
        plain = plain_trace(live, asked, cancelled)
        assert plain.logits is not None
        batch = live.batch(asked.tokens)
        steps = [_Shared(step) for step in compile_steps(live, interventions, asked.tokens)]
        for step in steps:
            check_edge(step.intervention, len(asked.tokens))
            step.enter(Frame(batch.rows, batch.ids.shape[1]))
        moving = tuple(step for step in steps if acts(step))
        if not moving:
            return Base(asked, plain, (), plain.logits, key, batch)
        trace, hidden = _record_edited(live, plain, batch, moving, asked.position, cancelled)
        with modes(live.device):
            logits = finite(live.readout.logits(hidden), "the interventions that are on")
        return Base(asked, trace, moving, logits, key, batch)


def _record_edited(
    live: LiveModel, plain: Trace, batch: Batch, steps: Sequence[Step], position: int, cancelled: Cancelled | None
) -> tuple[Trace, torch.Tensor]:
    program = live.program(cancelled)
    trace = record(program, live.anatomy)
    for step in steps:
        place_step(live, program, step, lambda: 1)
    start = min(first_block(step.site) for step in steps)
    if start < 0 or not replays(live):
        _, hidden = forward(live.caller, live.anatomy, batch, program, [position])
        return trace, hidden[:, -1] if hidden.shape[1] == 1 else hidden[:, position]
    n = len(live.anatomy.layers)
    with modes(live.device), force_eager(live.anatomy.root), activate(program):
        stream = plain.calls[start].hidden if start < n else plain.last
        assert stream is not None
        hidden = finish(live.anatomy, run_layers(live.anatomy, plain, stream, start, n, live.dims))
    trace.calls[:0] = plain.calls[:start]
    return trace, hidden[:, position]


# ---- which way rows are computed --------------------------------------------------------------------------------------


def replays(live: LiveModel) -> bool:
    """Whether blocks may be called again with recorded arguments."""
    return "replay" not in live.report.off and not live.report.unverified


def grows(live: LiveModel) -> bool:
    """Whether a batch of rows may grow from block to block."""
    return replays(live) and "growing batch" not in live.report.off and live.anatomy.final_norm is not None


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
        return self.live.program(self.cancelled)

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
        position = self.base.asked.position

        def cut(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
            x, where = hidden_of(args, kwargs)
            whole = x.view(self.rows, -1, x.shape[-1]) if x.dim() == 2 else x
            short = whole[:, position : position + 1] if whole.shape[1] > 1 else whole
            return put_hidden(args, kwargs, where, short.reshape(-1, *short.shape[2:]) if x.dim() == 2 else short)

        for module in modules:
            program.on_before(module, cut)

    def call(self, layer: int, hidden: torch.Tensor, program: Program) -> torch.Tensor:
        """One block on `hidden`."""
        with activate(program):
            return run_layers(self.live.anatomy, self.base.trace, hidden, layer, layer + 1, self.live.dims)

    def birth(self, birth: Birth, narrow: bool) -> torch.Tensor:
        """The stream of new rows after the block (or the final norm) that they are born in."""
        program = self.program()
        for site, look in birth.watch:
            place(program, self.live.anatomy, site, lambda: self.rows, look)
        self.place_steps(program, self.base.steps[: birth.after])
        for site, edit in birth.edits:
            place(program, self.live.anatomy, site, lambda: self.rows, self._grown(birth.count, edit))
        if birth.after is not None:
            self.place_steps(program, self.base.steps[birth.after :])
        if narrow and birth.inside:
            self.narrowing(program)
        n = len(self.live.anatomy.layers)
        stream = self.base.trace.calls[birth.layer].hidden if birth.layer < n else self.base.trace.last
        assert stream is not None
        split = self.split and birth.inside
        self.rows = 1 if split else birth.count
        if not split:
            stream = stream.expand(birth.count, -1, -1)
        if birth.layer < n:
            return self._full(self.call(birth.layer, stream, program), birth.count)
        with activate(program):
            return self._full(finish(self.live.anatomy, stream), birth.count)

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
        return any(first_block(s.site) >= len(self.live.anatomy.layers) for s in self.base.steps)


def run_rows(live: LiveModel, base: Base, births: Sequence[Birth], cancelled: Cancelled | None = None) -> Rows:
    """What every row of `births` (sorted by layer) gives, in one pass; by whole forwards where growing is not verified.

    Raises:
        ModelChangedError: when the model is no longer the one that `base` was recorded with.
        CancelledError: when `cancelled()` says so, between two blocks.
    """
    with live.lock:
        live.ready()
        if live.fingerprint() != base.fingerprint:
            raise ModelChangedError(
                "The model was changed (its weights or a hook) while its parts were swept; ask again."
            )
        if not grows(live) or any(b.layer < 0 for b in births):
            hidden = _whole(live, base, births, cancelled)
        else:
            last = len(live.anatomy.layers) - 1
            steady = all(first_block(s.site) < last for s in base.steps)
            walk = Walk(live, base, cancelled, splits(live), narrows(live) and steady)
            with modes(live.device), force_eager(live.anatomy.root):
                hidden = walk.run(births)
        return read_rows(live, base, hidden)


# ---- without replay: whole forwards -----------------------------------------------------------------------------------


def _whole(live: LiveModel, base: Base, births: Sequence[Birth], cancelled: Cancelled | None) -> torch.Tensor:
    """Whole forwards of copies of the prompt, with one unedited copy to show that rows do not touch each other."""
    total = sum(b.count for b in births)
    hidden = _whole_batch(live, base, births, range(total), cancelled, guard=True)
    with modes(live.device):
        off = float((live.readout.logits(hidden[:1]) - base.logits).abs().max())
    if off <= 64 * torch.finfo(torch.float32 if live.dtype == torch.float32 else live.dtype).eps * float(
        base.logits.abs().max()
    ):
        return hidden[1:]
    return torch.cat([_whole_batch(live, base, births, range(i, i + 1), cancelled, guard=False) for i in range(total)])


def _whole_batch(
    live: LiveModel, base: Base, births: Sequence[Birth], wanted: range, cancelled: Cancelled | None, guard: bool
) -> torch.Tensor:
    first = int(guard)
    count = first + len(wanted)
    batch = batch_of([base.asked.tokens] * count, live.device)
    program = live.program(cancelled)
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


# ---- what is kept of a row --------------------------------------------------------------------------------------------


def read_rows(live: LiveModel, base: Base, hidden: torch.Tensor) -> Rows:
    """Metric, KL, rank and top tokens of `hidden [row, d_model]`, in float32, a few hundred megabytes at a time."""
    step = max(1, (CPU_BYTES // 4) // (4 * live.anatomy.vocab))
    with modes(live.device):
        parts = [rows_of(base, live.readout.logits(hidden[i : i + step])) for i in range(0, hidden.shape[0], step)]
    return parts[0] if len(parts) == 1 else Rows.join(parts)


def target_of(base: Base) -> int:
    """The token whose rank is kept: the target, else what the base says."""
    ids = base.asked.metric.target
    return ids[0] if ids else int(base.logits[0].argmax())


def rows_of(base: Base, logits: torch.Tensor) -> Rows:
    """What is kept of `logits [row, vocab]`, compared with the base's answer."""
    finite(logits, "an edit of this sweep")
    own = torch.log_softmax(base.logits[0].float(), -1)
    share = own.exp()
    total = logits.logsumexp(-1)
    kl = (share * own).sum() - (logits @ share - total)
    values, top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
    rank = (logits > logits[:, target_of(base), None]).sum(-1) + 1
    probability = (values - total[:, None]).exp()
    columns = (base.asked.metric.of(logits), kl.clamp_min(0.0), rank, top, probability)
    return Rows(*(c.cpu().numpy() for c in columns))


# ---- chunks -----------------------------------------------------------------------------------------------------------


def run_units(
    live: LiveModel,
    base: Base,
    units: Sequence[Unit],
    births: Callable[[Sequence[Unit]], Sequence[Birth]],
    cancelled: Cancelled | None = None,
) -> Rows:
    """The rows of `units`, halved until they fit when memory runs out.

    Args:
        births: the births of a run of units, one row for each, in their order (sorted by layer).

    Raises:
        InterpError: when not even one row fits.
    """
    try:
        return run_rows(live, base, births(units), cancelled)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(units) == 1:
            raise InterpError(
                f"There is not enough memory on {live.device} for one more row of {len(base.asked.tokens)} tokens; "
                "shorten the prompt, or free memory."
            ) from error
    # Out here the failed pass and its tensors are gone.
    if live.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(units) // 2
    return Rows.join([run_units(live, base, part, births, cancelled) for part in (units[:half], units[half:])])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a run failed for want of memory, on a GPU or elsewhere."""
    return (
        isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
    )


def chunked(
    units: Sequence[Unit], layer_of: Callable[[Unit], int], limit: int, layers: int = 3, first: Unit | None = None
) -> list[list[Unit]]:
    """Units in the order in which they are computed: `first` alone, then from the last layer down, in chunks.

    The first chunk is one layer, the second two, then `layers` each; none has more than `limit` rows.
    """
    chunks: list[list[Unit]] = [[first]] if first is not None and first in units else []
    rest = sorted((u for u in units if not (chunks and u == first)), key=layer_of)
    levels = sorted({layer_of(u) for u in rest}, reverse=True)
    size = 1
    while levels:
        now, levels = set(levels[:size]), levels[size:]
        size = min(size + 1, layers)
        chunk = [u for u in rest if layer_of(u) in now]
        pieces = -(-len(chunk) // limit)
        step = -(-len(chunk) // pieces)
        chunks += [chunk[i : i + step] for i in reversed(range(0, len(chunk), step))]
    return chunks


def row_limit(live: LiveModel, base: Base) -> int:
    """How many rows fit the memory budget beside each other."""
    a = live.anatomy
    length = len(base.asked.tokens)
    neurons = max([m.d_neurons for layer in a.layers if (m := layer.mlp) is not None] + [4 * a.d_model])
    heads = max([t.n_heads for layer in a.layers if (t := layer.attention) is not None] + [1])
    size = max(4, torch.finfo(live.dtype).bits // 8 if live.dtype.is_floating_point else 4)
    per_row = length * size * (10 * a.d_model + 4 * neurons + 3 * heads * length)
    return max(1, budget(live.device) // per_row)


def budget(device: torch.device) -> int:
    """Bytes that a sweep may use: half of what is free on a GPU, a fixed amount elsewhere."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) // 2
    return CPU_BYTES
