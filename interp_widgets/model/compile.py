"""From interventions and reads to a program: which module gets which handler, in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.errors import FeatureOffError, InterventionError
from interp_widgets.model.gate import Program, Tap
from interp_widgets.model.interventions import Ablate, Intervention, Steer
from interp_widgets.model.parts import Write
from interp_widgets.model.places import check_site, layer_of, on_output, place
from interp_widgets.model.question import Token
from interp_widgets.model.reads import capture
from interp_widgets.model.receipts import Receipt, RowTallies
from interp_widgets.model.run import Batch
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Frame, Step, check_shape, op_of, reach_of, receipt
from interp_widgets.model.values import resolve

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass
class Compiled:
    """A program with its steps, in the order of the interventions, and what it captures."""

    program: Program
    steps: list[Step]
    caught: dict[Site, torch.Tensor] = field(default_factory=dict[Site, torch.Tensor])
    position: int = -1

    def enter(self, frame: Frame) -> None:
        """Get every step ready for the next forward."""
        for step in self.steps:
            step.enter(frame)

    def captured(self, site: Site, row: int, length: int) -> torch.Tensor:
        """What was read at `site` in `row`, without padding."""
        if site not in self.caught:
            raise FeatureOffError(f"{site.name} was not computed in this run, so it could not be read.")
        value = self.caught[site][row]
        return value[..., :length, :length] if site.part == "pattern" else value[:length]


def compile_steps(live: LiveModel, interventions: Sequence[Intervention], tokens: Sequence[Token]) -> list[Step]:
    """Check every intervention against the model and find what it puts in place.

    Raises:
        SiteError, InterventionError, FeatureOffError: before anything runs.
    """
    steps: list[Step] = []
    for intervention in interventions:
        check_site(live.anatomy, intervention.site)
        check_shape(intervention, live.anatomy, len(tokens))
        value = resolve(live, intervention, tokens)
        step = Step(intervention, intervention.site, op_of(intervention), value)
        if value is not None:
            step.value, step.by_position = aligned(intervention.site, value)
        steps.append(step)
    return steps


def aligned(site: Site, value: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """`value` in the layout of `site`'s edit, and whether it has one entry per position."""
    if site.part == "neurons" and site.index is not None:
        each = value.dim() > 0 and value.numel() > 1
        return (value.reshape(-1, 1) if each else value.reshape(())), each
    whole = site.index is None and site.part in ("z", "pattern")
    each = value.dim() == (3 if whole else 2)
    return (value.transpose(0, 1) if site.part == "pattern" and whole and each else value), each


def place_step(
    live: LiveModel, program: Program, step: Step, rows: Callable[[], int], given: Write | None = None
) -> None:
    """Put `step` where it acts; a strength of 0 is not placed, so that the run stays bit-identical.

    Args:
        given: edit what this module gives instead; the caller knows that it is the step's site.
    """
    intervention = step.intervention
    if isinstance(intervention, Steer) and intervention.coefficient == 0 and intervention.mode != "clamp":
        return
    if isinstance(intervention, Ablate) and intervention.mode == "edge":
        _place_edge(live, program, step)
    elif step.site.part == "pattern":
        _place_pattern(live, program, step)
    elif given is not None:
        on_output(program, given, rows, lambda x, s=step: _changed(s, x))
    else:
        place(program, live.anatomy, step.site, rows, lambda x, s=step: _changed(s, x))


def _changed(step: Step, x: torch.Tensor) -> torch.Tensor | None:
    new = step(x)
    return None if new is x else new


def check_edge(intervention: Intervention, n: int) -> None:
    """Refuse to cut an edge to a position that a prompt of `n` tokens does not have.

    Raises:
        InterventionError: with both.
    """
    if isinstance(intervention, Ablate) and intervention.edge is not None and intervention.edge[0] >= n:
        dest, src = intervention.edge
        raise InterventionError(f"The edge {dest} ← {src} does not exist: the prompt has {n} tokens, 0 to {n - 1}.")


def _place_edge(live: LiveModel, program: Program, step: Step) -> None:
    live.need("patterns written")
    ablate = step.intervention
    assert isinstance(ablate, Ablate) and ablate.edge is not None
    dest, src = ablate.edge
    if not 0 <= src <= dest:
        raise InterventionError(
            f"The edge {dest} ← {src} does not exist: attention looks back, from a position to an earlier one."
        )

    def see(_q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor | None:
        step.tally.fired += 1
        chosen = step.chosen(pattern.shape[0])
        # a destination that was fed in an earlier step was cut there; one that is not generated yet comes later
        cuts = [
            (r, dest - shift, src)
            for r, shift in zip(chosen, step.shifts, strict=True)
            if 0 <= dest - shift < pattern.shape[-2]
        ]
        if not cuts:
            return None
        new = pattern.clone()
        for r, row, column in cuts:
            new[r, step.site.index, row, column] = 0.0
        step.tally.add(pattern[:, step.site.index], new[:, step.site.index], None)
        step.tally.positions = len(cuts)
        return new

    attention = layer_of(live.anatomy, step.site).attention
    assert attention is not None
    program.attention.setdefault(attention.module, []).append(Tap(see))


def _place_pattern(live: LiveModel, program: Program, step: Step) -> None:
    """A pattern is edited by destination row: positions say which."""
    live.need("patterns written")
    attention = layer_of(live.anatomy, step.site).attention
    assert attention is not None
    index = step.site.index

    def see(_q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor | None:
        rows = pattern.transpose(1, 2)  # [row, dest, head, src]
        seen = rows if index is None else rows[:, :, index]
        new = step(seen)
        if new is seen:
            return None
        if index is None:
            return new.transpose(1, 2)
        whole = pattern.clone()
        whole[:, index] = new
        return whole

    program.attention.setdefault(attention.module, []).append(Tap(see))


def compile_program(
    live: LiveModel,
    batch: Batch,
    interventions: Sequence[Intervention],
    reads: Sequence[Site],
    prompts: Sequence[Sequence[Token]],
    cancelled: Callable[[], bool] | None = None,
) -> Compiled:
    """The program of one forward over `batch`; of several prompts only where no value depends on the prompt (`goes_by_tokens`)."""
    program = live.program(cancelled)
    compiled = Compiled(program, compile_steps(live, interventions, max(prompts, key=len)))
    compiled.enter(Frame(batch.rows, batch.ids.shape[1]))
    rows = len(batch.rows)
    for step in compiled.steps:
        if rows > 1:
            step.tally = RowTallies(rows)
        check_edge(step.intervention, max(len(p) for p in prompts))
        place_step(live, program, step, lambda: rows)
    for site in reads:
        check_site(live.anatomy, site)
        capture(live, program, site, rows, compiled.caught)
    return compiled


def receipts_of(compiled: Compiled, anatomy: Anatomy, batch: Batch, row: int) -> tuple[Receipt, ...]:
    """One receipt per intervention; reach is judged from the last position of `row`."""
    here = batch.rows[row]
    position = len(here) - 1 if compiled.position < 0 else compiled.position
    return tuple(
        receipt(step, reach_of(step, anatomy, here, position), generating=False, row=row) for step in compiled.steps
    )
