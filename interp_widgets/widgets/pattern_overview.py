"""What AttentionPatterns draws of every head, measured a layer at a time: a large model's patterns are never held at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from interp_widgets.methods.attention import Attention, each_layer
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Token
from interp_widgets.widgets.pattern_images import Array, cells_of, pooled, steps, triangle
from interp_widgets.widgets.wire import Json, token_of

KEPT = 128 << 20  # bytes of exact patterns that are held
SCORES = ("previous-token", "duplicate-token", "induction")


@dataclass
class Overview:
    """Every head drawn small, its scores, and the exact values of as many layers as may be held.

    Attributes:
        heads: how many heads each layer has.
        show: `"now"`, `"difference"` or `"value-weighted"`.
        size: cells of a thumbnail's side.
        small: by layer, `[head, size, size]`.
        top: the largest size of any value.
        exact: by layer, `[head, dest, src]`.
        keep: the layers whose exact values are kept.
    """

    tokens: tuple[Token, ...]
    heads: Sequence[int]
    show: str
    size: int
    keep: frozenset[int] = frozenset()
    small: dict[int, Array] = field(default_factory=dict[int, Array])
    exact: dict[int, Array] = field(default_factory=dict[int, Array])
    scores: dict[str, Array] = field(default_factory=dict[str, Array])
    top: float = 0.0

    def __post_init__(self) -> None:
        shape = (len(self.heads), max(self.heads, default=0))
        self.scores = {name: np.full(shape, np.nan, np.float32) for name in SCORES}

    @property
    def signed(self) -> bool:
        """Whether values have a sign."""
        return self.show == "difference"

    def add(self, layer: int, patterns: Array, values: Array) -> None:
        """One layer: its patterns `[head, dest, src]` for the scores, and the values that are shown of them."""
        if layer in self.keep:
            self.exact[layer] = values
        self.top = max(self.top, float(np.nanmax(np.abs(values), initial=0.0)))
        self.small[layer] = pooled(values[None], self.size, signed=self.signed)[0]
        found = Attention(self.tokens, patterns[None])
        for name, score in zip(SCORES, (found.previous_token, found.duplicate_token, found.induction), strict=True):
            self.scores[name][layer, : len(patterns)] = score[0]

    def told(self) -> Json:
        """What is drawn small: one uint8 image per head, and the scores."""
        limit = (1.0 if self.show == "now" else self.top) or 1.0
        data: Json = {
            "tokens": [token_of(t) for t in self.tokens],
            "layers": len(self.heads),
            "heads": list(self.heads),
            "show": self.show,
            "limit": limit,
            "signed": self.signed,
            "size": self.size,
            "scores": self.scores,
        }
        lower = triangle(self.size)
        for layer, small in self.small.items():
            flat = small.reshape(len(small), -1).take(lower, axis=-1)
            data[f"thumbs:{layer}"] = steps(flat, limit, signed=self.signed)
        return data

    def telling(self) -> tuple[int, int]:
        """A head worth looking at first: the highest induction score, or previous-token score where no token comes twice."""
        for scores in (self.scores["induction"], self.scores["previous-token"]):
            if scores.size and not np.isnan(scores).all():
                layer, head = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
                return int(layer), int(head)
        return next((layer for layer, count in enumerate(self.heads) if count), 0), 0


def measure(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention],
    show: str,
    chosen: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Overview:
    """Every head, in one forward; the difference takes two, and more where the plain run's patterns cannot be held at once.

    Args:
        chosen: a layer whose exact values are kept in any case.

    Raises:
        FeatureOffError: when this model's attention cannot be read. CancelledError: when cancelled.
    """
    heads = live.anatomy.head_counts
    layers = [layer for layer, count in enumerate(heads) if count]
    at_once = max(1, KEPT // (4 * len(asked.tokens) ** 2 * max(heads, default=1)))
    keep = frozenset(layers) if len(layers) <= at_once else frozenset(() if chosen is None else (chosen,))
    drawn = Overview(asked.tokens, heads, show, cells_of(len(asked.tokens), sum(heads)), keep)
    groups = [layers[i : i + at_once] for i in range(0, len(layers), at_once)] if show == "difference" else [layers]
    for group in groups:
        _measure(live, asked, interventions, drawn.add, show, group, cancelled)
    return drawn


def exact_layer(live: LiveModel, asked: Asked, interventions: Sequence[Intervention], show: str, layer: int) -> Array:
    """The exact values of one layer again, `[head, dest, src]`."""
    found: list[Array] = []
    _measure(live, asked, interventions, lambda _layer, _patterns, values: found.append(values), show, [layer], None)
    return found[0]


def _measure(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention],
    add: Callable[[int, Array, Array], None],
    show: str,
    layers: Sequence[int],
    cancelled: Callable[[], bool] | None,
) -> None:
    plain: dict[int, Array] = {}
    if show == "difference":
        each_layer(live, asked, (), lambda i, p, _: plain.update({i: p}), layers=layers, cancelled=cancelled)

    def take(layer: int, patterns: Array, norms: Array | None) -> None:
        values = patterns if norms is None else patterns * norms[:, None, :]
        add(layer, patterns, values - plain.pop(layer) if show == "difference" else values)

    weighted = show == "value-weighted"
    each_layer(live, asked, interventions, take, layers=layers, value_weighted=weighted, cancelled=cancelled)


def overview_of(heads: Sequence[int], now: Attention, values: Array, show: str) -> Json:
    """What is drawn small of patterns that are there already."""
    drawn = Overview(now.tokens, heads, show, cells_of(values.shape[-1], sum(heads)))
    for layer, count in enumerate(heads):
        if count:
            drawn.add(layer, now.patterns[layer, :count], values[layer, :count])
    return drawn.told()
