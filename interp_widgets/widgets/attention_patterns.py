"""AttentionPatterns: every head's pattern as a thumbnail, one large, under the interventions and against the plain run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import traitlets

from interp_widgets.model.errors import InterventionError
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.pattern_images import Array, cells_of, large_of, pooled, steps, thumbnails, triangle
from interp_widgets.widgets.pattern_overview import Overview, exact_layer, measure, overview_of
from interp_widgets.widgets.wire import Json

__all__ = [
    "AttentionPatterns", "cells_of", "large_of", "need_head", "overview_of", "pooled", "steps", "thumbnails",
    "triangle",
]  # fmt: skip
SHOWS = ("now", "difference", "value-weighted")


class AttentionPatterns(View):
    """Where every head looks.

    Args:
        session: from `iw.open`.
        show: `"now"` under the interventions, `"difference"` from the plain run, `"value-weighted"` (Kobayashi et al. 2020).
        layer, head: the head drawn large; by default the one that scores highest for induction, or where no token comes
            twice, for looking at the previous token. Two that only make sense together are set in one
            `with view.hold_trait_notifications():`.

    Raises:
        InterventionError: for a head that the model does not have; a trait that is set to one raises `TraitError` and stays.

    Example:
        >>> iw.AttentionPatterns(session, layer=1, head=4)  # doctest: +SKIP
    """

    _bundle = "attention_patterns"
    _css = bundle("attention_patterns.css")
    settings: ClassVar[frozenset[str]] = frozenset({"show", "layer", "head"})
    show = traitlets.Enum(SHOWS, "now").tag(sync=True, echo_update=False)
    layer = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)
    head = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._drawn: tuple[Snapshot, Overview] | None = None
        self._chosen = bool({"layer", "head"} & set(settings))
        if self._chosen and isinstance(session, Session):  # pyright: ignore[reportUnnecessaryIsInstance]
            need_head(session.model.anatomy.head_counts, settings.get("layer", 0), settings.get("head", 0))
        super().__init__(session, **settings)

    @traitlets.validate("layer", "head")
    def _there_is(self, proposal: Any) -> int:
        """A head that is there, with what the other trait holds; of two that are set at once, with each other."""
        if self.session is not None:
            site: Json = {"layer": self.layer, "head": self.head, proposal["trait"].name: proposal["value"]}
            try:
                need_head(self.session.model.anatomy.head_counts, **site)
            except InterventionError as error:
                raise traitlets.TraitError(str(error)) from error
        return proposal["value"]

    def act(self, action: str, args: Json) -> None:
        """`head` draws another head large."""
        if action != "head":
            super().act(action, args)
            return
        layer, head = args.get("layer"), args.get("head")
        need_head(self.session.model.anatomy.head_counts, layer, head)
        self._chosen = True
        with self.hold_trait_notifications():
            self.layer, self.head = layer, head  # pyright: ignore[reportAttributeAccessIssue]  (need_head saw to it)
        self._draw_large()

    def _setting_changed(self, change: Any) -> None:
        if change["name"] == "show":
            super()._setting_changed(change)
        elif self.comm is not None:
            self._chosen = True
            self._draw_large()

    def _draw_large(self) -> None:
        """Exact values that are held need no run; of a large model the layer is measured again, when the worker is free."""
        if self._drawn is None:
            return
        snapshot, drawn = self._drawn
        layer, head = self._there()
        if layer in drawn.exact:
            self.publish(snapshot, None, {"large": _large(drawn.exact[layer], layer, head)})
            return

        def draw(_view: object, _snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
            if self._drawn == (snapshot, drawn) and not cancelled():
                self.publish(snapshot, None, self._measured(snapshot, drawn))

        self._mirror.compute_beside(self, "large", draw)

    def _measured(self, snapshot: Snapshot, drawn: Overview) -> Json:
        """The head that is drawn large, of a layer that is not held; nothing when another layer was chosen meanwhile."""
        assert snapshot.question is not None
        layer, _ = self._there()
        values = exact_layer(self.session.model, snapshot.question.first, snapshot.interventions, drawn.show, layer)
        drawn.exact = {layer: values}
        return {"large": _large(values, *self._there())} if layer == self._there()[0] else {}

    def _there(self) -> tuple[int, int]:
        heads = self.session.model.anatomy.head_counts
        layer = min(int(self.layer or 0), len(heads) - 1)
        return layer, max(0, min(int(self.head or 0), heads[layer] - 1))

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """One forward, two for the difference."""
        assert snapshot.question is not None
        self.session.model.need("patterns read")
        self.publish(snapshot, "computing")
        live, asked, show = self.session.model, snapshot.question.first, str(self.show)
        chosen = self._there()[0] if self._chosen else None
        drawn = measure(live, asked, snapshot.interventions, show, chosen, cancelled)
        if not self._chosen:
            self._chosen = True
            self.layer, self.head = drawn.telling()
        self._drawn = (snapshot, drawn)
        layer, head = self._there()
        if layer in drawn.exact:
            self.publish(snapshot, "done", drawn.told() | {"large": _large(drawn.exact[layer], layer, head)}, 1.0)
        else:
            self.publish(snapshot, "partial", drawn.told(), 1.0)
            self.publish(snapshot, "done", self._measured(snapshot, drawn), 1.0)


def _large(values: Array, layer: int, head: int) -> Json:
    return large_of(values[None], 0, head) | {"layer": layer}


def need_head(heads: Sequence[int], layer: Any, head: Any) -> None:
    """Refuse a head that is not there.

    Raises:
        InterventionError: with the heads that there are.
    """
    if type(layer) is not int or type(head) is not int or not 0 <= layer < len(heads):
        raise InterventionError(f"L{layer}H{head} does not exist; the model has layers 0 to {len(heads) - 1}.")
    if not 0 <= head < heads[layer]:
        have = f"heads 0 to {heads[layer] - 1}" if heads[layer] else "no attention heads"
        raise InterventionError(f"L{layer}H{head} does not exist; layer {layer} has {have}.")
