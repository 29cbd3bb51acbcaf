"""One state of a session as frozen data, and the history of such states."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from interp_widgets.methods.steering import SteeringVector
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Ablate, AblateMode, Intervention, Steer
from interp_widgets.model.question import Question
from interp_widgets.model.sites import Site

_LIMIT = 200


@dataclass(frozen=True)
class Entry:
    """An intervention in the list, switched on or off."""

    intervention: Intervention
    on: bool = True

    @property
    def key(self) -> str:
        """What it is called between kernel and browser: a control has one key, whatever its value."""
        what = self.intervention
        if isinstance(what, Ablate):
            return (
                f"head:{what.site.name}"
                if what.edge is None
                else f"edge:{what.site.name}:{what.edge[0]}:{what.edge[1]}"
            )
        if isinstance(what, Steer):
            return f"strength:{what.name}"
        return f"{type(what).__name__.lower()}:{what.site.name}"

    def in_mode(self, mode: AblateMode) -> Entry:
        """The same ablation in another mode; what is not an ablation, or is a cut edge, stays as it is."""
        what = self.intervention
        if not isinstance(what, Ablate) or what.mode == "edge":
            return self
        return Entry(Ablate(what.site, mode, what.reference, what.positions), self.on)


def once(ablations: Sequence[Ablate]) -> None:
    """Refuse a part that is named twice.

    Raises:
        InterventionError: naming it.
    """
    keys = [Entry(a).key for a in ablations]
    for n, key in enumerate(keys):
        if key in keys[:n]:
            name = ablations[n].label if ablations[n].edge is not None else ablations[n].site.name
            raise InterventionError(
                f"{name} is named twice; a part is ablated once: name it once, with all of its positions."
            )


@dataclass(frozen=True)
class Moment:
    """What is asked, and what is done to the model: everything that a number on the screen belongs to.

    Attributes:
        mode: how a head is ablated that is switched off without a mode of its own.
        vectors: the named vectors; part of the state, for a name may be given to another vector while the old one acts.
    """

    question: Question | None = None
    entries: tuple[Entry, ...] = ()
    label: str = "opened"
    draft: str = ""
    mode: AblateMode = "mean"
    vectors: Mapping[str, SteeringVector] = field(default_factory=dict[str, SteeringVector], hash=False)

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Those that are switched on, in the order in which they act."""
        return tuple(e.intervention for e in self.entries if e.on)

    def with_entry(self, entry: Entry, label: str) -> Moment:
        """Replace the entry of the same key where it stands, or append."""
        return self.with_group(self.group(entry.key), (entry,), label)

    def with_group(self, old: Sequence[Entry], new: Sequence[Entry], label: str) -> Moment:
        """Replace these entries by others, where the first of them stands, or append."""
        at = next((n for n, e in enumerate(self.entries) if e in old), len(self.entries))
        before, after = self.entries[:at], [e for e in self.entries[at:] if e not in old]
        return replace(self, entries=(*before, *new, *after), label=label, draft="")

    def with_each(self, entries: Sequence[Entry], label: str) -> Moment:
        """Replace the entry of each one's key where it stands, or append; for many at once."""
        new = {entry.key: entry for entry in entries}
        kept = [new.pop(old.key, old) for old in self.entries]
        return replace(self, entries=(*kept, *new.values()), label=label, draft="")

    def without(self, keys: Sequence[str], label: str) -> Moment:
        """Drop the entries of these keys."""
        return replace(self, entries=tuple(e for e in self.entries if e.key not in keys), label=label, draft="")

    def switched_on(self, sites: Sequence[Site], heads: Sequence[int], label: str) -> Moment:
        """Drop the ablations of these sites; of one that holds a whole layer's heads, the other heads stay ablated.

        Args:
            heads: how many heads each layer has.
        """
        wanted = {one for site in sites for one in (site, *_heads_of(site, heads))}
        kept: list[Entry] = []
        for e in self.entries:
            whole = e.intervention
            if not isinstance(whole, Ablate) or whole.edge is not None or whole.site not in wanted | _layers_of(wanted):
                kept.append(e)
            elif whole.site not in wanted:
                each = [replace(e, intervention=replace(whole, site=one)) for one in _heads_of(whole.site, heads)]
                own = {other.key for other in self.entries}
                kept += [one for one in each if one.intervention.site not in wanted and one.key not in own]
        return replace(self, entries=tuple(kept), label=label, draft="")

    def entry(self, key: str) -> Entry | None:
        """The entry of this key."""
        return next((e for e in self.entries if e.key == key), None)

    def group(self, key: str) -> tuple[Entry, ...]:
        """Every entry of this key."""
        return tuple(e for e in self.entries if e.key == key)

    def moved_by(self, name: str) -> tuple[Entry, ...]:
        """The entries that the slider of a named vector moves: one for each layer of its range.

        Its own pushes alone: one along another vector may bear the same name, as every `Steer` that was given none does.
        """
        vector = self.vectors.get(name)
        return tuple(e for e in self.entries if vector is not None and _pushes(e.intervention, name, vector))

    def knowing(self, name: str, vector: SteeringVector) -> Moment:
        """The same with a vector of this name; where another one of this name acts, that one stays."""
        old = self.vectors.get(name)
        if old is not None and old.vector != vector.vector and self.moved_by(name):
            return self
        return replace(self, vectors={**self.vectors, name: vector})

    def remade(self, name: str, vector: SteeringVector) -> Moment:
        """The same with another vector under this name, which acts as the old one did, at the site where it was made."""
        old, group = self.vectors.get(name), self.moved_by(name)
        if old is None or old == vector or not group:
            return self.knowing(name, vector)
        at_home = all(e.intervention.site == old.site for e in group)
        steers = [(e.intervention, e.on) for e in group if isinstance(e.intervention, Steer)]
        new = [
            Entry(Steer(vector.site if at_home else s.site, vector, s.coefficient, s.mode, s.positions, name), on)
            for s, on in steers
        ]
        return replace(self.with_group(group, new, f"{name} made anew"), vectors={**self.vectors, name: vector})

    def ablated(self, site: Site) -> Ablate | None:
        """The ablation of this whole site, or of the layer of heads that it is one of, if it is on; cut edges leave it on."""
        on = [e.intervention for e in self.entries if e.on]
        sites = {site} | _layers_of({site})
        return next((a for a in on if isinstance(a, Ablate) and a.site in sites and a.edge is None), None)


