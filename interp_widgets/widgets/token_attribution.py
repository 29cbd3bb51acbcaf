"""TokenAttribution: which tokens pushed the answer toward the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import traitlets

from interp_widgets.methods.answers import attribute_alternative, attribute_answer
from interp_widgets.methods.attribution import METHODS, Attribution, attribute
from interp_widgets.methods.baselines import NAMES, baseline_names
from interp_widgets.methods.deletion import ORDERS, Evidence, evidences
from interp_widgets.methods.deletion_steps import deletion_steps, random_steps
from interp_widgets.methods.direct_tokens import direct_by_source
from interp_widgets.methods.spans import SpanSpec
from interp_widgets.model.errors import CancelledError, FeatureOffError, InterpError, InterventionError, PromptError
from interp_widgets.model.question import Asked
from interp_widgets.model.written import GeneratedToken
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.brief import brief
from interp_widgets.widgets.computing import mine
from interp_widgets.widgets.guard import Text, bundle
from interp_widgets.widgets.token_attribution_data import (
    answer_of,
    attribution_of,
    carriers_of,
    compare_of,
    deletion_of,
    group_of,
    groups_of,
    instead_of,
)
from interp_widgets.widgets.wire import Json
from interp_widgets.worker import ANSWER as AT_ONCE
from interp_widgets.worker import PREFETCH, worker_of

SPANS = ("token", "word", "sentence", "line", "pattern", "selection")
FIRST = "gradient_x_input"  # about 1.6 forwards: what is shown until a finer method has answered
ONE_BACKWARD = (FIRST, "lrp")  # what tells how long a forward and a backward take
FINER = ("integrated_gradients", "occlusion", "direct")
KEPT = 8
ASK = 10.0  # seconds that nothing takes without being asked for
ANSWER = 64  # tokens of an answer at most
GIVEN = "your own prompt"  # what a page is told of a baseline that has no name
REPLACED = {"deletion": ("deletion",), "answer": ("answer", "instead"), "instead": ("instead",)}
"""What takes the place of which parts: of another unit, or another length, it is made anew."""
_MOST = 1000
Cancelled = Callable[[], bool]


class Ranges(traitlets.Tuple):  # pyright: ignore[reportMissingTypeArgument]  (traitlets' classes take none at run time)
    """Spans of one's own: pairs (start, stop) of positions that do not overlap, in order."""

    def __init__(self) -> None:
        super().__init__(default_value=())

    def validate(self, obj: Any, value: Any) -> Any:
        """A tuple (or a list, which becomes one) of pairs of whole numbers."""
        pairs: Any = super().validate(obj, value)
        good = len(pairs) <= _MOST and all(
            isinstance(p, (tuple, list)) and len(p) == 2 and all(type(n) is int for n in p) and 0 <= p[0] < p[1]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            for p in pairs
        )
        if not good or any(a[1] > b[0] for a, b in pairwise(pairs)):
            raise traitlets.TraitError(
                f"spans are pairs (start, stop) from 0 in order that do not overlap, not {value!r:.60}"
            )
        return tuple((int(start), int(stop)) for start, stop in pairs)


@dataclass
class Kept:
    """What is known of one state, part by part.

    Attributes:
        seconds: of one forward and backward; row: of a whole answer's.
        explained: the method of the answer's table.
    """

    data: Json = field(default_factory=dict[str, Any])
    parts: set[Hashable] = field(default_factory=set[Hashable])
    result: Attribution | None = None
    written: list[GeneratedToken] = field(default_factory=list[GeneratedToken])
    seconds: float = 0.0
    row: float = 0.0
    explained: str = FIRST


def _named(baseline: str, _view: Any) -> str:
    return baseline if baseline in NAMES else GIVEN


def _taken(shown: Any, view: Any) -> Any:
    return view.baseline if shown == GIVEN else shown


