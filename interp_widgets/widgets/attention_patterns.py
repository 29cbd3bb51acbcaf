"""AttentionPatterns: every head's pattern as a thumbnail, one large, under the interventions and against the plain run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import traitlets

from interp_widgets.methods.attention import Attention, attention
from interp_widgets.model.errors import InterventionError
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.wire import Json, token_of

SIZE = 64  # cells of a thumbnail's side at most
THUMBS = 600_000  # bytes of all thumbnails together
LARGE = 300_000  # bytes of the large pattern; both fit into one message
SHOWS = ("now", "difference", "value-weighted")
Array = npt.NDArray[np.float32]


class AttentionPatterns(View):
    """Where every head looks.

    Args:
        session: from `iw.open`.
        show: `"now"` under the interventions, `"difference"` from the plain run, `"value-weighted"` (Kobayashi et al. 2020).
        layer, head: the head drawn large; by default the one that scores highest for induction, or where no token comes
            twice, for looking at the previous token.

    Raises:
        InterventionError: for a head that the model does not have.

    Example:
        >>> iw.AttentionPatterns(session, layer=1, head=4)  # doctest: +SKIP
    """

    _esm = bundle("attention_patterns.js")
    _css = bundle("attention_patterns.css")
    settings: ClassVar[frozenset[str]] = frozenset({"show", "layer", "head"})
    show = traitlets.Enum(SHOWS, "now").tag(sync=True, echo_update=False)
    layer = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)
    head = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._drawn: tuple[Snapshot, Array] | None = None
        self._chosen = bool({"layer", "head"} & set(settings))
        if self._chosen and isinstance(session, Session):  # pyright: ignore[reportUnnecessaryIsInstance]
            need_head(heads_of(session), settings.get("layer", 0), settings.get("head", 0))
        super().__init__(session, **settings)

    def act(self, action: str, args: Json) -> None:
        """`head` draws another head large."""
        if action != "head":
            super().act(action, args)
            return
        layer, head = args.get("layer"), args.get("head")
        need_head(heads_of(self.session), layer, head)
        self._chosen = True
        with self.hold_trait_notifications():
            self.layer, self.head = layer, head  # pyright: ignore[reportAttributeAccessIssue]  (need_head saw to it)
        self._draw_large()

    def _setting_changed(self, change: Any) -> None:
        if change["name"] == "show":
            super()._setting_changed(change)
        elif self.comm is not None:
            self._draw_large()

    def _draw_large(self) -> None:
        """The values are there already: no run is needed to look at another head."""
        if self._drawn is not None:
            snapshot, values = self._drawn
            self.publish(snapshot, "done", {"large": large_of(values, *self._there(values))}, 1.0)

    def _there(self, values: Array) -> tuple[int, int]:
        heads = heads_of(self.session)
        layer = min(int(self.layer or 0), len(values) - 1)
        return layer, max(0, min(int(self.head or 0), heads[layer] - 1))

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """One forward, two for the difference."""
        assert snapshot.question is not None
        self.publish(snapshot, "computing")
        live, asked = self.session.model, snapshot.question.first
        weighted = self.show == "value-weighted"
        now = attention(live, asked, snapshot.interventions, value_weighted=weighted, cancelled=cancelled)
        values = now.value_weighted if weighted else now.patterns
        if self.show == "difference":
            values = values - attention(live, asked, (), cancelled=cancelled).patterns
        if not self._chosen:
            self._chosen = True
            self.layer, self.head = telling(now)
        self._drawn = (snapshot, values)
        data = overview_of(heads_of(self.session), now, values, self.show)
        data["large"] = large_of(values, *self._there(values))
        self.publish(snapshot, "done", data, 1.0)


def heads_of(session: Session) -> list[int]:
    """How many heads each layer has, 0 where it has no attention."""
    return [0 if layer.attention is None else layer.attention.n_heads for layer in session.model.anatomy.layers]


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


def telling(found: Attention) -> tuple[int, int]:
    """A head worth looking at first: the highest induction score, or previous-token score where no token comes twice."""
    for scores in (found.induction, found.previous_token):
        if scores.size and not np.isnan(scores).all():
            layer, head = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
            return int(layer), int(head)
    return 0, 0


def overview_of(heads: Sequence[int], now: Attention, values: Array, show: str) -> Json:
    """What is drawn small: one uint8 image per head, and the scores."""
    signed, n = show == "difference", values.shape[-1]
    limit = (1.0 if show == "now" else float(np.nanmax(np.abs(values), initial=0.0))) or 1.0
    size = cells_of(n, sum(heads))
    data: Json = {
        "tokens": [token_of(t) for t in now.tokens],
        "layers": len(heads),
        "heads": list(heads),
        "show": show,
        "limit": limit,
        "signed": signed,
        "size": size,
        "scores": {
            "previous-token": now.previous_token,
            "duplicate-token": now.duplicate_token,
            "induction": now.induction,
        },
    }
    for layer, count in enumerate(heads):
        if count:
            data[f"thumbs:{layer}"] = thumbnails(values[layer : layer + 1, :count], limit, signed=signed, size=size)[0]
    return data


def cells_of(tokens: int, heads: int) -> int:
    """The side of a thumbnail: one cell per token, less where there are many tokens or many heads."""
    size = min(tokens, SIZE)
    while size > 1 and heads * size * (size + 1) // 2 > THUMBS:
        size -= 1
    return size


def thumbnails(values: Array, limit: float, *, signed: bool, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Lower triangles `[layer, head, size * (size + 1) / 2]` in 255 steps; with more tokens than cells, the largest of those covered."""
    small = pooled(values, size, signed=signed)
    return steps(small.reshape(*small.shape[:2], -1).take(triangle(small.shape[-1]), axis=-1), limit, signed=signed)


