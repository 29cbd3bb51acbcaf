"""SteeringSliders: push the residual stream along named vectors and watch the answer and a continuation move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import traitlets

from interp_widgets.methods.dose_response import ASK
from interp_widgets.methods.steering import SteeringVector, checked_name
from interp_widgets.model.compile import compile_steps
from interp_widgets.model.errors import CancelledError, InterventionError
from interp_widgets.model.generate import generate
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.places import check_site
from interp_widgets.model.written import GeneratedToken, GenerationRun
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.brief import brief
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.steering_curves import Aim, Curves, aims
from interp_widgets.widgets.wire import Json


class SteeringSliders(View):
    """One slider per vector, its dose–response curve under it, and the plain and the edited continuation side by side.

    Args:
        session: from `iw.open`.
        vectors: `{name: SteeringVector}`, given to the session under these names.
        tokens: how long the continuation is; 0 for none.
        coherence: whether to find out at which strengths text breaks.

    Example:
        >>> mood = iw.steering_vector(session, ["I loved it."], ["I hated it."], "L1")  # doctest: +SKIP
        >>> iw.SteeringSliders(session, vectors={"mood": mood})  # doctest: +SKIP
    """

    _bundle = "steering_sliders"
    _css = bundle("steering_sliders.css")
    settings: ClassVar[frozenset[str]] = frozenset({"tokens", "coherence"})
    tokens = traitlets.Int(24, min=0, max=512).tag(sync=True, echo_update=False)
    coherence = traitlets.Bool(True).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, vectors: Mapping[str, SteeringVector] | None = None, **settings: Any) -> None:
        given = dict(vectors or {})
        if isinstance(session, Session) and not session.closed:  # pyright: ignore[reportUnnecessaryIsInstance]
            _check(session, given)  # else the base says what is wrong
        self._curves = Curves()
        self._mapped: str | None = None
        self._agreed: Any = None
        self._stopped_at = self._halted_at = -1  # the revisions whose text, and whose measurements, were stopped
        self._writing = self._measuring = False
        self._half: tuple[int, list[Json], list[Json]] | None = None  # a text that is told to be under way, and of when
        self._edited: tuple[Any, list[Json]] | None = None
        self._plain: tuple[Any, list[Json]] | None = None
        super().__init__(session, **settings)
        try:
            for name, vector in given.items():
                session.add_vector(vector, name)
        except BaseException:
            self.close()
            raise

    def _setting_changed(self, change: Any) -> None:
        self._stopped_at = self._halted_at = -1
        super()._setting_changed(change)

    def act(self, action: str, args: Json) -> None:
        """Do what the page wishes.

        `generate` starts the continuation again, `stop` ends it within one token (or else what is measured), `map` shows a
        vector's map (null: none), `compute` allows what takes long.
        """
        if action == "stop":
            self._stop(self.session.revision)
        elif action == "generate":
            # Due from now on: a stop that comes before the first token is a stop of this text.
            self._stopped_at, self._edited, self._writing = -1, None, True
            self._mirror.compute_panel(self)
        elif action == "map":
            self._map(args.get("vector"))
        elif action == "compute":
            self._agreed, self._halted_at = _asked(self.session.snapshot()), -1
            self._mirror.compute_panel(self)
        else:
            super().act(action, args)

    def _stop(self, here: int) -> None:
        """Stop the text where one is written, else what is measured, else, while it waits for its turn, both."""
        if self._writing or not self._measuring:
            self._stopped_at = here
        if not self._writing:
            self._halted_at = here

    def _map(self, name: Any) -> None:
        if name is not None and (not isinstance(name, str) or name not in self.session.vectors):
            raise InterventionError(
                f"There is no vector {brief(name)}; there are {', '.join(self.session.vectors) or 'none yet'}."
            )
        self._mapped = name
        if name is not None:
            self._halted_at = -1
        self._mirror.compute_panel(self)

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """What is known at once; the continuation, for it is what moves; then what is not known yet."""
        wanted = aims(self.session, snapshot)
        self.publish(snapshot, "computing", self._told(wanted, Asks(agreed=True)))
        try:
            self._writing = self.tokens > 0 and self._stopped_at != snapshot.revision
            if self._writing:
                self._continue(snapshot, cancelled)
            else:
                self._tell_half(snapshot)
        finally:
            self._writing = False
        try:
            self._measuring = True
            self._measure(snapshot, wanted, lambda: cancelled() or self._halted_at == snapshot.revision)
        except CancelledError:
            if cancelled():
                raise
            self._agreed = None
            self.publish(snapshot, "asking", message="Stopped; what was measured so far stays")
        finally:
            self._measuring = False

    def _continue(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        assert snapshot.question is not None
        asked = snapshot.question.first
        plain = self._plain_text(snapshot, cancelled)
        if self._stopped_at == snapshot.revision:
            self._tell_text(snapshot, plain, [], note="stopped")
            return
        moving = [i for i in snapshot.interventions if not idle(i)]
        key = (asked.tokens, self.tokens, tuple(moving), self.session.model.fingerprint())
        known = plain if not moving else self._edited[1] if self._edited and self._edited[0] == key else None
        if known is not None:
            self._tell_text(snapshot, plain, known)
            return
        edited: list[Json] = []
        note = ""
        run = generate(self.session.model, asked.tokens, moving, self.tokens, cancelled=cancelled)
        for token in run:
            edited.append(written(token))
            if self._stopped_at == snapshot.revision:
                note = "stopped"
                break
            self._tell_text(snapshot, plain, edited, running=True)
        refuse_half(run)
        self._edited = None if note else (key, edited)
        self._tell_text(snapshot, plain, edited, note=note)

    def _plain_text(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> list[Json]:
        assert snapshot.question is not None
        asked, live = snapshot.question.first, self.session.model
        key = (asked.tokens, self.tokens, live.fingerprint())
        if self._plain is not None and self._plain[0] == key:
            return self._plain[1]
        plain: list[Json] = []
        run = generate(live, asked.tokens, (), self.tokens, cancelled=cancelled)
        for token in run:
            plain.append(written(token))
            if self._stopped_at == snapshot.revision:
                return plain
            self._tell_text(snapshot, plain, [], running=True, share=0.2)
        refuse_half(run)
        self._plain = (key, plain)
        return plain

    def _tell_text(
        self, snapshot: Snapshot, plain: list[Json], edited: list[Json], *,
        running: bool = False, note: str = "", share: float = 0.5,
    ) -> None:  # fmt: skip
        self._half = (snapshot.revision, plain, edited) if running else None
        told = _continuation(plain, edited, running=running, note=note)
        self.publish(snapshot, "partial", {"continuation": told}, share)

    def _tell_half(self, snapshot: Snapshot) -> None:
        """A text that was stopped while its job was set aside is under way no more."""
        if self._half is not None:
            of, plain, edited = self._half
            mine = of == snapshot.revision  # the text of another state is not this one's
            self._tell_text(snapshot, plain if mine else [], edited if mine else [], note="stopped")

    def _measure(self, snapshot: Snapshot, wanted: Sequence[Aim], cancelled: Callable[[], bool]) -> None:
        """Curves, then where text breaks, then the map: what is there stays, what is not is filled in."""
        live, asks = self.session.model, Asks(agreed=self._agreed == _asked(snapshot))

        def tell(share: float = 0.5) -> None:
            self.publish(snapshot, "partial", self._told(wanted, asks), share)

        whole = [self._curves.measure(live, aim, tell, asks, cancelled) for aim in wanted]
        tell(0.6)
        if self.coherence and all(whole):
            for n, aim in enumerate(wanted):
                if not self._curves.break_up(live, aim, asks, cancelled):
                    break
                tell(0.6 + 0.3 * (n + 1) / len(wanted))
        mapped = next((aim for aim in wanted if aim.name == self._mapped), None)
        if mapped is not None:
            self._curves.chart(live, mapped, lambda share: tell(0.9 + 0.1 * share), cancelled)
        told, long = self._told(wanted, asks), asks.refused
        words = "Random vectors, and where text breaks, take long on this model" if long else ""
        self.publish(snapshot, "asking" if long else "done", told, 1.0, words)

    def _told(self, wanted: Sequence[Aim], asks: Asks) -> Json:
        chart = self._curves.map[1] if self._mapped is not None and self._curves.map is not None else None
        shown = None if chart is None or chart["vector"] != self._mapped else chart
        return {"vectors": self._curves.told(wanted), "map": shown, "estimate_seconds": asks.seconds or None}


def _check(session: Session, vectors: Mapping[str, SteeringVector]) -> None:
    """Refuse vectors of which one does not fit, before any of them is given to the session.

    Raises:
        TypeError: for what is no vector.
        InterpError: for a site that the model does not have, a vector made for another model, or a name that is no text, or too long.
    """
    for name, vector in vectors.items():
        if not isinstance(vector, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"The vector {name!r} is a {type(vector).__name__}; make one with iw.steering_vector(...).")
        checked_name(name)
        check_site(session.model.anatomy, vector.site)
        compile_steps(session.model, [Steer(vector.site, vector, 0.0)], ())


class Asks:
    """Whether something that nobody asked for may take long; what was not allowed is added up."""

    def __init__(self, *, agreed: bool) -> None:
        self.agreed = agreed
        self.seconds = 0.0

    @property
    def refused(self) -> bool:
        """Whether anything was not allowed."""
        return self.seconds > 0

    def __call__(self, seconds: float) -> bool:
        """Yes, when it is short or was agreed to."""
        if self.agreed or seconds <= ASK:
            return True
        self.seconds += seconds
        return False


def _asked(snapshot: Snapshot) -> Any:
    return None if snapshot.question is None else snapshot.question.first.ids


def written(token: GeneratedToken) -> Json:
    """A generated token as the browser is told it; its kind keeps a special one, or half a letter, from being printed as text."""
    return {"id": token.id, "text": token.text, "kind": token.kind, "probability": token.probability}


def idle(intervention: Intervention) -> bool:
    """Whether it changes nothing, whatever it meets: strength 0, but for a clamp, which holds the stream at 0."""
    return isinstance(intervention, Steer) and intervention.coefficient == 0 and intervention.mode != "clamp"


def refuse_half(run: GenerationRun) -> None:
    """A run that was told to stop ends like one that has finished; its half text must not pass for the whole.

    Raises:
        CancelledError: when it was stopped.
    """
    if run.ended == "stopped":
        raise CancelledError


def _continuation(plain: list[Json], edited: list[Json], *, running: bool, note: str = "") -> Json:
    together = zip(plain, edited, strict=False)
    first = next((i for i, (a, b) in enumerate(together) if a["id"] != b["id"]), None)
    return {"plain": list(plain), "edited": list(edited), "divergence": first, "running": running, "note": note}
