"""Generation: the model's own text and the edited one side by side, what the edits did to each token, and branches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import traitlets

from interp_widgets.model.ending import Settings
from interp_widgets.model.errors import CancelledError, InterpError, InterventionError
from interp_widgets.model.generate import generate, line_of, score
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Token
from interp_widgets.model.written import GeneratedToken
from interp_widgets.model.written import Generation as Rows
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.brief import brief
from interp_widgets.widgets.guard import Number, bundle
from interp_widgets.widgets.steering_sliders import idle
from interp_widgets.widgets.wire import Json

PLAIN, EDITED = 0, 1
BRANCHES = 12
_EACH = 0.03  # seconds between two messages; more where there is more to say


@dataclass
class Branch:
    """One continuation.

    Attributes:
        parent, at: which continuation it leaves, and before which of its tokens; None for the two that start at the prompt.
        run: `"plain"` or `"edited"`.
        marks: tokens before which the interventions changed while it was written.
        stale: written under interventions that are no longer those in force.
    """

    id: int
    run: str
    label: str
    parent: int | None = None
    at: int = 0
    tokens: list[Json] = field(default_factory=list[Json])
    ended: str = ""
    note: str = ""
    marks: list[int] = field(default_factory=list[int])
    stale: bool = False

    @property
    def state(self) -> tuple[object, ...]:
        """Another one when there is more to tell."""
        measured = sum(token["other"] is not None for token in self.tokens)
        return (id(self), len(self.tokens), measured, self.ended, self.note, tuple(self.marks), self.stale)

    def told(self) -> Json:
        """As the browser is told it."""
        return dict(vars(self), tokens=list(self.tokens), marks=list(self.marks))


@dataclass(frozen=True, eq=False)
class Wanted:
    """A branch that was asked for; one that is asked for twice is two.

    Attributes:
        text: what it was to go on from: the tokens before it, and the one whose place it takes.
    """

    parent: int
    at: int
    token: int
    text: tuple[int, ...]


class Generation(View):
    """The plain and the edited continuation side by side, with the same noise; a click on a token branches off there.

    Args:
        session: from `iw.open`.
        tokens: how many, 1 to 512.
        temperature: 0 takes the most probable token.
        top_k: sample from so many only; 0 for all. top_p: from the fewest that reach this probability.
        seed: the same seed gives the same text.
        on_change: what happens when an intervention changes while text is written: `"restart"` from the prompt, or go on
            `"from here"`, which is marked in the text.

    Example:
        >>> iw.Generation(session, tokens=60, temperature=0.8, seed=1)  # doctest: +SKIP
    """

    _bundle = "generation"
    _css = bundle("generation.css")
    settings: ClassVar[frozenset[str]] = frozenset({"tokens", "temperature", "top_k", "top_p", "seed", "on_change"})
    tokens = traitlets.Int(32, min=1, max=512).tag(sync=True, echo_update=False)
    temperature = Number(0.0, min=0.0, max=100.0).tag(sync=True, echo_update=False)
    top_k = traitlets.Int(0, min=0, max=(1 << 53) - 1).tag(sync=True, echo_update=False)
    top_p = Number(1.0, min=1e-6, max=1.0).tag(sync=True, echo_update=False)
    seed = traitlets.Int(0, min=0, max=(1 << 48) - 1).tag(sync=True, echo_update=False)
    on_change = traitlets.Enum(("restart", "from here"), "restart").tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._branches: dict[int, Branch] = {}
        self._wanted: list[Wanted] = []
        self._lost = 0  # branches that were asked for and cannot begin, which is still to be said
        self._growing: tuple[Wanted, int] | None = None
        self._stop = False  # no Event: its own lock is not safe from interrupts
        self._stopped_at = -1  # the revision that was in force then: what is changed later is written all the same
        self._written: Any = None  # the circumstances under which the two texts were written to their end
        self._begun: Any = None
        self._next = EDITED + 1
        self._said = 0.0
        self._told_last: dict[int, tuple[object, ...]] = {}  # what of each branch has been told, by its id
        super().__init__(session, **settings)

    # ---- wishes ---------------------------------------------------------------------------------------------------

    def act(self, action: str, args: Json) -> None:
        """`generate` writes again, `stop` ends within one token, `branch` goes on with another token, `drop` forgets a branch."""
        if action == "stop":
            self._wanted.clear()
            self._stop, self._stopped_at = True, self.session.revision
        elif action == "generate":
            self._stop = False
            self._written = self._begun = None
            self._mirror.compute_panel(self)
        elif action == "branch":
            self._branch(args)
        elif action == "drop":
            self._drop(args.get("branch"))
        elif action == "settings":
            self._take_settings(args)
        else:
            super().act(action, args)

    def _branch(self, args: Json) -> None:
        parent, at, token = (args.get(name) for name in ("branch", "at", "token"))
        branches = self._branches  # the worker may put others in their place
        origin = branches.get(parent) if isinstance(parent, int) else None
        if origin is None or type(at) is not int or not 0 <= at < len(origin.tokens):
            raise InterventionError("There is no such token to branch from; click one that is on the screen.")
        if type(token) is not int:
            raise InterventionError(f"A branch begins with a token's id, not {brief(token)}.")
        self.session.model.tokens.one("branch", token)
        text = _text(branches, origin.id, at)
        growing = self._growing
        there = {b.id for b in self._branches.values() if b.parent is not None}
        there -= set() if growing is None else {growing[1]}  # it is among those that are wanted
        if len(there) + len(self._wanted) >= BRANCHES:
            raise InterventionError(f"There are {BRANCHES} branches already; drop one first.")
        self._stop = False
        self._wanted.append(Wanted(origin.id, at, token, text))
        self._mirror.compute_panel(self)

    def _drop(self, which: Any) -> None:
        if type(which) is not int or which not in self._branches or self._branches[which].parent is None:
            raise InterventionError("There is no such branch to drop.")
        gone = {which}
        for branch in list(self._branches.values()):  # children come after their parents
            if branch.parent in gone:
                gone.add(branch.id)
        grown = self._growing[0] if self._growing is not None and self._growing[1] in gone else None
        self._branches = {i: b for i, b in self._branches.items() if i not in gone}
        self._wanted = [w for w in self._wanted if w.parent not in gone and w is not grown]
        self._mirror.compute_panel(self)

    def _take_settings(self, args: Json) -> None:
        given = {name: args[name] for name in sorted(self.settings & set(args))}
        for name, value in given.items():
            if (error := self._wrong(name, value)) is not None:
                said = f"{name.replace('_', ' ').capitalize()} cannot be {brief(value)}"
                raise InterventionError(f"{said}: {error}")
        for error in self._set(given).values():
            raise InterventionError(f"The settings stay as they are: {type(error).__name__}: {error}")

    def _setting_changed(self, change: Any) -> None:
        if change["name"] != "on_change":
            self._stop = False
            super()._setting_changed(change)

    # ---- writing --------------------------------------------------------------------------------------------------

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """The two texts from the prompt, where they are not written yet, and then the branches that were asked for."""
        assert snapshot.question is not None
        asked, moving = snapshot.question.first, tuple(i for i in snapshot.interventions if not idle(i))
        here = (asked.tokens, self._sampling(), self.tokens, self.session.model.fingerprint())
        if self._begun is None or self._begun[0] != here:
            self._lost += len(self._wanted)
            self._branches, self._wanted = {}, []
        if self._written != (here, moving):
            self._roots(snapshot, here, moving, cancelled)
        while self._wanted:
            wanted, branches = self._wanted[0], self._branches
            same = wanted.parent in branches and _text(branches, wanted.parent, wanted.at) == wanted.text
            if same:
                self._grow(snapshot, wanted, moving, cancelled)
            if self._wanted and self._wanted[0] is wanted:
                self._wanted.pop(0)
                self._lost += not same
        self._say(snapshot, running=False)
        lost, self._lost = self._lost, 0
        if lost:
            what = "A branch" if lost == 1 else f"{lost} branches"
            raise InterventionError(
                f"{what} could not begin: the text that was clicked has been written anew since, and reads otherwise there; "
                "click a token of the new one."
            )

    def _sampling(self) -> Json:
        return {
            "temperature": self.temperature,
            "top_k": self.top_k or None,
            "top_p": None if self.top_p == 1.0 else self.top_p,
            "seed": self.seed,
        }

    def _roots(
        self, snapshot: Snapshot, here: Any, moving: Sequence[Intervention], cancelled: Callable[[], bool]
    ) -> None:
        live, ids = self.session.model, here[0]
        changed = self._begun is not None and self._begun != (here, moving)
        goes_on = self._begun is not None and self._unfinished() and (self.on_change == "from here" or not changed)
        self._stop = self._stop and snapshot.revision == self._stopped_at
        both = self._begin(moving, goes_on=goes_on, changed=changed)
        self._begun = (here, moving)
        rows = [row for row in both if not row.ended]
        lines = [
            line_of(live, ids, moving if row.run == "edited" else (), [t["id"] for t in row.tokens]) for row in rows
        ]
        left = max(1, self.tokens - max(len(row.tokens) for row in rows))
        run = Rows(live, lines, Settings.of(live, left, True, self._sampling()), self._until(cancelled))
        self._say(snapshot, running=True)
        try:
            for step in run:
                for row, token in zip(rows, step, strict=True):
                    if token is not None:
                        row.tokens.append(self._told(token))
                self._say(snapshot, running=True)
        except InterpError:
            self._say(snapshot, running=False)  # the text so far is kept
            raise
        self._ended(cancelled)
        for row, end in zip(rows, run.rows, strict=True):
            row.ended, row.note = end.ended, end.note
        if moving:
            self._measure_other(ids, moving, cancelled)
        self._written = (here, moving)

    def _begin(self, moving: Sequence[Intervention], *, goes_on: bool, changed: bool) -> list[Branch]:
        """The texts to write: begun anew, or taken up where they are, marked where the interventions changed."""
        for branch in self._branches.values():
            branch.stale = branch.stale or (branch.parent is not None and branch.run == "edited" and changed)
        if not goes_on:
            self._branches[PLAIN] = Branch(PLAIN, "plain", "as it is")
            self._branches[EDITED] = Branch(EDITED, "edited", "edited", note="" if moving else "nothing is changed")
        elif changed:
            self._branches[EDITED].marks.append(len(self._branches[EDITED].tokens))
        self._branches = dict(sorted(self._branches.items()))
        return [self._branches[PLAIN], self._branches[EDITED]] if moving else [self._branches[PLAIN]]

    def _unfinished(self) -> bool:
        edited = self._branches.get(EDITED)
        return edited is not None and bool(edited.tokens) and len(edited.tokens) < self.tokens and not edited.ended

    def _measure_other(
        self, ids: Sequence[Token], moving: Sequence[Intervention], cancelled: Callable[[], bool]
    ) -> None:
        """What the other run gives to each token: one forward a text."""
        for which, others in ((PLAIN, moving), (EDITED, ())):
            tokens = self._branches[which].tokens
            self._score(ids, [], tokens, others, cancelled)

    def _score(
        self,
        ids: Sequence[Token],
        before: list[int],
        tokens: list[Json],
        others: Sequence[Intervention],
        cancelled: Callable[[], bool],
    ) -> None:
        """The last token of a text that fills the context has no other number: it would not fit into one forward."""
        limit = self.session.model.tokens.context
        fits = tokens if limit is None else tokens[: max(0, limit - len(ids) - len(before))]
        if fits:
            values = score(self.session.model, ids, [*before, *(t["id"] for t in fits)], others, cancelled)
            for token, value in zip(fits, values.exp().tolist()[len(before) :], strict=True):
                token["other"] = value

    def _grow(
        self, snapshot: Snapshot, wanted: Wanted, moving: Sequence[Intervention], cancelled: Callable[[], bool]
    ) -> None:
        assert snapshot.question is not None
        live, origin = self.session.model, self._branches[wanted.parent]
        uses = moving if origin.run == "edited" else ()
        before = [t["id"] for t in self.path(origin.id, wanted.at)]
        ids = snapshot.question.first.tokens
        first = live.tokens.token(wanted.token)
        place = next((x[2] for x in origin.tokens[wanted.at]["top"] if x[0] == wanted.token), None)
        if place is None:
            place = float(score(live, ids, [*before, wanted.token], uses, cancelled)[-1].exp())
        top = origin.tokens[wanted.at]["top"]
        start = {
            "id": first.id,
            "text": first.text,
            "kind": first.kind,
            "probability": place,
            "other": None,
            "top": top,
        }
        branch = Branch(self._next, origin.run, f"from {origin.label}", origin.id, wanted.at, [start])
        self._growing, self._branches[branch.id] = (wanted, branch.id), branch
        self._next += 1
        done = False
        try:
            left = self.tokens - len(before) - 1
            if left > 0:
                options: Any = self._sampling()
                continued = [*before, wanted.token]
                run = generate(live, ids, uses, left, continued=continued, cancelled=self._until(cancelled), **options)
                for token in run:
                    branch.tokens.append(self._told(token))
                    self._say(snapshot, running=True)
                self._ended(cancelled)
                branch.ended, branch.note = run.ended, run.note
            else:
                branch.ended = "length"
            if moving:
                self._score(ids, before, branch.tokens, () if uses else moving, cancelled)
            done = True
        finally:
            self._growing = None
            if not done and cancelled():  # it is written again when its turn comes
                self._branches.pop(branch.id, None)

    def path(self, branch: int, upto: int) -> list[Json]:
        """The tokens from the prompt to before token `upto` of a branch, counted from the prompt."""
        return _path(self._branches, branch, upto)

    def _until(self, cancelled: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: cancelled() or self._stop

    def _ended(self, cancelled: Callable[[], bool]) -> None:
        if cancelled():
            raise CancelledError

    def _told(self, token: GeneratedToken) -> Json:
        name = self.session.model.tokens.token
        top = [[i, name(i).text, p, name(i).kind] for i, p in token.top]
        return {
            "id": token.id,
            "text": token.text,
            "kind": token.kind,
            "probability": token.probability,
            "other": None,
            "top": top,
        }

    def _say(self, snapshot: Snapshot, *, running: bool) -> None:
        now = time.monotonic()
        length = sum(len(b.tokens) for b in self._branches.values())
        if running and now - self._said < _EACH * (1 + length / 64):
            return
        self._said = now
        now = {branch.id: branch.state for branch in self._branches.values()}
        data: Json = {
            "order": list(now),
            **self._changed_branches(now),
            "divergence": self._divergence(),
            "running": running,
            "seed": self.seed,
            "note": self._note(),
        }
        share = len(self._branches[PLAIN].tokens) / self.tokens if PLAIN in self._branches else 0.0
        self.publish(snapshot, "partial" if running else "done", data, share if running else 1.0)
        self._told_last = now  # behind it: what was told to stop has not told anything

    def _changed_branches(self, now: dict[int, tuple[object, ...]]) -> Json:
        """What has changed since it was told, each branch under a name of its own: two long texts make half a megabyte."""
        data: Json = {f"branch:{n}": None for n in self._told_last if n not in now}
        changed = [b for n, b in list(self._branches.items()) if n in now and self._told_last.get(n) != now[n]]
        return data | {f"branch:{branch.id}": branch.told() for branch in changed}

    def _divergence(self) -> int | None:
        plain, edited = (self._branches[i].tokens if i in self._branches else [] for i in (PLAIN, EDITED))
        return next((i for i, (a, b) in enumerate(zip(plain, edited, strict=False)) if a["id"] != b["id"]), None)

    def _note(self) -> str:
        if self.temperature == 0:
            return "greedy"
        parts = [f"temperature {self.temperature:g}", f"seed {self.seed}"]
        parts += [f"top {self.top_k}"] if self.top_k else []
        parts += [f"top-p {self.top_p:g}"] if self.top_p < 1 else []
        return " · ".join(parts)


def _path(branches: Mapping[int, Branch], branch: int, upto: int) -> list[Json]:
    one = branches[branch]
    return [*([] if one.parent is None else _path(branches, one.parent, one.at)), *one.tokens[:upto]]


def _text(branches: Mapping[int, Branch], branch: int, at: int) -> tuple[int, ...]:
    """What a branch that takes the place of token `at` is to go on from, and that token, by their ids."""
    return tuple(token["id"] for token in _path(branches, branch, at + 1))
