"""SteeringSliders: push the residual stream along named vectors and watch the answer and a continuation move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import traitlets

from interp_widgets.methods.dose_response import DoseResponse, dose_response
from interp_widgets.methods.steering import SteeringVector
from interp_widgets.model.errors import CancelledError
from interp_widgets.model.generate import generate
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.written import GeneratedToken, GenerationRun
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.wire import Json


class SteeringSliders(View):
    """One slider per vector, its dose–response curve under it, and the plain and the edited continuation side by side.

    Args:
        session: from `iw.open`.
        vectors: `{name: SteeringVector}`, given to the session under these names.
        tokens: how long the continuation is; 0 for none.

    Example:
        >>> mood = iw.steering_vector(session, ["I loved it."], ["I hated it."], "L1")  # doctest: +SKIP
        >>> iw.SteeringSliders(session, vectors={"mood": mood})  # doctest: +SKIP
    """

    _esm = bundle("steering_sliders.js")
    _css = bundle("steering_sliders.css")
    settings: ClassVar[frozenset[str]] = frozenset({"tokens"})
    tokens = traitlets.Int(24, min=0, max=512).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, vectors: Mapping[str, SteeringVector] | None = None, **settings: Any) -> None:
        for name, vector in (vectors or {}).items():
            if not isinstance(vector, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"The vector {name!r} is a {type(vector).__name__}; make one with iw.steering_vector(...)."
                )
        super().__init__(session, **settings)
        self._stopped = False
        self._plain: tuple[Any, list[Json]] | None = None
        for name, vector in (vectors or {}).items():
            session.add_vector(vector, name)

    def act(self, action: str, args: Json) -> None:
        """`generate` starts the continuation again, `stop` ends it within one token."""
        if action == "stop":
            self._stopped = True
        elif action == "generate":
            self._stopped = False
            self._mirror.compute_panel(self)
        else:
            super().act(action, args)

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """The continuation first, for it is what moves; then the curves."""
        self.publish(snapshot, "computing")
        if self.tokens and not self._stopped:
            self._continue(snapshot, cancelled)
        self._curves(snapshot, cancelled)
        self.publish(snapshot, "done", progress=1.0)

    def _continue(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        assert snapshot.question is not None
        asked = snapshot.question.first
        plain = self._plain_text(snapshot, cancelled)
        moving = [i for i in snapshot.interventions if not (isinstance(i, Steer) and i.coefficient == 0)]
        if not moving:
            self.publish(snapshot, "partial", {"continuation": _continuation(plain, plain, running=False)}, 0.5)
            return
        edited: list[Json] = []
        note = ""
        run = generate(self.session.model, list(asked.ids), moving, self.tokens, cancelled=cancelled)
        for token in run:
            edited.append(written(token))
            if self._stopped:
                note = "stopped"
                break
            self.publish(snapshot, "partial", {"continuation": _continuation(plain, edited, running=True)}, 0.5)
        refuse_half(run)
        self.publish(snapshot, "partial", {"continuation": _continuation(plain, edited, running=False, note=note)}, 0.5)

    def _plain_text(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> list[Json]:
        assert snapshot.question is not None
        asked, live = snapshot.question.first, self.session.model
        key = (asked.ids, self.tokens, live.fingerprint())
        if self._plain is not None and self._plain[0] == key:
            return self._plain[1]
        plain: list[Json] = []
        run = generate(live, list(asked.ids), (), self.tokens, cancelled=cancelled)
        for token in run:
            plain.append(written(token))
            if self._stopped:
                return plain
            self.publish(snapshot, "partial", {"continuation": _continuation(plain, [], running=True)}, 0.2)
        refuse_half(run)
        self._plain = (key, plain)
        return plain

    def _curves(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        assert snapshot.question is not None
        curves: Json = {}
        names = list(self.session.vectors)
        for n, name in enumerate(names):
            others, steer = _without(snapshot.interventions, name, self.session.vectors[name])
            response = dose_response(
                self.session.model, snapshot.question.first, steer, interventions=others, cancelled=cancelled
            )
            curves[name] = _curve(response)
            self.publish(snapshot, "partial", {"vectors": dict(curves)}, 0.5 + 0.5 * (n + 1) / len(names))


def written(token: GeneratedToken) -> Json:
    """A generated token as the browser is told it; its kind keeps a special one, or half a letter, from being printed as text."""
    return {"id": token.id, "text": token.text, "kind": token.kind, "probability": token.probability}


def refuse_half(run: GenerationRun) -> None:
    """A run that was told to stop ends like one that has finished; its half text must not pass for the whole.

    Raises:
        CancelledError: when it was stopped.
    """
    if run.ended == "stopped":
        raise CancelledError


def _without(
    interventions: tuple[Intervention, ...], name: str, vector: SteeringVector
) -> tuple[tuple[Intervention, ...], Steer]:
    """Every other intervention, and this vector's push as it is set now."""
    steer = next(
        (i for i in interventions if isinstance(i, Steer) and i.name == name),
        Steer(vector.site, vector, 0.0, name=name),
    )
    return tuple(i for i in interventions if i is not steer), steer


def _curve(response: DoseResponse) -> Json:
    return {
        "strengths": np.asarray(response.strengths, dtype=np.float32),
        "metric": np.asarray(response.metric, dtype=np.float32),
        "kl": np.asarray(response.kl, dtype=np.float32),
        "random_low": np.asarray(response.random_low, dtype=np.float32),
        "random_high": np.asarray(response.random_high, dtype=np.float32),
        "breaks": _edges(response),
    }


def _edges(response: DoseResponse) -> list[float] | None:
    """The strengths, to the left and to the right of 0, from which on the text breaks; ±infinity reads as the end of the axis."""
    if response.breaks is None or not response.breaks.any():
        return None
    broken = np.asarray(response.strengths)[response.breaks]
    left, right = broken[broken < 0], broken[broken > 0]
    ends = np.asarray(response.strengths)
    return [
        float(left.max()) if left.size else float(ends.min()),
        float(right.min()) if right.size else float(ends.max()),
    ]


def _continuation(plain: list[Json], edited: list[Json], *, running: bool, note: str = "") -> Json:
    together = zip(plain, edited, strict=False)
    first = next((i for i, (a, b) in enumerate(together) if a["id"] != b["id"]), None)
    return {"plain": list(plain), "edited": list(edited), "divergence": first, "running": running, "note": note}
