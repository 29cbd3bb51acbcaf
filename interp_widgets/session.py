"""Session: the one truth. A question, the interventions, their history, and a revision that counts every change."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from interp_widgets import changes
from interp_widgets.answer import Answer, compute_answer, reference_for, with_references
from interp_widgets.asking import Reading, TokenSpec, aimed_at, question_of
from interp_widgets.code import to_session_code, to_torch_code
from interp_widgets.methods.steering import SteeringVector, checked_name
from interp_widgets.model.applied import applied
from interp_widgets.model.errors import ClosedError, InterventionError, PromptError
from interp_widgets.model.fingerprint import Fingerprint
from interp_widgets.model.interventions import AblateMode, Intervention, Steer, finite_strength
from interp_widgets.model.live import LiveModel
from interp_widgets.model.positions import Positions, PositionSpec
from interp_widgets.model.question import Example, MetricFn, Prompt, Question
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import Site
from interp_widgets.moment import History, Moment, Tail
from interp_widgets.session_json import to_json
from interp_widgets.worker import retire_worker, worker_of

log = logging.getLogger("interp_widgets")
Listener = Callable[["Session", str], None]


@dataclass(frozen=True)
class Mark:
    """A state with its history; see `Session.mark`."""

    revision: int
    moments: tuple[Moment, ...]
    index: int
    metrics: tuple[float | None, ...]  # many marks are kept: a dict of as many would be six times the size
    mode: AblateMode
    era: int
    tail: Tail
    forgotten: int


@dataclass(frozen=True)
class Snapshot:
    """One revision of a session, safe to compute with on another thread."""

    revision: int
    question: Question | None
    interventions: tuple[Intervention, ...]
    reference: Reference | None
    mode: AblateMode


class Session:
    """A question put to a live model, and what is done to the model while it answers.

    Made by `iw.open`. Every change raises `revision`; widgets mirror the session and never hold a truth of their own.

    Example:
        >>> session = iw.open()  # doctest: +SKIP
        >>> session.ask(
        ...     "When Mary and John went to the store, John gave a drink to", " Mary", " John"
        ... )  # doctest: +SKIP
        >>> session.toggle("L1H3")  # doctest: +SKIP
        >>> session.answer.metric  # doctest: +SKIP
        2.97
    """

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._history = History()
        self._lock = threading.RLock()
        self._listeners: dict[int, Listener] = {}
        self._next_listener = 0
        self._answers: dict[int, Answer] = {}
        self._asked: Fingerprint = ()
        self._reference: Reference | None = None
        self._revision = 0
        self._era = 0  # of the numbers in the history: in another one the same state has another number
        self._closed = False
        self._widgets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._held = [live]
        weakref.finalize(self, _release_soon, self._held)

    # ---- asking ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        prompt: Prompt | Sequence[Example],
        target: TokenSpec = None,
        foil: TokenSpec = None,
        *,
        corrupt: str | None = None,
        metric: MetricFn | None = None,
        position: int = -1,
        bos: bool | None = None,
    ) -> Question:
        """Ask a question; the interventions stay on.

        Args:
            prompt: a text, token ids, chat messages, or a list of `Example`s (a prompt set).
            target: the token that counts as positive, by text or id, or a list read by logsumexp; None: the model's own top token.
            foil: the token it is compared with; None: the mean logit, and the label says so.
            corrupt: a prompt of the same length to resample and patch from.
            metric: any function of the logits `[vocab]` that returns a number.
            position: where the answer is read, −1 for the last token.
            bos: True prepends a BOS where the tokenizer adds none.

        Raises:
            PromptError: for a prompt, target or foil that cannot be asked; the old question stays.
        """
        self._open()
        return self.put(question_of(self._live, prompt, target, foil, corrupt, Reading(metric, position, bos)))

    def put(self, question: Question) -> Question:
        """Ask a question that was made before."""
        self._open()
        self._step(lambda now: replace(now, question=question, label="asked", draft=""))
        return question

    def aim(self, target: TokenSpec) -> Question:
        """Ask the present question for another target; a target that was the foil changes places with the old one.

        Raises:
            PromptError: when nothing has been asked, or for what is not one token; the old question stays.

        Example:
            >>> session.aim(" John")  # doctest: +SKIP
        """
        self._open()
        aimed = self._live.tokens.many("target", target)
        if not aimed:
            raise PromptError("Name a target: the text of a token, such as ' Mary', or its id.")
        with self._lock:
            if self.question is None:
                raise PromptError("Nothing has been asked yet; call session.ask(prompt, target, foil) first.")
            question = Question(tuple(aimed_at(asked, aimed) for asked in self.question.examples))
            self._step(lambda now: replace(now, question=question, label=f"target {aimed[0].text!r}", draft=""))
        return question

    # ---- what is done to the model --------------------------------------------------------------------------------

    def set(self, *interventions: Intervention) -> None:
        """Put these interventions, and only these, in force, in this order.

        Raises:
            SiteError, InterventionError, FeatureOffError: for one that this model cannot take, or an ablation named twice;
                nothing is changed then.
        """
        self._open()
        self._step(lambda now: changes.replaced(self._live, now, interventions))

    def toggle(self, site: str | Site, mode: AblateMode | None = None) -> None:
        """Switch a head (or another site) off, or on again."""
        where = Site.parse(site)
        with self._lock:
            self.switch([where], off=self.now.ablated(where) is None, mode=mode)

    def switch(
        self,
        sites: Sequence[str | Site],
        *,
        off: bool,
        mode: AblateMode | None = None,
        positions: PositionSpec | Positions = "all",
    ) -> None:
        """Switch several sites off, everywhere or at some positions, or on again, in one step.

        Raises:
            SiteError: for a site that the model does not have. InterventionError: for a position that the prompt does not have.
        """
        self._open()
        self._step(lambda now: changes.switched(self._live, now, sites, off=off, mode=mode, positions=positions))

    def cut(self, site: str | Site, dest: int, src: int, off: bool = True) -> None:
        """Cut one edge of attention: at position `dest` the head no longer sees position `src`; `off=False` mends it.

        Raises:
            InterventionError: for what is not a head, or an edge that the prompt does not have.

        Example:
            >>> session.cut("L1H4", 7, 2)  # doctest: +SKIP
        """
        self._open()
        self._step(lambda now: changes.cut(self._live, now, site, dest, src, off=off))

    def set_mode(self, mode: AblateMode) -> None:
        """The mode of every ablation, those in force included; undo brings the old one back."""
        self._open()
        self._step(lambda now: changes.in_mode(self._live, now, mode))

    def strength(self, name: str, value: float, *, final: bool = True) -> None:
        """Set a named vector's coefficient, at every layer it acts on; a drag (`final=False`) is one step of the history.

        Raises:
            InterventionError: when there is no such vector, or the strength is not a finite number.
        """
        self._open()
        with self._lock:
            moment = changes.at_strength(self._live, self.now, name, finite_strength(value))
            if moment.entries != self.now.entries:
                self._step(lambda _now: replace(moment, draft=f"strength:{name}"))
            if final:
                self._history.finish()

    def steer_settings(
        self,
        name: str,
        *,
        on: bool | None = None,
        site: str | None = None,
        positions: str | None = None,
        mode: str | None = None,
    ) -> None:
        """Change how a named vector acts, its strength kept.

        Args:
            site: one site, or a range of layers: `"L2–L5"` adds to the stream after each of these blocks; `"writes"` acts on
                everything that is added to it.

        Raises:
            SiteError: for a layer that does not exist. InterventionError: for what makes no sense here, a position that the
                prompt does not have included; nothing is changed then.
        """
        self._open()
        with self._lock:
            moment = changes.resettled(self._live, self.now, name, on=on, site=site, positions=positions, mode=mode)
            if moment.entries != self.now.entries:
                self._step(lambda _now: moment)

    def steering(self, name: str) -> tuple[tuple[Steer, bool], ...]:
        """How a named vector acts now, and whether it is on: once for every layer of its range.

        A `Steer` of the same name along another vector is not this one's: no slider moves it.
        """
        return changes.steering(self.now, name)

    def add_vector(self, vector: SteeringVector, name: str | None = None) -> None:
        """Give the session a vector that sliders and `strength` know by name.

        Under a name that is there it takes the old one's place. Where that one acts, or is switched off, it is one step of the
        history: the new one acts at the same strength and positions, in the same mode, at the sites that were chosen, and
        undo brings the old one back.
        """
        self._open()
        called = checked_name(vector.name if name is None else name)
        with self._lock:
            moment = changes.remade(self._live, self.now, called, vector)
            self._history.knows(called, vector)
            if moment.entries == self.now.entries:
                self._changed()
            else:
                self._step(lambda _now: moment)

    def clear(self) -> None:
        """Take every intervention away."""
        self.set()

    def undo(self) -> bool:
        """One step back; False when there is none."""
        return self._move(-1)

    def redo(self) -> bool:
        """One step forward again; False when there is none."""
        return self._move(1)

    def _move(self, by: int) -> bool:
        self._open()
        with self._lock:
            moved = self._history.move(by)
            if moved:
                self._changed()
        return moved

    def mark(self) -> Mark:
        """The state and its history as they are, to come back to with `rewind`."""
        with self._lock:
            history = self._history
            moments = tuple(history.moments)
            metrics = tuple(history.metrics.get(n) for n in range(len(moments)))
            where = (history.tail, history.forgotten)
            return Mark(self._revision, moments, history.index, metrics, self.mode, self._era, *where)

    def rewind(self, mark: Mark) -> None:
        """Be as at `mark`, as a new revision: what was done since is as if it had never been; vectors given since stay."""
        self._open()
        with self._lock:
            self._revision += 1
            vectors = self.now.vectors
            metrics = {n: metric for n, metric in enumerate(mark.metrics) if metric is not None}
            history = History(list(mark.moments), mark.index, metrics, mark.tail, mark.forgotten)
            history.moments[history.index] = replace(history.now, mode=mark.mode)
            if mark.era != self._era:
                history.forget_numbers()
            self._history = history
            for name, vector in vectors.items():
                self._history.knows(name, vector)
            self._notify("state")

    def held(self) -> AbstractContextManager[bool]:
        """While a `with` block of this runs, nobody else changes the session: for several reads, or changes, as one."""
        return self._lock

    # ---- reading --------------------------------------------------------------------------------------------------

    @property
    def model(self) -> LiveModel:
        """The live model."""
        return self._live

    @property
    def revision(self) -> int:
        """Counts every change."""
        return self._revision

    @property
    def now(self) -> Moment:
        """The present state."""
        with self._lock:
            return self._history.now

    @property
    def history(self) -> History:
        """All states, and which one is present."""
        return self._history

    @property
    def question(self) -> Question | None:
        """What is asked."""
        return self.now.question

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What is done to the model, in order; entries that are switched off are left out."""
        return self.now.interventions

    @property
    def vectors(self) -> dict[str, SteeringVector]:
        """The named vectors."""
        return dict(self.now.vectors)

    @property
    def mode(self) -> AblateMode:
        """The mode in which `toggle` ablates."""
        return self.now.mode

    @property
    def reference(self) -> Reference | None:
        """The prompts that mean and resample ablation use now; assign a `Reference` or a list of prompts to choose."""
        question = self.question
        return self._reference or (reference_for(self._live, question, None) if question else self._live.reference)

    @reference.setter
    def reference(self, value: Reference | Sequence[str] | str | None) -> None:
        self._open()
        with self._lock:
            self._reference = Reference.of(value)
            self._forget_numbers()
            self._changed()

    @property
    def answer(self) -> Answer:
        """The answer of the present revision, computed when first asked for.

        Raises:
            PromptError: when nothing has been asked yet.
        """
        self._open()
        self.look()
        return self.compute(self.snapshot())

    def look(self) -> bool:
        """Whether the model has changed since it was last asked (weights loaded, hooks added): then this is another state.

        Widgets look by themselves after every cell.
        """
        self._open()
        if not self._asked or self._asked == self._live.fingerprint():
            return False
        with self._lock:
            self._answers, self._asked = {}, ()
            self._forget_numbers()
            self._changed()
        return True

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool] | None = None) -> Answer:
        """The answer of one revision."""
        if snapshot.question is None:
            raise PromptError("Nothing has been asked yet; call session.ask(prompt, target, foil) first.")
        kept = self._answers.get(snapshot.revision)
        if kept is not None:
            return kept
        weights = self._live.fingerprint()
        try:
            answer = compute_answer(
                self._live, snapshot.question, snapshot.interventions, snapshot.reference, cancelled
            )
        except Exception:
            with self._lock:
                if snapshot.revision == self._revision:
                    self._asked_of(weights)  # once it has changed, it may have an answer
            raise
        with self._lock:
            if snapshot.revision == self._revision:
                self._asked_of(weights)
                self._answers = {snapshot.revision: answer}
                self._history.metrics[self._history.index] = answer.metric
        return answer

    def _asked_of(self, weights: Fingerprint) -> None:
        if self._asked and self._asked != weights:  # nobody has looked since the model changed
            self._forget_numbers()
        self._asked = weights

    def _forget_numbers(self) -> None:
        """The numbers of earlier states would be others now: coming back to one must not show what it no longer gives."""
        self._era += 1
        self._history.forget_numbers()

    def peek(self) -> Answer | None:
        """The answer of the present revision if it has been computed."""
        return self._answers.get(self._revision)

    def snapshot(self) -> Snapshot:
        """The present revision, frozen; references filled in."""
        with self._lock:
            question, reference = self.question, self.reference
            uses = with_references(self.interventions, reference) if question else self.interventions
            return Snapshot(self._revision, question, uses, reference, self.mode)

    @contextmanager
    def applied(self) -> Generator[list[Receipt]]:
        """Run your own `model(...)` or `model.generate(...)` under the interventions, in this context only.

        Threads that you start inside run the plain model, as they inherit no context, and so do processes of a pool that was
        there before; a thread that is given a copy of the context, by `pool.submit(contextvars.copy_context().run, work)` or
        `asyncio.to_thread(work)`, runs the edited one. An inner block replaces an outer one until it ends.

        Yields:
            a list that holds the receipts of all threads when the block ends.

        Example:
            >>> with session.applied() as receipts:  # doctest: +SKIP
            ...     out = model(**tokenizer("The cat", return_tensors="pt"))
            >>> receipts[0].state  # doctest: +SKIP
            'acted'
        """
        self._open()
        snapshot = self.snapshot()
        asked = tuple(a.tokens for a in snapshot.question.examples) if snapshot.question else ()
        uses = with_references(snapshot.interventions, snapshot.reference)
        with applied(self._live, uses, asked[0] if asked else (), asked) as receipts:
            yield receipts

    def to_code(self, dialect: Literal["session", "torch"] = "session") -> str:
        """The present state as Python: in this package's words, or as plain torch hooks that give the same numbers.

        What Python has no short form for is left to be filled in: a vector as `push = ...`, own code as a comment.
        """
        if dialect not in ("session", "torch"):
            raise InterventionError(f'There is no dialect {dialect!r}; choose "session" or "torch".')
        if dialect == "torch":
            return to_torch_code(self)
        with self._lock:
            return to_session_code(self, self._reference)

    def to_json(self) -> str:
        """The present state as JSON; own code, a metric or an edit, is left out and named, and the history is not kept.

        Saved are the question by its tokens, every intervention, those that are switched off too, the named vectors, the
        mode, and the reference that was assigned.
        """
        with self._lock:
            return to_json(self, self._reference)

    @classmethod
    def from_json(cls, text: str, model: Any = None, tokenizer: Any = None) -> Session:
        """A session from `to_json`'s text, on the named model or on the one given; warns of what could not be loaded.

        Raises:
            InterpError: when the text is not a saved session, or holds what this model cannot take.
        """
        from interp_widgets.api import session_from_json

        return session_from_json(text, model, tokenizer)

    # ---- lifetime -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Forget everything cached, after a change of the model that its key cannot see."""
        self._open()
        self._live.refresh()
        with self._lock:
            self._forget_numbers()
            self._changed()

    def close(self) -> None:
        """Close every widget, stop what computes, and take our hooks off the model when this was its last session."""
        if self._closed:
            _release(self._held)  # an interrupt may have cut the first one short
            return
        self._closed = True
        try:
            self._tell_all()
        finally:
            _release(self._held)

    def _tell_all(self) -> None:
        """Stop what computes, and close every view."""
        worker_of(self._live).drop_where(lambda key: isinstance(key, tuple) and key[0] == id(self))
        self._notify("closed")
        for widget in list(self._widgets):
            try:
                widget.close()
            except Exception:
                log.exception("a widget could not be closed; the others still are")
        self._listeners.clear()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _open(self) -> None:
        if self._closed:
            raise ClosedError("This session is closed; open the model again with iw.open(...).")

    # ---- who is told ----------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be told of every change (`"state"`) and of the end (`"closed"`); returns what ends it."""
        with self._lock:
            key = self._next_listener = self._next_listener + 1
            self._listeners[key] = listener
        # Not a closure over the session: what ends the listening must not keep alive what is listened to.
        listeners = self._listeners
        return lambda: listeners.pop(key, None) and None

    def holds(self, widget: Any) -> None:
        """Remember a widget, weakly, so that `close` closes it."""
        self._widgets.add(widget)

    @property
    def widgets(self) -> list[Any]:
        """The widgets that are alive."""
        return list(self._widgets)

    def _step(self, change: Callable[[Moment], Moment]) -> None:
        # Read and written in one go: a click on one thread must not undo what a cell did on another in between.
        with self._lock:
            moment = change(self.now)
            self._revision += 1  # first, so that an interrupt between the two leaves no old answer for a new state
            self._history.step(moment)
            self._notify("state")

    def _changed(self) -> None:
        self._revision += 1
        self._notify("state")

    def _notify(self, what: str) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener(self, what)
            except Exception:
                log.exception("a listener of the session failed; the others are still told")

    def __repr__(self) -> str:
        asked = f"{self.question.n} prompt(s)" if self.question else "nothing asked"
        return (
            f"Session({self._live.name!r}, {asked}, {len(self.interventions)} interventions, revision {self._revision})"
        )


def _release_soon(held: list[LiveModel]) -> None:
    """Release, from wherever memory happens to be freed: maybe inside a lock that whoever runs the model waits for."""
    for live in held[:]:
        if live.lock.acquire(blocking=False):
            try:
                _release(held)
            finally:
                live.lock.release()
        else:
            threading.Thread(target=_release, args=(held,), name="interp_widgets release", daemon=True).start()


def _release(held: list[LiveModel]) -> None:
    """Once, however often it is asked for: an interrupt falls into the wait for the lock, before anything is done."""
    for live in held[:]:
        with live.lock:
            if held:
                held.clear()
                live.release()
        if live.users == 0:
            retire_worker(live)