def steps(values: Array, limit: float, *, signed: bool) -> npt.NDArray[np.uint8]:
    """Values in 255 steps: signed ones have their zero at 128; what is not a number is zero."""
    scaled = np.multiply(values, np.float32((127 if signed else 255) / limit))
    if signed:
        np.nan_to_num(scaled, copy=False)
    scaled += np.float32(128.5 if signed else 0.5)
    np.fmin(np.fmax(scaled, 0, out=scaled), 255, out=scaled)
    return scaled.astype(np.uint8)


@cache
def triangle(size: int) -> npt.NDArray[np.intp]:
    """Where a lower triangle's cells are in the flattened square, row by row."""
    rows, columns = np.tril_indices(size)
    return rows * size + columns


def pooled(values: Array, size: int, *, signed: bool = True) -> Array:
    """At most `size` by `size` cells, each the value that is largest (in size, where they are signed) of those that it covers."""
    n = values.shape[-1]
    if n <= size:
        return values
    high = _over_blocks(values, size, np.fmax)
    if not signed:
        return high
    low = _over_blocks(values, size, np.fmin)
    return np.where(high >= -low, high, low)


def _over_blocks(values: Array, size: int, extreme: np.ufunc) -> Array:
    """The extreme of every block: rows first, for they lie together in memory; `reduceat` takes ten times as long."""
    n = values.shape[-1]
    ends = np.arange(size + 1) * n // size
    picks = [np.minimum(ends[:-1] + k, ends[1:] - 1) for k in range(int(np.diff(ends).max()))]
    for axis in (-2, -1):
        out = values.take(picks[0], axis=axis)
        for pick in picks[1:]:
            extreme(out, values.take(pick, axis=axis), out=out)
        values = out
    return values


def large_of(values: Array, layer: int, head: int) -> Json:
    """One head's lower triangle row by row: exact, in half precision from 387 tokens, in blocks of tokens from 548."""
    n = values.shape[-1]
    side = next(size for size in range(n, 0, -1) if size * (size + 1) <= LARGE)
    small = pooled(values[layer : layer + 1, head : head + 1], side)[0, 0]
    lower = np.nan_to_num(small.reshape(-1).take(triangle(side)))
    whole = side * (side + 1) * 2 <= LARGE
    return {
        "layer": layer,
        "head": head,
        "size": side,
        "values": lower if whole else lower.astype(np.float16),
    }
