"""What a change makes of a moment, checked against the model: a moment in, a moment out, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp_widgets.methods.steering import SteeringVector, place_name, writes
from interp_widgets.model.compile import check_edge, compile_steps
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Ablate, AblateMode, Intervention, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import check_site
from interp_widgets.model.positions import Positions, PositionSpec
from interp_widgets.model.question import Question
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site, span
from interp_widgets.moment import Entry, Moment, once


def check(live: LiveModel, intervention: Intervention) -> None:
    """Refuse what this model cannot take.

    Raises:
        SiteError, InterventionError, FeatureOffError: with the reason.
    """
    check_site(live.anatomy, intervention.site)
    if isinstance(intervention, Steer):
        compile_steps(live, [intervention], ())


def replaced(live: LiveModel, now: Moment, interventions: Sequence[Intervention]) -> Moment:
    """These interventions, and only these, in this order."""
    for intervention in interventions:
        check(live, intervention)
    once([i for i in interventions if isinstance(i, Ablate)])
    entries = tuple(Entry(intervention) for intervention in interventions)
    label = interventions[-1].label if len(interventions) == 1 else f"{len(interventions)} interventions"
    return replace(now, entries=entries, label=label if interventions else "cleared", draft="")


def switched(
    live: LiveModel,
    now: Moment,
    sites: Sequence[str | Site],
    *,
    off: bool,
    mode: AblateMode | None,
    positions: PositionSpec | Positions,
) -> Moment:
    """Several sites off, everywhere or at some positions, or on again."""
    where = Positions.of(positions)
    ablations = [Ablate(Site.parse(site), mode or now.mode, positions=where) for site in sites]
    for ablation in ablations:
        check(live, ablation)
    once(ablations)
    more = f" and {len(ablations) - 3} more" if len(ablations) > 3 else ""
    names = ", ".join(a.site.name for a in ablations[:3]) + more
    if not off:
        heads = live.anatomy.head_counts
        return now.switched_on([a.site for a in ablations], heads, f"{names} on")
    _check_positions(now.question, where)
    at = "" if str(where) == "all" else f" at {where}"
    return now.with_each([Entry(ablation) for ablation in ablations], f"{names} off{at}")


def cut(live: LiveModel, now: Moment, site: str | Site, dest: int, src: int, *, off: bool) -> Moment:
    """One edge of attention cut, or mended."""
    live.need("patterns written")
    edge = Ablate(site, "edge", edge=(dest, src))
    check(live, edge)
    if not 0 <= src <= dest:
        raise InterventionError(
            f"The edge {dest} ← {src} does not exist: attention looks back, from a position to an earlier one."
        )
    for asked in now.question.examples if off and now.question is not None else ():
        check_edge(edge, len(asked.tokens))
    entry, name = Entry(edge), f"{edge.site.name} {dest} ← {src}"
    return now.with_entry(entry, f"{name} cut") if off else now.without([entry.key], f"{name} mended")


def in_mode(live: LiveModel, now: Moment, mode: AblateMode) -> Moment:
    """Every ablation in another mode, those to come too."""
    Ablate("L0H0", mode)  # which refuses what is no mode
    entries = tuple(entry.in_mode(mode) for entry in now.entries)
    for entry in entries:
        check(live, entry.intervention)
    return replace(now, entries=entries, mode=mode, label=f"{mode} ablation", draft="")


# ---- named vectors ------------------------------------------------------------------------------------------------------


def known(now: Moment, name: str) -> SteeringVector:
    """The vector of this name.

    Raises:
        InterventionError: with the names that there are.
    """
    vector = now.vectors.get(name)
    if vector is None:
        raise InterventionError(f"There is no vector {name!r}; there are {', '.join(now.vectors) or 'none yet'}.")
    return vector


def steering(now: Moment, name: str) -> tuple[tuple[Steer, bool], ...]:
    """How a named vector acts, and whether it is on: once for every layer of its range; at strength 0 where it does nothing yet."""
    vector = known(now, name)
    group = [(e.intervention, e.on) for e in now.moved_by(name)]
    found = tuple((steer, on) for steer, on in group if isinstance(steer, Steer))
    return found or ((Steer(vector.site, vector, 0.0, name=name), True),)


def at_strength(live: LiveModel, now: Moment, name: str, value: float) -> Moment:
    """A named vector at another strength, at every layer it acts on."""
    changed = tuple(Entry(steer.at(value), on) for steer, on in steering(now, name))
    for entry in changed:
        check(live, entry.intervention)
    return now.with_group(now.moved_by(name), changed, f"{name} {value:+z.2f}")


def resettled(
    live: LiveModel,
    now: Moment,
    name: str,
    *,
    on: bool | None,
    site: str | None,
    positions: str | None,
    mode: str | None,
) -> Moment:
    """A named vector that acts in another way, or elsewhere, at the strength that it has."""
    group = steering(now, name)
    (first, is_on), *_ = group
    if site is not None and site != place_name(live, [steer.site for steer, _ in group]):
        steers = [first.placed(where) for where in (writes(live) if site == "writes" else span(site))]
    else:
        steers = [steer for steer, _ in group]
    shown = is_on if on is None else on
    changed = tuple(Entry(steer.placed(mode=mode, positions=positions), shown) for steer in steers)
    for entry in changed:
        check(live, entry.intervention)
        if shown:  # one that a shorter prompt has left without its place can be switched off
            _check_positions(now.question, entry.intervention.positions)
    label = f"{name} changed" if on is None else f"{name} {'on' if shown else 'off'}"
    return now.with_group(now.moved_by(name), changed, label)


def remade(live: LiveModel, now: Moment, name: str, vector: SteeringVector) -> Moment:
    """A vector of this name; where another one acts under it, the new one acts in its place."""
    check(live, Steer(vector.site, vector, 0.0))
    moment = now.remade(name, vector)
    for entry in moment.moved_by(name):
        check(live, entry.intervention)
    return moment


def _check_positions(question: Question | None, positions: Positions) -> None:
    """Refuse the number of a position that a prompt of the question does not have.

    Raises:
        InterventionError: naming it.
    """
    for asked in question.examples if question is not None else ():
        positions.mask(row_of(asked.tokens, len(asked.tokens)))
