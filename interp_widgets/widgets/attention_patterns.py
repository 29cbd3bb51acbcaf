"""AttentionPatterns: every head's pattern as a thumbnail, one large, under the interventions and against the plain run."""

from __future__ import annotations

from collections.abc import Callable
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

SIZE = 64  # cells of a thumbnail's side, for prompts of more tokens
SHOWS = ("now", "difference", "value-weighted")
Array = npt.NDArray[np.float32]


class AttentionPatterns(View):
    """Where every head looks.

    Args:
        session: from `iw.open`.
        show: `"now"` under the interventions, `"difference"` from the plain run, `"value-weighted"` (Kobayashi et al. 2020).
        layer, head: the head drawn large.

    Example:
        >>> iw.AttentionPatterns(session, layer=1, head=4)   # doctest: +SKIP
    """

    _esm = bundle("attention_patterns.js")
    _css = bundle("attention_patterns.css")
    settings: ClassVar[frozenset[str]] = frozenset({"show", "layer", "head"})
    show = traitlets.Enum(SHOWS, "now").tag(sync=True, echo_update=False)
    layer = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)
    head = traitlets.Int(0, min=0).tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._drawn: tuple[Snapshot, Array] | None = None
        super().__init__(session, **settings)

    def act(self, action: str, args: Json) -> None:
        """`head` draws another head large."""
        if action != "head":
            super().act(action, args)
            return
        layer, head = args.get("layer"), args.get("head")
        heads = [0 if part.attention is None else part.attention.n_heads for part in self.session.model.anatomy.layers]
        if not isinstance(layer, int) or not isinstance(head, int) or not 0 <= layer < len(heads) or not 0 <= head < heads[layer]:
            raise InterventionError(f"L{layer}H{head} does not exist; the model has layers 0 to {len(heads) - 1}.")
        drawn = self._drawn
        self.layer, self.head = layer, head
        if drawn is not None:
            self.publish(drawn[0], "done", {"large": large_of(drawn[1], layer, head)}, 1.0)

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
        self._drawn = (snapshot, values)
        layer = min(self.layer, len(values) - 1)
        data = overview_of(live.anatomy.layers, now, values, self.show)
        data["large"] = large_of(values, layer, min(self.head, values.shape[1] - 1))
        self.publish(snapshot, "done", data, 1.0)


def overview_of(layers: Any, now: Attention, values: Array, show: str) -> Json:
    """What is drawn small: one uint8 image per head, and the scores."""
    signed = show == "difference"
    limit = float(np.nanmax(np.abs(values))) if show != "now" and values.size else 1.0
    heads = [0 if layer.attention is None else layer.attention.n_heads for layer in layers]
    images = thumbnails(values, limit or 1.0, signed=signed)
    data: Json = {
        "tokens": [token_of(t) for t in now.tokens],
        "layers": len(heads),
        "heads": heads,
        "show": show,
        "limit": limit or 1.0,
        "signed": signed,
        "size": images.shape[-1],
        "scores": {"previous-token": now.previous_token, "duplicate-token": now.duplicate_token, "induction": now.induction},
    }
    return data | {f"thumbs:{layer}": images[layer, : heads[layer]] for layer in range(len(heads)) if heads[layer]}


def thumbnails(values: Array, limit: float, *, signed: bool) -> npt.NDArray[np.uint8]:
    """`[layer, head, size, size]` in 255 steps; where there are more tokens than cells, the largest in size of those covered."""
    n = values.shape[-1]
    if n > SIZE:
        step = -(-n // SIZE)
        pad = step * SIZE - n
        blocks = np.pad(np.nan_to_num(values), ((0, 0), (0, 0), (0, pad), (0, pad)))
        blocks = blocks.reshape(*values.shape[:2], SIZE, step, SIZE, step).transpose(0, 1, 2, 4, 3, 5)
        flat = blocks.reshape(*blocks.shape[:4], -1)
        values = np.take_along_axis(flat, np.abs(flat).argmax(-1)[..., None], -1)[..., 0]
    scaled = np.nan_to_num(values) / limit
    return np.rint(np.clip(scaled * 127 + 128, 0, 255) if signed else np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def large_of(values: Array, layer: int, head: int) -> Json:
    """One head exactly, as the lower triangle row by row."""
    rows, columns = np.tril_indices(values.shape[-1])
    return {"layer": layer, "head": head, "values": np.nan_to_num(values[layer, head][rows, columns]).astype(np.float16)}
