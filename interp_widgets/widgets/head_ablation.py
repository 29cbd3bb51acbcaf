"""HeadAblation: switch heads off and on, and see what each was worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import traitlets

from interp_widgets.methods.attention import Attention, each_layer
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.head_card import copying_scores, head_card
from interp_widgets.methods.head_effects import MOST_DRAWS, HeadEffects, head_effects
from interp_widgets.methods.position_effects import position_effects
from interp_widgets.model.costing import SAY
from interp_widgets.model.errors import CancelledError, FeatureOffError, InterpError
from interp_widgets.model.interventions import Ablate, Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.positions import Positions
from interp_widgets.model.question import Asked
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.attention_patterns import need_head
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.head_tables import (
    SCORES,
    card_of,
    direct_of,
    duration,
    effects_of,
    prompts_of,
    reference_words,
)
from interp_widgets.widgets.wire import Json

log = logging.getLogger("interp_widgets")
Cancelled = Callable[[], bool]
COLOURS = ("total effect", "direct effect", *SCORES)
READS = ("metric", "probability", "rank", "KL")
KEPT = 8

_MOST_POSITIONS = 10_000


class WholeNumbers(traitlets.Tuple):  # pyright: ignore[reportMissingTypeArgument]  (traitlets' classes take none at run time)
    """Positions: a tuple, because a list could be changed in place without anybody being told."""

    def __init__(self) -> None:
        super().__init__(default_value=())

    def validate(self, obj: Any, value: Any) -> Any:
        """A tuple (or a list, which becomes one) of at most 10,000 whole numbers from 0."""
        numbers: Any = super().validate(obj, value)
        if len(numbers) > _MOST_POSITIONS or not all(type(n) is int and n >= 0 for n in numbers):
            raise traitlets.TraitError(f"positions are whole numbers from 0, not {value!r:.60}")
        return numbers


class HeadAblation(View):
    """The layer × head grid: each head coloured by its own exact effect on the question, a click switches it off.

    Direct effects come first (one forward), then the exact sweep from the last layer down, the hovered head first. A sweep
    that takes longer than 3 s says so, and its empty cells show direct effects meanwhile; one above 10 s asks.

    Args:
        session: from `iw.open`.
        mode: `"mean"` (over the named reference set), `"zero"` or `"resample"`; the session's mode, wherever it is set.
        colour: what the cells show: `"total effect"`, `"direct effect"`, `"previous-token"`, `"duplicate-token"`,
            `"induction"` (Olsson et al. 2022) or `"copying"`.
        read: of which number the total effect is: `"metric"`, `"probability"`, `"rank"` or `"KL"`.
        positions: where heads are switched off, here and by a click; empty for everywhere, and again with another prompt.
        draws: in mode `"resample"`, from how many prompts that line up with the question each effect is measured, at most; a
            click takes the first.

    Example:
        >>> iw.HeadAblation(session, mode="zero", positions=[3, 4])  # doctest: +SKIP
    """

    _bundle = "head_ablation"
    _css = bundle("head_ablation.css")
    settings: ClassVar[frozenset[str]] = frozenset({"mode", "colour", "read", "positions", "draws"})
    mode = traitlets.Enum(("mean", "zero", "resample"), "mean").tag(sync=True, echo_update=False)
    colour = traitlets.Enum(COLOURS, "total effect").tag(sync=True, echo_update=False)
    read = traitlets.Enum(READS, "metric").tag(sync=True, echo_update=False)
    positions = WholeNumbers().tag(sync=True, echo_update=False)
    draws = traitlets.Int(4, min=1, max=MOST_DRAWS).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._swept: list[tuple[Any, HeadEffects]] = []
        self._prompt = _prompt_of(session)
        self._agreed = self._stopped = -1
        self._hovered: tuple[int, int] | None = None
        self._card: tuple[int, int] | None = None
        self._drawn: tuple[int, tuple[int, int]] | None = None
        chosen: dict[str, Any] = {"mode": session.mode} | settings
        super().__init__(session, **chosen)
        self.observe(self._mode_set, names="mode")
        if chosen["mode"] != session.mode:
            session.set_mode(chosen["mode"])
        self.changed()  # by whoever was faster than we could listen

    def _mode_set(self, change: Any) -> None:
        if self.comm is not None and change["new"] != self.session.mode:
            self.session.set_mode(change["new"])

    def changed(self) -> None:
        """Take the session's mode over, and forget positions of another prompt, where they are other tokens."""
        session = self.session
        if self.comm is None or session is None:
            return
        with session.held():
            if self.mode != session.mode:
                self.mode = session.mode
            prompt = _prompt_of(session)
            if prompt is None or prompt == self._prompt:
                return
            before, self._prompt = self._prompt, prompt
            if before is not None and self.positions:
                self.positions = ()

    def _setting_changed(self, change: Any) -> None:
        if change["name"] != "read":  # every reading is in the table already
            self._stopped = -1
            super()._setting_changed(change)

    # ---- wishes ---------------------------------------------------------------------------------------------------

    def act(self, action: str, args: Json) -> None:
        """`first` measures a head before the others, `card` opens its card, `stop` ends a sweep, `compute` starts it.

        Raises:
            InterventionError: for a head that does not exist.
        """
        if action in ("first", "card"):
            need_head(self.session.model.anatomy.head_counts, args.get("layer"), args.get("head"))
            site = (int(args["layer"]), int(args["head"]))
            if action == "first":
                self._hovered = site
            else:
                self._card = site
                self._soon()
        elif action == "stop":
            self._stopped = self.session.revision
        else:
            if action == "compute":
                self._agreed, self._stopped = self.session.revision, -1
            super().act(action, args)

    def _soon(self) -> None:
        """Draw the card when the worker is free; a sweep that runs draws it between two of its chunks."""
        self._mirror.compute_beside(self, "card", lambda _view, *what: self._draw_card(*what))

    # ---- computing ------------------------------------------------------------------------------------------------

    def compute(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        """Direct effects, the scores that are asked for, and the sweep of every head and MLP from the state on screen."""
        assert snapshot.question is not None
        self.publish(snapshot, "computing", {"prompts": prompts_of(snapshot.question)})
        self._tell_direct(snapshot, cancelled)
        self._tell_places(snapshot, cancelled)
        self._tell_scores(snapshot, cancelled)
        try:
            self._sweep(snapshot, lambda: cancelled() or self._stopped == snapshot.revision)
        except CancelledError:
            if cancelled():
                raise
            self.publish(snapshot, "asking", message="Stopped; what was measured so far stays")
        self._draw_card(snapshot, cancelled)

    def _where(self) -> Positions:
        return Positions.of(self.positions or "all")

    def _tell_places(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        """What is changed at every position; nothing while nothing is on."""
        assert snapshot.question is not None
        places: Json = {}
        if snapshot.interventions:
            found = position_effects(self.session.model, snapshot.question, snapshot.interventions, cancelled)
            places = {"plain": found.plain, "edited": found.edited, "change": found.change, "kl": found.kl}
        self.publish(snapshot, "partial", {"places": places})

    def _tell_direct(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        assert snapshot.question is not None
        try:
            data = direct_of(
                direct_effects(self.session.model, snapshot.question, snapshot.interventions, cancelled=cancelled)
            )
        except FeatureOffError as error:
            empty = {"direct": np.zeros((0, 0), np.float32), "direct_mlp": np.zeros(0, np.float32)}
            data = {**empty, "direct_note": str(error)}
        self.publish(snapshot, "partial", data)

    def _tell_scores(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        assert snapshot.question is not None
        live, asked, on = self.session.model, snapshot.question.first, snapshot.interventions
        try:
            if self.colour == "copying":
                scores = {"copying": copying_scores(live, asked, on, cancelled)}
            elif self.colour in SCORES:
                scores = _pattern_scores(live, asked, on, cancelled)
            else:
                return
        except FeatureOffError as error:
            self.publish(snapshot, "partial", {"scores": {}, "scores_note": str(error)})
            return
        arrays = {name: np.asarray(values, np.float32) for name, values in scores.items()}
        self.publish(snapshot, "partial", {"scores": arrays, "scores_note": SCORES[self.colour]})

    def _sweep(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        assert snapshot.question is not None
        live, words = self.session.model, reference_words(snapshot)
        state = (snapshot.question, snapshot.interventions, snapshot.mode, snapshot.reference)
        draws = self.draws if snapshot.mode == "resample" else 1
        key = (*state, self._where(), draws, live.fingerprint())
        kept = next((table for other, table in self._swept if other == key), None)
        if kept is not None:
            self.publish(snapshot, "done", self._told(kept, words), 1.0)
            return

        def progress(part: HeadEffects, done: float) -> None:
            part = self._with_hovered(snapshot, part, cancelled)
            self._draw_card(snapshot, cancelled)
            self.publish(snapshot, "partial", self._told(part, words), done, self._long(part))

        result = head_effects(
            live,
            snapshot.question,
            snapshot.interventions,
            snapshot.mode,
            snapshot.reference,
            progress=progress,
            cancelled=cancelled,
            first=self._hovered,
            proceed=lambda _seconds: self._agreed == snapshot.revision,
            positions=self._where(),
            draws=draws or 1,
        )
        if result.done:
            self._swept = [*self._swept[1 - KEPT :], (key, result)]
            self.publish(snapshot, "done", self._told(result, words), 1.0)
        else:
            self.publish(snapshot, "asking", self._told(result, words), 0.0, self._long(result))

    def _told(self, table: HeadEffects, reference: str) -> Json:
        long = not table.done and table.estimate >= SAY
        return effects_of(self.session.model, table, reference) | {
            "positions": list(self.positions),
            "meanwhile": "direct" if long else "",
            "estimate_seconds": table.estimate if long else None,
        }

    def _long(self, table: HeadEffects) -> str:
        """How long the sweep takes, where that is worth a sentence."""
        if not table.estimate >= SAY:
            return ""
        return f"All {sum(self.session.model.anatomy.head_counts)} heads take about {duration(table.estimate)}"

    def _with_hovered(self, snapshot: Snapshot, part: HeadEffects, cancelled: Cancelled) -> HeadEffects:
        """The table with the head that the pointer is on, measured by itself when its chunk has not come yet."""
        assert snapshot.question is not None
        at, asked = self._hovered, snapshot.question.first
        if at is None or np.isfinite(part.effects[at]) or snapshot.question.n > 1:
            return part
        site = f"L{at[0]}H{at[1]}"
        if any(i.site.layer == at[0] and i.site.part in ("z", "pattern") for i in snapshot.interventions):
            return part  # its effect is counted from the state without the edits to it, which the sweep knows
        ablation = Ablate(site, snapshot.mode, snapshot.reference, self._where())
        reading = self.session.model.answer(asked, (*snapshot.interventions, ablation), cancelled)
        metric = float(asked.metric.of(reading.logits[None])[0])
        part.metrics[at], part.effects[at] = metric, part.baseline - metric
        return part

    def _draw_card(self, snapshot: Snapshot, cancelled: Cancelled) -> None:
        """The card that is open, once for every state."""
        assert snapshot.question is not None
        at, wanted = self._card, (snapshot.revision, self._card)
        if at is None or self._drawn == wanted:
            return
        try:
            card = card_of(
                head_card(self.session.model, snapshot.question.first, *at, snapshot.interventions, cancelled)
            )
        except CancelledError:
            raise
        except InterpError as error:
            card = {"layer": at[0], "head": at[1], "error": str(error)}
        except Exception as error:
            log.exception("the card of a head could not be made")
            why = f"This card could not be made: {type(error).__name__}: {error}"
            card = {"layer": at[0], "head": at[1], "error": why}
        self._drawn = (snapshot.revision, at)
        self.publish(snapshot, None, {"card": card})


def _prompt_of(session: Session) -> tuple[int, ...] | None:
    return None if session.question is None else session.question.first.ids


def _pattern_scores(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention], cancelled: Cancelled
) -> dict[str, npt.NDArray[np.float32]]:
    """The scores that are read off attention patterns, `[layer, head]`, a layer at a time."""
    heads = live.anatomy.head_counts
    names = ("previous-token", "duplicate-token", "induction")
    scores = {name: np.full((len(heads), max(heads)), np.nan, np.float32) for name in names}

    def take(layer: int, patterns: npt.NDArray[np.float32], _norms: object) -> None:
        found = Attention(asked.tokens, patterns[None])
        for name, row in zip(names, (found.previous_token, found.duplicate_token, found.induction), strict=True):
            scores[name][layer, : heads[layer]] = row[0]

    each_layer(live, asked, interventions, take, cancelled=cancelled)
    return scores