class TokenAttribution(View):
    r"""The prompt's tokens, coloured by how much each pushed the target over the foil, with the evidence beside the claim.

    Gradient × input is there after about 1.6 forwards; the method that was chosen takes its place. Then come, when no other
    view waits: what the answer loses as the tokens that scored most are replaced (the deletion test), the other methods
    side by side with their rank correlation, the heads that carried each token, and a whole answer where one is wished for.
    What takes longer than ten seconds asks first.

    Args:
        session: from `iw.open`.
        method: `"integrated_gradients"` (Sundararajan et al. 2017), `"gradient_x_input"`, `"occlusion"`, `"lrp"` or `"direct"`.
        steps: nodes of integrated gradients.
        baseline: `"auto"` (the mean embedding; for occlusion the unknown token), `"mean"`, `"zero"`, `"bos"`, `"pad"`, `"unk"`,
            `"corrupt"` (the question's corrupt prompt), or a prompt of as many tokens. The page offers those that there are.
        spans: scores of each `"token"`, or summed over a `"word"`, a `"sentence"`, a `"line"`, the matches of `pattern`
            (`"pattern"`), or the spans of `selection` (`"selection"`).
        pattern: a regular expression, such as `"[A-Z]\\w+"`.
        selection: spans of your own, pairs (start, stop) of positions.
        answer: how many tokens of the model's own answer are written and explained, 0 to 64.

    Example:
        >>> iw.TokenAttribution(session, spans="word", answer=8)  # doctest: +SKIP
    """

    _bundle = "token_attribution"
    _css = bundle("token_attribution.css")
    settings: ClassVar[frozenset[str]] = frozenset(
        {"method", "steps", "baseline", "spans", "pattern", "selection", "answer"}
    )
    method = traitlets.Enum(METHODS, "integrated_gradients").tag(sync=True, echo_update=False)
    steps = traitlets.Int(32, min=1, max=4096).tag(sync=True, echo_update=False)
    # A page's traits are saved with the notebook, so the words of a prompt, or of a pattern, never reach it as traits.
    baseline = Text("auto").tag(sync=True, echo_update=False, to_json=_named, from_json=_taken)
    spans = traitlets.Enum(SPANS, "token").tag(sync=True, echo_update=False)
    pattern = Text("").tag(sync=True, echo_update=False, to_json=lambda _value, _view: "")
    selection = Ranges().tag(sync=True, echo_update=False)
    answer = traitlets.Int(0, min=0, max=ANSWER).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._states: list[tuple[Any, Kept]] = []
        self._attributed: dict[Any, Attribution] = {}
        self._paces: dict[Any, float] = {}
        self._agreed: set[tuple[int, str]] = set()
        self._stopped = self._aside = -1
        self._instead: tuple[int, int] | None = None
        self._asked: tuple[int, ...] = ()  # the prompt that `_instead` belongs to
        super().__init__(session, **settings)

    def _setting_changed(self, change: Any) -> None:
        # The page sums by itself; what is replaced at once in the deletion test follows, and nothing else.
        if self._instead is not None and self._instead[0] >= self.answer:
            self._instead = None
        if change["name"] != "selection" or self.spans == "selection":
            self._stopped = -1
            super()._setting_changed(change)

    # ---- wishes ---------------------------------------------------------------------------------------------------

    def act(self, action: str, args: Json) -> None:
        """`target` asks for another token by its id, `instead` explains what an output might have been, `stop`, `compute`.

        Raises:
            InterventionError: for what is not a token's id, an output or a method.
        """
        here = self.session.revision
        if action == "target":
            self._aim(self.session, self._token(args.get("id")))
        elif action == "instead":
            self._instead = (self._output(args.get("output")), self._token(args.get("id")))
            self._mirror.compute_panel(self)
        elif action == "pattern":
            self._take_pattern(args.get("pattern"))
        elif action == "stop":
            self._stopped = here
        elif action == "compute":
            what = args.get("what", self.method)
            if what not in (*METHODS, "deletion"):
                raise InterventionError(
                    f"There is no {brief(what)} to compute; there are {', '.join(METHODS)} and 'deletion'."
                )
            self._agreed = {one for one in self._agreed if one[0] == here} | {(here, str(what))}
            self._stopped = -1
            self._mirror.compute_panel(self)
        else:
            super().act(action, args)

    def _take_pattern(self, pattern: Any) -> None:
        if (error := self._wrong("pattern", pattern)) is not None:
            raise InterventionError(f"The regular expression cannot be {brief(pattern)}: {error}")
        for fault in self._set({"pattern": pattern}).values():
            raise InterventionError(f"The regular expression stays as it is: {type(fault).__name__}: {fault}")

    def _aim(self, session: Session, token: int) -> None:
        """Ask for another target now; while a question is being asked, of that one, when it is there."""
        worker = worker_of(session.model)
        if not worker.any(mine(session, "do")):
            session.aim(token)
            return

        def then(_cancelled: Cancelled) -> None:
            try:
                session.aim(token)
            except InterpError as error:
                self._mirror.complain(self, str(error))

        worker.submit((id(session), "do", f"target:{self.panel}"), then, AT_ONCE)

    def _output(self, output: Any) -> int:
        """An output of the answer that is written for the present state."""
        if type(output) is not int or not 0 <= output < ANSWER:
            raise InterventionError(f"{brief(output)} is not an output of the answer; they are numbered from 0.")
        if self.answer == 0:
            raise InterventionError("No answer is explained; choose first how many tokens of it are to be.")
        snapshot = self.session.snapshot()
        kept = None if snapshot.question is None else self._known(self._state_key(snapshot))
        done = kept is not None and ("answer", self.answer) in kept.parts
        n = 0 if kept is None else min(self.answer, len(kept.data.get("answer", {}).get("outputs", ())))
        if output >= (n if done else self.answer):
            n = n if done else self.answer
            raise InterventionError(f"Output {output} does not exist: {n} tokens are explained, numbered from 0.")
        if output >= n:
            raise InterventionError("The answer of the present state is still being explained; try again in a moment.")
        return output

    def _token(self, token: Any) -> int:
        vocabulary = self.session.model.anatomy.vocab
        if type(token) is not int or not 0 <= token < vocabulary:
            raise InterventionError(f"{brief(token)} is not the id of a token; ids go from 0 to {vocabulary - 1}.")
        return token

    # ---- computing ------------------------------------------------------------------------------------------------

    def compute(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        """Explain the run of this revision, edited or plain: roughly at once, then as chosen, then what it is held to."""
        assert snapshot.question is not None
        if snapshot.question.first.ids != self._asked:
            self._asked, self._instead = snapshot.question.first.ids, None
        kept = self._state(snapshot)
        if "main" not in kept.parts:
            self.publish(snapshot, "computing")
            if not self._explain(snapshot, kept, lambda: cancelled() or self._stopped == snapshot.revision, cancelled):
                return
        self.publish(snapshot, "partial", kept.data | self._pattern_groups(snapshot), 0.5)
        missing = [(name, make) for name, make in self._parts() if name not in kept.parts]
        if missing and self._aside != snapshot.revision:
            self._aside = snapshot.revision
            self._mirror.compute_panel(self, PREFETCH)  # the other views first
            return
        for i, (name, make) in enumerate(missing):
            share = 0.5 + 0.5 * i / len(missing)

            def say(data: Json, share: float = share) -> None:
                kept.data |= data
                self.publish(snapshot, "partial", data, share)

            say(make(snapshot, kept, cancelled, say))
            over = REPLACED.get(name[0], ()) if isinstance(name, tuple) else ()
            kept.parts = {one for one in kept.parts if not (isinstance(one, tuple) and one[0] in over)} | {name}
        self.publish(snapshot, "done", {}, 1.0)

    def _state(self, snapshot: Snapshot) -> Kept:
        """What is known of this state; of the last few, nothing is computed twice."""
        key = self._state_key(snapshot)
        kept = self._known(key)
        if kept is None:
            kept = Kept()
            self._states = [*self._states[1 - KEPT :], (key, kept)]
        return kept

    def _known(self, key: Any) -> Kept | None:
        return next((kept for other, kept in self._states if other == key), None)

    def _state_key(self, snapshot: Snapshot) -> tuple[Any, ...]:
        assert snapshot.question is not None
        return (*self._where(snapshot), snapshot.question.n, self.method, self.steps, self.baseline)

    def _where(self, snapshot: Snapshot) -> tuple[Any, ...]:
        assert snapshot.question is not None
        return (snapshot.question.first, snapshot.interventions, self.session.model.fingerprint())

    def _explain(self, snapshot: Snapshot, kept: Kept, stopped: Cancelled, cancelled: Cancelled) -> bool:
        """The method that was chosen, something quicker meanwhile; False when it would take long and nobody has said yes."""
        assert snapshot.question is not None
        live, asked = self.session.model, snapshot.question.first
        groups = {"groups": groups_of(live, asked), "baselines": list(baseline_names(live, asked))}
        start, rough = time.perf_counter(), None
        if self.method in FINER:
            try:
                rough = self._attribute(snapshot, FIRST, cancelled)
                self.publish(snapshot, "partial", attribution_of(rough) | groups | {"pattern": self.pattern}, 0.1)
            except FeatureOffError:
                pass
        kept.seconds = self._paces.get(self._where(snapshot), time.perf_counter() - start)
        seconds = self._estimate(self.method, snapshot.question.first, kept) if rough is not None else 0.0
        long = seconds if seconds > ASK else None
        if long is not None and (snapshot.revision, self.method) not in self._agreed:
            message = f"{self.method.replace('_', ' ').capitalize()} takes long on this prompt"
            self.publish(snapshot, "asking", {"estimate_seconds": long}, message=message)
            return False
        try:
            result = self._attribute(
                snapshot,
                self.method,
                stopped,
                lambda done: self.publish(snapshot, "partial", {"estimate_seconds": long}, 0.5 * done),
            )
        except CancelledError:
            if cancelled():
                raise
            self.publish(snapshot, "asking", message="Stopped; the rough scores stay")
            return False
        kept.seconds = self._paces.get(self._where(snapshot), kept.seconds)
        which = [f"the first of {snapshot.question.n} prompts"] if snapshot.question.n > 1 else []
        data = attribution_of(result) | groups | {"estimate_seconds": None}
        data["line"] = " · ".join([*which, result.line])
        kept.result, kept.data = result, data
        kept.parts.add("main")
        return True

    def _attribute(
        self, snapshot: Snapshot, method: str, cancelled: Cancelled, progress: Callable[[float], None] | None = None
    ) -> Attribution:
        """One method, kept for when it is chosen or compared again."""
        assert snapshot.question is not None
        key = (*self._where(snapshot), method, self.steps, self.baseline)
        found, start = self._attributed.pop(key, None), time.perf_counter()
        if found is None:
            found = attribute(
                self.session.model,
                snapshot.question.first,
                snapshot.interventions,
                method,
                self.steps,
                self.baseline,
                progress=progress,
                cancelled=cancelled,
            )
            if method in ONE_BACKWARD:
                self._paces = dict([*self._paces.items()][1 - KEPT :]) | {
                    self._where(snapshot): time.perf_counter() - start
                }
        self._attributed[key] = found
        while len(self._attributed) > KEPT * len(METHODS):
            del self._attributed[next(iter(self._attributed))]
        return found

    def _estimate(self, method: str, asked: Asked, kept: Kept) -> float:
        """Seconds that a method takes, from what one forward and backward took."""
        runs = {"integrated_gradients": self.steps, "occlusion": 0.4 * len(asked.tokens)}.get(method, 2.0)
        return runs * kept.seconds

    def _pattern_groups(self, snapshot: Snapshot) -> Json:
        """The spans that `pattern` matches, or why it matches none."""
        assert snapshot.question is not None
        pattern = self.pattern
        if not pattern:
            return {"pattern": "", "matches": None, "matches_note": ""}
        try:
            index, chosen = group_of(self.session.model, snapshot.question.first, f"/{pattern}/")
        except PromptError as error:
            return {"pattern": pattern, "matches": None, "matches_note": str(error)}
        found = {"pattern": pattern, "index": index, "chosen": chosen}
        return {"pattern": pattern, "matches": found, "matches_note": ""}

    # ---- what it is held to ---------------------------------------------------------------------------------------

    def _parts(self) -> list[tuple[Hashable, Callable[[Snapshot, Kept, Cancelled, Callable[[Json], None]], Json]]]:
        """What comes after the scores, in this order; each has a name under which it is kept."""
        agreed = tuple(sorted(what for at, what in self._agreed if at == self.session.revision))
        parts: list[Any] = [
            ("evidence", self._evidence),
            ("carriers", self._carriers),
            (("deletion", "deletion" in agreed, self._units()), self._deletion),
            (("compare", *(m for m in agreed if m in METHODS)), self._side_by_side),
        ]
        if self.answer > 0:
            parts.append((("answer", self.answer), self._answer))
            if self._instead is not None and self._instead[0] < self.answer:
                parts.append((("instead", self.answer, self._instead), self._other))
        return parts

    def _evidence(self, snapshot: Snapshot, kept: Kept, cancelled: Cancelled, _say: Any) -> Json:
        """The deletion test in one line, or why there is none."""
        assert snapshot.question is not None
        assert kept.result is not None
        one = {self.method: kept.result.scores}
        try:
            found = evidences(
                self.session.model,
                snapshot.question.first,
                one,
                snapshot.interventions,
                orders=_orders(kept),
                cancelled=cancelled,
            )
        except InterpError as error:
            return {"line": f"{kept.data['line']} · no deletion test: {error}"}
        return {"line": f"{kept.data['line']} · {found[self.method].line}"}

    def _units(self) -> SpanSpec:
        """What the deletion test replaces at once: the spans that the scores are summed over."""
        if self.spans == "pattern":
            return f"/{self.pattern}/" if self.pattern else "token"
        return (
            self.selection if self.spans == "selection" and self.selection else self.spans.replace("selection", "token")
        )

    def _carriers(self, snapshot: Snapshot, _kept: Kept, cancelled: Cancelled, _say: Any) -> Json:
        """Which heads carried each token straight to the answer."""
        assert snapshot.question is not None
        live, asked = self.session.model, snapshot.question.first
        try:
            return {"carriers": carriers_of(direct_by_source(live, asked, snapshot.interventions, cancelled))}
        except FeatureOffError as error:
            return {"carriers": {"note": str(error)}}

    def _deletion(self, snapshot: Snapshot, kept: Kept, cancelled: Cancelled, say: Callable[[Json], None]) -> Json:
        """The curves of this ranking, then random orders one after the other, as many as ten seconds hold."""
        assert snapshot.question is not None
        assert kept.result is not None
        live, asked, on = self.session.model, snapshot.question.first, snapshot.interventions
        patient = (snapshot.revision, "deletion") in self._agreed
        most = 40 if patient else int(max(5, min(40, 0.25 * ASK / max(kept.seconds, 1e-4))))
        random: list[Any] = []
        try:
            scores, units = kept.result.scores, self._units()
            steps = deletion_steps(live, asked, scores, on, spans=units, most=most, cancelled=cancelled)
        except InterpError as error:
            return {"deletion": {"note": str(error)}}
        say({"deletion": deletion_of(self.method, steps, random, None)})
        start = time.perf_counter()
        for curves in random_steps(live, asked, steps, on, cancelled=cancelled):
            random.append(curves)
            spent = time.perf_counter() - start
            if len(random) >= ORDERS or (spent > ASK and not patient):
                break
            say({"deletion": deletion_of(self.method, steps, random, None)})
        wait = (time.perf_counter() - start) / len(random) if len(random) < ORDERS else None
        return {"deletion": deletion_of(self.method, steps, random, wait)}

    def _side_by_side(self, snapshot: Snapshot, kept: Kept, cancelled: Cancelled, say: Callable[[Json], None]) -> Json:
        """The other methods, and the same test for each of them."""
        assert snapshot.question is not None
        assert kept.result is not None
        found: dict[str, Attribution] = {self.method: kept.result}
        off: dict[str, str] = {}
        waiting: dict[str, float] = {}
        for method in METHODS:
            seconds = self._estimate(method, snapshot.question.first, kept)
            if method in found:
                continue
            if seconds > ASK and (snapshot.revision, method) not in self._agreed:
                waiting[method] = seconds
                continue
            try:
                found[method] = self._attribute(snapshot, method, cancelled)
            except CancelledError:
                raise
            except InterpError as error:
                off[method] = str(error)
            say({"compare": compare_of(found, {}, off, waiting)})
        checks: dict[str, Evidence] = {}
        try:
            scores = {name: one.scores for name, one in found.items()}
            live, asked = self.session.model, snapshot.question.first
            on = snapshot.interventions
            checks = evidences(live, asked, scores, on, orders=_orders(kept), cancelled=cancelled)
        except PromptError:
            pass  # nothing can be replaced, and the line of the method says so
        return {"compare": compare_of(found, checks, off, waiting)}

    def _answer(self, snapshot: Snapshot, kept: Kept, cancelled: Cancelled, say: Callable[[Json], None]) -> Json:
        """The model's own answer, and every token of it attributed to every token before it."""
        assert snapshot.question is not None
        live, asked, on = self.session.model, snapshot.question.first, snapshot.interventions
        room = self.answer if live.tokens.context is None else min(self.answer, live.tokens.context - len(asked.tokens))
        if room < 1:
            return {"answer": {"note": f"The prompt fills the model's context of {live.tokens.context} tokens."}}
        kept.written = []
        for token in live.generate(list(asked.ids), on, max_new_tokens=room):
            if cancelled():
                raise CancelledError
            kept.written.append(token)
        if not kept.written:
            return {"answer": {"note": "The model writes nothing after this prompt: it ends the text at once."}}
        data: Json = {"answer": {"note": ""}, "instead": None}
        for method in (FIRST, self.method):
            if method != FIRST and not self._fits(method, kept):
                continue
            start = time.perf_counter()
            try:
                table = attribute_answer(
                    live, asked, kept.written, on, method, self.steps, self.baseline, cancelled=cancelled
                )
            except FeatureOffError as error:
                data = {"answer": {"note": str(error)}, "instead": None}
                continue
            kept.row = time.perf_counter() - start if method == FIRST else kept.row
            kept.explained = method
            data = {"answer": answer_of(table, kept.written, live), "instead": None}
            say(data)
            if method == self.method:
                break
        return data

    def _fits(self, method: str, kept: Kept) -> bool:
        """Whether a finer method of a whole answer takes no longer than may be without being asked for."""
        return kept.row * (self.steps if method == "integrated_gradients" else 2.0) <= ASK

    def _other(self, snapshot: Snapshot, kept: Kept, cancelled: Cancelled, _say: Any) -> Json:
        """The row of another token in an output's place."""
        assert snapshot.question is not None
        assert self._instead is not None
        output, token = self._instead
        live, asked, on = self.session.model, snapshot.question.first, snapshot.interventions
        if output >= len(kept.written):
            return {"instead": None}
        try:
            scores, metric = attribute_alternative(
                live,
                asked,
                kept.written,
                output,
                token,
                on,
                kept.explained,
                self.steps,
                self.baseline,
                cancelled=cancelled,
            )
        except FeatureOffError:
            return {"instead": None}
        return {"instead": instead_of(output, live.tokens.token(token), kept.explained, scores, metric)}


def _orders(kept: Kept) -> int:
    """Random orders that a ranking is held to: as many as half of ten seconds hold, a run being about half of both ways."""
    return max(5, min(ORDERS, int(ASK / max(kept.seconds, 1e-4))))
