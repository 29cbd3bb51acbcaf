"""The one place that applies interventions: each becomes a step, and a step is a handler of a module's tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.gate import suspended
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Patch, Steer
from interp_widgets.model.places import layer_of
from interp_widgets.model.positions import Row
from interp_widgets.model.probe import embedding_width
from interp_widgets.model.receipts import Receipt, Tally
from interp_widgets.model.sites import LOCAL, Site
from interp_widgets.model.vector import Vector

Op = Callable[[torch.Tensor, "Step"], torch.Tensor]


@dataclass
class Frame:
    """The rows that a forward is about to process.

    Attributes:
        rows: one per batch row.
        width: tokens per row, padding included.
        offset: how many tokens of each row went before (in the cache).
        pads: left padding of each row.
        columns: the column of each token of each row, where more than left padding is hidden; None elsewhere.
    """

    rows: Sequence[Row]
    width: int
    offset: int = 0
    pads: Sequence[int] | None = None
    columns: Sequence[Sequence[int]] | None = None

    def pad(self, row: int) -> int:
        """Padding in front of `row`."""
        return self.pads[row] if self.pads is not None else 0

    def mask(self, step: Step) -> torch.Tensor | None:
        """Where `step` acts, `[row of the step, pos]`; None for everywhere."""
        chosen = step.chosen(len(self.rows))
        if self.width == 1:  # one token more: no need to look at the whole text again
            flags = [self._holds(step, r, self._position(r)) for r in chosen]
            return None if all(flags) else torch.tensor(flags, device="cpu")[:, None]
        out = np.zeros((len(chosen), self.width), dtype=bool)
        for at, r in enumerate(chosen):
            row, pad = self.rows[r], self.pad(r)
            whole = np.zeros(max(pad + len(row), self.offset + self.width), dtype=bool)
            flags = step.intervention.positions.mask(row)
            if step.by_position:
                flags[step.length :] = False
            if self.columns is None:
                whole[pad : pad + len(row)] = flags
            else:
                whole[list(self.columns[r])] = flags
            out[at] = whole[self.offset : self.offset + self.width]
        return None if out.all() else torch.from_numpy(out)

    def _position(self, r: int) -> int:
        """The position of the one new column of a row; −1 where that is hidden."""
        if self.columns is None:
            return self.offset - self.pad(r)
        return len(self.rows[r]) - 1 if self.columns[r] and self.columns[r][-1] == self.offset else -1

    def _holds(self, step: Step, r: int, position: int) -> bool:
        row = self.rows[r]
        if not 0 <= position < len(row) or (step.by_position and position >= step.length):
            return False
        return step.intervention.positions.holds(row, position)


@dataclass
class Step:
    """One intervention on its way into a forward.

    Attributes:
        value: what replaces the activation: `[feature]`, or `[pos, feature]` aligned with the prompt.
        by_position: whether `value` has one entry per position; beyond its end it does not act.
        rows: the batch rows that it acts on, None for all.
        mask: where it acts in this forward (`[row of the step, pos]`, None = everywhere); set from the frame.
        shifts: for each of its rows, the position of this forward's first column (negative: padding in front).
        push: what a plain push adds, in the activation's dtype.
        lost: why it is not known which tokens this forward holds; a step that goes by position then refuses to act.
        tally: what it did.
    """

    intervention: Intervention
    site: Site
    op: Op
    value: torch.Tensor | None = None
    by_position: bool = False
    rows: tuple[int, ...] | None = None
    mask: torch.Tensor | None = None
    active: bool = True
    shifts: tuple[int, ...] = (0,)
    push: torch.Tensor | None = None
    lost: str = ""
    tally: Tally = field(default_factory=Tally)

    @property
    def length(self) -> int:
        """How many positions a value by position has."""
        return self.value.shape[0] if self.value is not None and self.by_position else 0

    def chosen(self, n: int) -> Sequence[int]:
        """The rows that it acts on, of `n`."""
        return range(n) if self.rows is None else self.rows

    @property
    def everywhere(self) -> bool:
        """Whether it acts at every position alike, so that nothing need be known of the tokens."""
        return self.intervention.positions.kind == "all" and not self.by_position and not self.aligned

    @property
    def aligned(self) -> bool:
        """Whether it goes by the number of a position, which must then be a column's but for left padding."""
        return self.by_position or self.edge

    @property
    def edge(self) -> bool:
        """Whether it cuts an edge, which attention does without calling the step."""
        return isinstance(self.intervention, Ablate) and self.intervention.mode == "edge"

    def enter(self, frame: Frame) -> None:
        """Get ready for the next forward of this run."""
        self.lost = ""
        self.mask = frame.mask(self)
        self.active = self.mask is None or bool(self.mask.any())
        self.shifts = tuple(frame.offset - frame.pad(r) for r in self.chosen(len(frame.rows)))

    def lose(self, why: str) -> None:
        """Get ready for a forward whose tokens are not known."""
        self.mask, self.active, self.shifts = None, True, ()
        self.lost = "" if self.everywhere else why

    def refuse_lost(self) -> None:
        """Refuse to act where it is not known.

        Raises:
            InterventionError: with the reason.
        """
        if self.lost:
            raise InterventionError(f"{self.intervention.label} cannot find its positions: {self.lost}")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The edited copy of `x [row, pos, ...feature]`; never in place."""
        self.refuse_lost()
        self.tally.fired += 1
        if not self.active:
            return x
        if self.rows is None:
            return self._edited(x)
        if self.rows == tuple(range(self.rows[0], self.rows[-1] + 1)):  # a slice: no index to make, and no copy to take
            new = x.clone()
            new[self.rows[0] : self.rows[-1] + 1] = self._edited(x[self.rows[0] : self.rows[-1] + 1])
            return new
        at = torch.tensor(self.rows, device=x.device)
        return x.index_copy(0, at, self._edited(x[at]))

    def _edited(self, x: torch.Tensor) -> torch.Tensor:
        mask = None if self.mask is None else self.mask.to(x.device)
        if mask is not None and mask.shape[1] != x.shape[1]:
            raise InterventionError(
                f"{self.intervention.label} got {x.shape[1]} positions of {self.site.name} in a forward of {mask.shape[1]} tokens, so "
                'it cannot tell which is which; call the whole model, or use positions="all".'
            )
        new = self.op(x, self)
        if mask is not None:
            new = torch.where(mask.view(*mask.shape, *[1] * (x.dim() - 2)), new, x)
        self.tally.add(x.flatten(2) if x.dim() > 2 else x, new.flatten(2) if new.dim() > 2 else new, mask)
        return new


# ---- what each kind of intervention does to x ----------------------------------------------------------------------


def _replace(x: torch.Tensor, step: Step) -> torch.Tensor:
    assert step.value is not None
    value = step.value.to(x.device, x.dtype)
    if not step.by_position:
        return value.expand_as(x).clone()  # a block may go on in place (falcon)
    new = x.clone()
    for r, shift in enumerate(step.shifts):
        first, last = max(0, -shift), min(x.shape[1], value.shape[0] - shift)
        if first < last:
            # a pattern put in place by position has no sources beyond its own prompt, while a longer text does
            if step.site.part == "pattern":
                new[r, first:last] = 0
            new[r, first:last, ..., : value.shape[-1]] = value[first + shift : last + shift]
    return new


def _steer(x: torch.Tensor, step: Step) -> torch.Tensor:
    steer = cast("Steer", step.intervention)
    value = step.value
    if value is None or value.device != x.device:
        value = step.value = torch.from_numpy(steer.vector.values.copy()).to(x.device)
    if steer.mode == "add":
        if step.push is None or step.push.dtype != x.dtype or step.push.device != x.device:
            step.push = (steer.coefficient * value).to(x.dtype)
        return x + step.push
    return pushed(x, value, steer.coefficient, steer.mode, steer.origin)


def pushed(x: torch.Tensor, v: torch.Tensor, c: float | torch.Tensor, mode: str, origin: float = 0.0) -> torch.Tensor:
    """`x [row, pos, ...feature]` pushed along `v` at strength `c`; both may differ by row (`[row, 1, ...]`)."""
    if mode == "add":
        return x + (c * v).to(x.dtype)
    feature = tuple(range(2, x.dim()))
    wide = x if x.dtype == torch.float64 else x.float()
    v = v.to(wide.dtype)
    if mode == "keep_norm":
        moved = wide + c * v
        norm = wide.square().sum(feature, keepdim=True).sqrt()
        return (moved * (norm / moved.square().sum(feature, keepdim=True).sqrt().clamp_min(1e-30))).to(x.dtype)
    unit = v / v.square().sum(tuple(range(-len(feature), 0)), keepdim=True).sqrt().clamp_min(1e-30)
    along = (wide * unit).sum(feature, keepdim=True)
    change = -c * along * unit if mode == "project_out" else (origin - along) * unit + c * v
    return (wide + change).to(x.dtype)


def _own(x: torch.Tensor, step: Step) -> torch.Tensor:
    edit = cast("Edit", step.intervention)
    rows: list[torch.Tensor] = []
    for row in x:
        try:
            with suspended():  # what it calls of the model is the plain model's, and leaves rows and receipts alone
                out = edit.fn(row.clone())
        except Exception as error:
            error.add_note(
                f"raised by the edit {edit.name!r} at {edit.site.name}"
            )  # its type and its lines stay its own
            raise
        if not isinstance(out, torch.Tensor) or out.shape != row.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
            got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(f"The edit {edit.name!r} at {edit.site} must return {tuple(row.shape)}, not {got}.")
        rows.append(out)
    return torch.stack(rows).to(x.dtype)


def op_of(intervention: Intervention) -> Op:
    """The function of `x` that an intervention stands for."""
    if isinstance(intervention, Steer):
        return _steer
    return _own if isinstance(intervention, Edit) else _replace


# ---- what it did ------------------------------------------------------------------------------------------


def receipt(step: Step, reach: str | None, generating: bool, row: int = 0) -> Receipt:
    """What `step` did in one row of the batch; `reach` says why nothing that is read can see it, or is None."""
    tally, intervention = step.tally.of_row(row), step.intervention
    norms = (tally.before**0.5, tally.after**0.5, tally.relative)
    if isinstance(intervention, Steer) and intervention.coefficient == 0 and intervention.mode != "clamp":
        return Receipt(intervention, step.site, "idle", "strength 0", tally.fired, 0, *norms)
    if tally.fired == 0:
        why = f"{step.site.name} was never computed in this run, so nothing could be changed"
        return Receipt(intervention, step.site, "no effect", why, 0, 0, *norms)
    if tally.positions == 0:
        if intervention.positions.kind == "generated" and not generating:
            why = "it acts on generated positions only, and the prompt's answer is read"
            return Receipt(intervention, step.site, "cannot reach", why, tally.fired, 0, *norms)
        why = f"no position matches {intervention.positions}" + (" yet" if generating else "")
        return Receipt(intervention, step.site, "idle", why, tally.fired, 0, *norms)
    if tally.change == 0:
        why = (
            "the activation already had this value"
            if not isinstance(intervention, Steer)
            else "lost in rounding, or the vector is zero"
        )
        return Receipt(intervention, step.site, "no effect", why, tally.fired, tally.positions, *norms)
    if reach is not None:
        return Receipt(intervention, step.site, "cannot reach", reach, tally.fired, tally.positions, *norms)
    return Receipt(intervention, step.site, "acted", "", tally.fired, tally.positions, *norms)


def reach_of(step: Step, anatomy: Anatomy, row: Row, position: int) -> str | None:
    """Why the answer at `position` cannot see `step`, or None: attention is causal, and the last block reads one column."""
    what = step.intervention
    edge = what.edge if isinstance(what, Ablate) else None
    at = np.flatnonzero(what.positions.mask(row)) if edge is None else np.array([edge[0]])
    if at.size == 0:
        return None
    if at.min() > position:
        return f"it acts after position {position}, where the answer is read"
    last = len(anatomy.layers) - 1
    local = step.site.part in LOCAL or step.site.part == "pattern"  # a pattern is edited by the row that attends
    if step.site.layer == last and local and position not in at:
        return f"in the last block only position {position}, where the answer is read, matters"
    return None


def check_shape(intervention: Intervention, anatomy: Anatomy, n_tokens: int) -> None:
    """Refuse a steering vector, or the numbers of a patch, that do not fit where they are put.

    Raises:
        InterventionError: with both shapes.
    """
    if isinstance(intervention, Steer):
        need, shape = _features(anatomy, intervention.site), intervention.vector.shape
        if shape != need:
            raise InterventionError(
                f"The vector {intervention.name!r} has shape {list(shape)}, but {intervention.site.name} needs {list(need)}; "
                "was it made for another model?"
            )
    elif isinstance(intervention, Patch) and isinstance(intervention.source, Vector):
        _check_patch(intervention, intervention.source.shape, anatomy, n_tokens)


def _check_patch(patch: Patch, shape: tuple[int, ...], anatomy: Anatomy, n: int) -> None:
    fits = _patch_shapes(anatomy, patch.site, n)
    if shape in fits:
        return
    length = 0 if not shape else shape[-1] if patch.site.part == "pattern" else shape[0]
    if shape == _patch_shapes(anatomy, patch.site, length)[0]:
        raise InterventionError(
            f"{patch.label}: the source has {length} positions and the prompt {n}; align them first."
        )
    raise InterventionError(
        f"{patch.label}: the source has shape {list(shape)}, but {patch.site.name} of this prompt needs {list(fits[0])}, or "
        f"{list(fits[1])} for every position alike."
    )


def _patch_shapes(anatomy: Anatomy, site: Site, n: int) -> tuple[tuple[int, ...], ...]:
    """What a patch at `site` of a prompt of `n` tokens may be: by position first, then the same for every position."""
    if site.part == "pattern":
        attention = layer_of(anatomy, site).attention
        assert attention is not None
        heads = () if site.index is not None else (attention.n_heads,)
        return (*heads, n, n), (*heads, n)
    need = _features(anatomy, site)
    alone = ((n,), ()) if need == (1,) else ()  # a single neuron is one number
    return (n, *need), need, *alone


def _features(anatomy: Anatomy, site: Site) -> tuple[int, ...]:
    """The shape of what stands at `site` at one position."""
    if site.part == "z":
        attention = layer_of(anatomy, site).attention
        assert attention is not None
        return (attention.d_head,) if site.index is not None else (attention.n_heads, attention.d_head)
    if site.part == "neurons":
        mlp = layer_of(anatomy, site).mlp
        assert mlp is not None
        return (mlp.d_neurons,) if site.index is None else (1,)
    if site.part == "embed":
        return (embedding_width(anatomy.embed) or anatomy.d_model,)
    return (anatomy.d_model,)