def _pushes(what: Intervention, name: str, vector: SteeringVector) -> bool:
    return isinstance(what, Steer) and what.name == name and what.vector == vector.vector


def _heads_of(site: Site, heads: Sequence[int]) -> tuple[Site, ...]:
    """The heads that a layer of heads stands for."""
    if site.part != "z" or site.index is not None or site.layer is None or site.layer >= len(heads):
        return ()
    return tuple(Site("z", site.layer, head) for head in range(heads[site.layer]))


def _layers_of(sites: Collection[Site]) -> set[Site]:
    """The layers of heads that these heads are in."""
    return {Site("z", site.layer) for site in sites if site.part == "z"}


@dataclass(frozen=True)
class Tail:
    """What a drag after an undo has cut off: forgotten once the drag is a step, put back when it came to nothing."""

    moments: tuple[Moment, ...] = ()
    metrics: dict[int, float] = field(default_factory=dict[int, float])


@dataclass
class History:
    """Moments in order, and where we are; a step after an undo forgets what was undone.

    Attributes:
        tail: what the present draft has cut off.
        forgotten: how many moments were given up at the beginning, so that the list does not grow for ever.
    """

    moments: list[Moment] = field(default_factory=lambda: [Moment()])
    index: int = 0
    metrics: dict[int, float] = field(default_factory=dict[int, float])
    tail: Tail = Tail()
    forgotten: int = 0

    @property
    def now(self) -> Moment:
        """The present moment."""
        return self.moments[self.index]

    @property
    def place(self) -> int:
        """Which moment is the present one, those that were given up counted too."""
        return self.forgotten + self.index

    def step(self, moment: Moment) -> None:
        """Go on to `moment`; one with the same draft key replaces the present one (a drag is one step)."""
        if moment.draft and self.now.draft == moment.draft:
            self.moments[self.index] = moment
            self.metrics.pop(self.index, None)
            return
        self.settle()  # a draft that was left is a step: what it has cut off does not come back
        cut = {i: v for i, v in self.metrics.items() if i > self.index}
        self.tail = Tail(tuple(self.moments[self.index + 1 :]), cut) if moment.draft else Tail()
        del self.moments[self.index + 1 :]
        for i in cut:
            del self.metrics[i]
        if len(self.moments) >= _LIMIT:
            self.index = max(0, self.index - 1)  # first, so that an interrupt leaves it inside the list
            del self.moments[0]
            self.metrics = {i - 1: v for i, v in self.metrics.items() if i > 0}
            self.forgotten += 1
        self.moments.append(moment)
        self.index += 1

    def knows(self, name: str, vector: SteeringVector) -> None:
        """Every moment has a vector of this name from now on, for nothing undoes that it was given."""
        self.moments[:] = [moment.knowing(name, vector) for moment in self.moments]
        self.tail = replace(self.tail, moments=tuple(moment.knowing(name, vector) for moment in self.tail.moments))

    def forget_numbers(self) -> None:
        """The metric of no moment is known any more."""
        self.metrics.clear()
        self.tail = replace(self.tail, metrics={})

    def settle(self) -> None:
        """The present draft is final."""
        self.moments[self.index] = replace(self.now, draft="")
        self.tail = Tail()

    def finish(self) -> None:
        """The present draft is final; one that ended where it began is no step."""
        now, before = self.now, self.moments[max(0, self.index - 1)]
        if self.index > 0 and now.draft and (now.question, now.entries) == (before.question, before.entries):
            self.index -= 1  # first, so that an interrupt leaves it inside the list
            self.metrics.pop(self.index + 1, None)
            self.moments[self.index + 1 :] = self.tail.moments
            self.metrics.update(self.tail.metrics)
            self.tail = Tail()
        else:
            self.settle()

    def move(self, by: int) -> bool:
        """Undo (−1) or redo (+1); False at the end of the list."""
        if not 0 <= self.index + by < len(self.moments):
            return False
        self.settle()
        self.index += by
        return True
