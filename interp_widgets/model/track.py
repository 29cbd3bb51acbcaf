"""A slider's track: one steering vector at many strengths, and random vectors of the same length beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from interp_widgets.model.chunks import row_limit, run_units
from interp_widgets.model.compile import compile_steps
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.places import first_block
from interp_widgets.model.question import Asked
from interp_widgets.model.reading import read_answer
from interp_widgets.model.rows import Base, Cancelled, FloatArray, Rows, base_of, read_rows, rows_of
from interp_widgets.model.steps import Frame, pushed
from interp_widgets.model.sweep import Birth

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass(frozen=True)
class Track:
    """What an answer becomes along a slider.

    Attributes:
        strengths: `[strength]`, what the vector as stored is multiplied by.
        rows: metric, KL (from the answer without this vector), rank and top tokens at every strength.
        controls: `[control, strength]`, the metric with a random vector of the same norm instead; control_kl: their KL.
    """

    strengths: FloatArray
    rows: Rows
    controls: FloatArray
    control_kl: FloatArray


class _Point(NamedTuple):
    vector: int
    strength: float


def track(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention],
    steer: Steer,
    strengths: Sequence[float],
    *,
    controls: int = 0,
    seed: int = 0,
    norm: float | None = None,
    centred: bool = False,
    cancelled: Cancelled | None = None,
) -> Track:
    """The answer at every strength of `steer`, in one batch from its block on.

    Args:
        live: the model.
        asked: the question.
        interventions: what is on; when `steer` is among them it keeps its place in their order, else it acts last.
        steer: site, vector, mode and positions; its own coefficient is not used.
        strengths: what the vector is multiplied by; at 0 (modes that add or remove) the stored answer is given.
        controls: how many random vectors of the same norm are run at the same strengths.
        seed: of those vectors.
        norm: of those vectors, when it is not the vector's own.
        centred: give them no component along ones, which norms that subtract the mean do not see.
        cancelled: asked between blocks.

    Raises:
        CancelledError: when cancelled. ModelChangedError: when the model changed under the run.

    Example:
        >>> track(live, asked, (), Steer("L2", v), [-1.0, 0.0, 1.0]).rows.metric  # doctest: +SKIP
        array([0.12, 0.48, 0.91], dtype=float32)
    """
    place = next((i for i, other in enumerate(interventions) if other is steer), None)
    if place is None:
        place = next((i for i, other in enumerate(interventions) if other == steer), len(interventions))
    before, others = list(interventions[:place]), [*interventions[:place], *interventions[place + 1 :]]
    base = base_of(live, asked, others, cancelled)
    vectors = _vectors(live, steer, controls, seed, norm, centred)
    points = [_Point(v, float(s)) for v in range(controls + 1) for s in strengths]
    moving = [p for p in points if p.strength != 0.0 or steer.mode == "clamp"]
    if steer.site.part == "pattern":
        found = _one_by_one(live, base, before, others[len(before) :], steer, vectors, moving, cancelled)
    else:
        after = sum(1 for step in base.steps if any(step.intervention is i for i in before))
        found = _batched(live, base, steer, after, vectors, moving, cancelled)
    return _assemble(base, strengths, points, dict(zip(moving, found, strict=True)))


def _vectors(
    live: LiveModel, steer: Steer, controls: int, seed: int, norm: float | None, centred: bool
) -> torch.Tensor:
    """The vector itself, then random ones of one norm, `[vector, ...]`, float32."""
    own = torch.from_numpy(steer.vector.values.copy()).float()
    generator = torch.Generator("cpu").manual_seed(seed)
    random = torch.randn(controls, *own.shape, generator=generator, dtype=torch.float32, device="cpu")
    random = random - random.mean(-1, keepdim=True) if centred else random
    lengths = random.flatten(1).norm(dim=1).view(-1, *[1] * own.dim()).clamp_min(1e-30)
    return torch.cat([own[None], random / lengths * (own.norm() if norm is None else norm)]).to(live.device)


def _batched(
    live: LiveModel,
    base: Base,
    steer: Steer,
    after: int,
    vectors: torch.Tensor,
    points: Sequence[_Point],
    cancelled: Cancelled | None,
) -> list[Rows]:
    step = compile_steps(live, [steer], base.asked.tokens)[0]
    step.enter(Frame(base.batch.rows, base.batch.ids.shape[1]))
    site = steer.site
    whole = site.whole

    def births(chunk: Sequence[_Point]) -> list[Birth]:
        vector = vectors[[p.vector for p in chunk]][:, None]
        strength = torch.tensor([p.strength for p in chunk], dtype=torch.float32, device="cpu")

        def edit(x: torch.Tensor) -> torch.Tensor:
            seen = x if whole == site else x[:, :, site.index]
            if site.part == "neurons" and whole != site:
                seen = seen[..., None]
            c = strength.view(-1, *[1] * (seen.dim() - 1)).to(x.device)
            new = pushed(seen, vector.to(x.device), c, steer.mode, steer.origin)
            if step.mask is not None:
                mask = step.mask.to(x.device)
                if x.shape[1] != mask.shape[1]:  # the last block may go on at the read position only
                    mask = mask[:, base.asked.position : base.asked.position + 1]
                new = torch.where(mask.view(*mask.shape, *[1] * (seen.dim() - 2)), new, seen)
            if whole == site:
                return new
            x[:, :, site.index] = new[..., 0] if site.part == "neurons" else new
            return x

        return [Birth(first_block(live.anatomy, site), len(chunk), ((whole, edit),), after=after)]

    limit = row_limit(live, base)
    parts = [run_units(live, base, points[i : i + limit], births, cancelled) for i in range(0, len(points), limit)]
    rows = read_rows(live, base, torch.cat(parts), cancelled) if parts else None
    return [rows.one(i) for i in range(len(points))] if rows is not None else []


def _one_by_one(
    live: LiveModel,
    base: Base,
    before: Sequence[Intervention],
    behind: Sequence[Intervention],
    steer: Steer,
    vectors: torch.Tensor,
    points: Sequence[_Point],
    cancelled: Cancelled | None,
) -> list[Rows]:
    found: list[Rows] = []
    for p in points:
        own = Steer(
            steer.site, vectors[p.vector].cpu().numpy(), p.strength, steer.mode, steer.positions, None, steer.origin
        )
        logits = read_answer(live, base.asked, [*before, own, *behind], cancelled).logits
        found.append(rows_of(base, logits[None]))
    return found


def _assemble(base: Base, strengths: Sequence[float], points: Sequence[_Point], found: dict[_Point, Rows]) -> Track:
    still = rows_of(base, base.logits)
    still = replace(still, kl=np.zeros_like(still.kl))
    rows = [found.get(p, still) for p in points]
    n = len(strengths)
    own = Rows.join(rows[:n])
    others = rows[n:]
    shape = (len(others) // n if n else 0, n)
    metric = np.array([r.metric[0] for r in others], np.float32).reshape(shape)
    kl = np.array([r.kl[0] for r in others], np.float32).reshape(shape)
    return Track(np.asarray(strengths, np.float32), own, metric, kl)
