"""HeadAblation: switch heads off and on, and see what each was worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import traitlets

from interp_widgets.methods.head_effects import HeadEffects, head_effects
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.wire import Json


class HeadAblation(View):
    """The layer × head grid: each head coloured by its own exact effect on the question, a click switches it off.

    Args:
        session: from `iw.open`.
        mode: `"mean"` (over the named reference set), `"zero"` or `"resample"`; the session's mode follows.

    Example:
        >>> iw.HeadAblation(session, mode="zero")  # doctest: +SKIP
    """

    _esm = bundle("head_ablation.js")
    _css = bundle("head_ablation.css")
    settings: ClassVar[frozenset[str]] = frozenset({"mode"})
    mode = traitlets.Enum(("mean", "zero", "resample"), "mean").tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        super().__init__(session, **({"mode": session.mode} | settings))
        if self.mode != session.mode:
            session.set_mode(self.mode)  # pyright: ignore[reportArgumentType]  (the trait allows these modes only)
        self.observe(self._mode_changed, names="mode")

    def _mode_changed(self, change: Any) -> None:
        if self.comm is not None and change["new"] != self.session.mode:
            self.session.set_mode(change["new"])

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Sweep every head and MLP from the state on screen, the last layers first."""
        assert snapshot.question is not None
        self.publish(snapshot, "computing")
        live = self.session.model

        words = reference_words(snapshot)

        def progress(part: HeadEffects, done: float) -> None:
            self.publish(snapshot, "partial", effects_of(live, part, words), done)

        result = head_effects(
            live,
            snapshot.question,
            snapshot.interventions,
            snapshot.mode,
            snapshot.reference,
            progress=progress,
            cancelled=cancelled,
        )
        self.publish(snapshot, "done", effects_of(live, result, words), 1.0)


def reference_words(snapshot: Snapshot) -> str:
    """What stands beside the numbers: the reference's name, size, and how it is taken."""
    reference = snapshot.reference
    if reference is None or snapshot.mode == "zero":
        return ""
    if snapshot.mode == "resample":
        return f"{reference.name} (aligned, {reference.digest[:6]})"
    prompts = f"{reference.n} prompt{'s' if reference.n > 1 else ''}"
    return (
        f"{reference.name} ({prompts}, {'by position' if reference.by_position else 'pooled'}, {reference.digest[:6]})"
    )


def effects_of(live: Any, result: HeadEffects, reference: str) -> Json:
    """Head effects as the browser is told them."""
    return {
        "mode": result.mode,
        "baseline": result.baseline,
        "floor": result.floor,
        "reference": reference,
        "effects": np.asarray(result.effects, dtype=np.float32),
        "mlp": np.asarray(result.mlp, dtype=np.float32),
        "metrics": np.asarray(result.metrics, dtype=np.float32),
        "mlp_metrics": np.asarray(result.mlp_metrics, dtype=np.float32),
        "kl": np.asarray(result.kl, dtype=np.float32),
        "ranks": np.asarray(result.ranks, dtype=np.int32),
        "top": [[[live.tokens.token(int(i)).text for i in head if i >= 0] for head in layer] for layer in result.top],
    }
