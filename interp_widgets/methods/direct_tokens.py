"""Direct logit attribution by source token: what each head carried from each position straight to the answer.

Elhage et al. 2021 ("A mathematical framework for transformer circuits"), with the final norm's divisor held at this run's
value. One forward and one backward through a graph in which nothing that a block *reads* from the stream passes a
gradient: what is left is the straight way from every write to the metric, with whatever a family puts on it (multipliers,
norms behind attention), found without a line of code for that family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.direct_graph import StraightWays
from interp_widgets.methods.explained import Cancelled, Explained, explained
from interp_widgets.methods.no_gradient import refuse_gradients
from interp_widgets.model.anatomy import Layer
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.native_attention import NativeAttention
from interp_widgets.model.question import Asked, Question, Token
from interp_widgets.model.run import modes

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DirectTokens:
    """What reaches the metric straight, part by part; the parts sum to the metric.

    Attributes:
        tokens: the prompt.
        sources: `[layer, head, src]`, what the head carried from that position: pattern · value · output · direction.
        replaced: `[layer, head]`, what an edit put into a head beside that; 0 where nothing is edited.
        attention_biases: `[layer]`, of the output projections (and of norms behind attention).
        mlps: `[layer]`, at the read position; embedding: of the token there, its position included.
        edits: `[layer]`, what edits of the stream, of attention's or of the MLP's write put there; 0 where nothing is edited.
        constant: the final norm's and the unembedding's biases.
        metric: what all of it sums to.
        error: sum of all parts − metric: rounding, or a metric that is not linear.
        explains: `"plain run"` or `"edited run"`.
    """

    tokens: tuple[Token, ...]
    sources: Table
    replaced: Table
    attention_biases: Table
    mlps: Table
    edits: Table
    embedding: float
    constant: float
    metric: float
    error: float
    explains: Literal["plain run", "edited run"]

    @property
    def label(self) -> str:
        """What the numbers are, and are not."""
        return "direct, by source position: what sits there may come from other tokens"

    @property
    def heads(self) -> Table:
        """What each head wrote, `[layer, head]`."""
        return self.sources.sum(2) + self.replaced

    @property
    def by_token(self) -> Table:
        """What all heads together carried from each position, `[src]`."""
        return self.sources.sum((0, 1))

    def carriers(self, position: int, n: int = 5) -> list[tuple[str, float]]:
        """The `n` heads that carried most from `position`, by size: `("L1H0", 3.2)`."""
        table = self.sources[:, :, position]
        order = np.argsort(-np.abs(table), axis=None)[:n]
        return [(f"L{i // table.shape[1]}H{i % table.shape[1]}", float(table.flat[i])) for i in order.tolist()]

    def to_pandas(self) -> Any:
        """One row per layer, head and source position."""
        import pandas as pd

        rows = [
            (layer, head, src, self.tokens[src].text, float(self.sources[layer, head, src]))
            for layer, head, src in np.ndindex(*self.sources.shape)
        ]
        return pd.DataFrame(rows, columns=["layer", "head", "source", "token", "contribution"])


def direct_by_source(
    live: LiveModel,
    question: Asked | Question,
    interventions: Sequence[Intervention] = (),
    cancelled: Cancelled | None = None,
) -> DirectTokens:
    """Split the metric into what every head carried from every position, and what MLPs, embedding, biases and edits wrote.

    Raises:
        FeatureOffError: where what a block adds to the stream, or attention's pattern, was not found in this model.

    Example:
        >>> direct = direct_by_source(live, session.question)  # doctest: +SKIP
        >>> direct.carriers(4)[0]  # doctest: +SKIP
        ('L1H0', 42.4)
    """
    asked = question.first if isinstance(question, Question) else question
    _refuse(live)
    return direct_rows(explained(live, asked, interventions), cancelled=cancelled)[0]


def direct_rows(what: Explained, outputs: Sequence[int] = (), cancelled: Cancelled | None = None) -> list[DirectTokens]:
    """The same for every number that is read, in one forward and a backward each; all of them, or those at `outputs`.

    A log-probability is no linear function of the stream: its parts are those of its tangent at this run.

    Raises:
        FeatureOffError: as `direct_by_source`.
    """
    live = what.live
    _refuse(live)
    refuse_gradients(live)
    explains: Literal["plain run", "edited run"] = "edited run" if what.edited else "plain run"
    for native in (False, True) if live.patterns_wrapped else (True,):
        with live.lock, modes(live.device):
            live.ready()
            ways = StraightWays(
                what, *what.compiled(1, cancelled), NativeAttention() if native else None, outputs, cancelled
            )
            ways.place()
            found = ways.run(lambda output, metric, ways=ways: _split(ways, output, metric, explains))
        if found:
            return found
    raise FeatureOffError(_UNSEEN)


_UNSEEN = (
    "Direct attribution by source token needs attention's pattern and values, and this model's attention neither goes through "
    "transformers' registry nor multiplies what softmax gave with its values; use method='occlusion'."
)


def _refuse(live: LiveModel) -> None:
    for feature in ("writes", "stream", "heads", "direct"):
        live.need(feature)
    for layer in live.anatomy.layers:
        reason = _hole(layer)
        if reason:
            raise FeatureOffError(f"Direct attribution by source token is off: in layer {layer.index}, {reason}.")


def _hole(layer: Layer) -> str:
    if layer.attention is None or layer.others:
        return layer.hole or "something beside attention and MLP writes to the stream"
    if layer.attention.gated:
        return "heads are gated after their softmax"
    if layer.post_norm:
        return "the stream is normalised after each addition"
    if layer.attention.write is None or layer.mlp is None or layer.mlp.write is None:
        return "what is added to the stream was not found"
    return ""


def _split(
    ways: StraightWays, output: int, metric: float, explains: Literal["plain run", "edited run"]
) -> DirectTokens:
    """The table of all parts."""
    what = ways.what
    layers, q = what.live.anatomy.layers, what.positions[output]
    n_heads = max(layer.attention.n_heads for layer in layers if layer.attention is not None)
    sources = np.zeros((len(layers), n_heads, len(what.tokens)))
    replaced = np.zeros((len(layers), n_heads))
    biases, mlps = np.zeros(len(layers)), np.zeros(len(layers))
    for layer in layers:
        carried, wrote = ways.heads(layer, q)
        sources[layer.index, : len(carried)] = carried
        beside = wrote - carried.sum(1)
        scale = np.abs(carried).sum(1) + np.abs(wrote)
        replaced[layer.index, : len(carried)] = np.where(np.abs(beside) > 1e-4 * scale, beside, 0.0)
        biases[layer.index] = ways.part("attention", layer.index, q) - wrote.sum()
        mlps[layer.index] = ways.part("mlp", layer.index, q)
    edits = np.array([ways.edited(layer.index, q) for layer in layers])
    embedding, constant = ways.part("embedding", 0, q), ways.constant(q, output)
    total = sources.sum() + replaced.sum() + biases.sum() + mlps.sum() + edits.sum() + embedding + constant
    return DirectTokens(
        what.tokens,
        sources,
        replaced,
        biases,
        mlps,
        edits,
        embedding,
        constant,
        metric,
        float(total) - metric,
        explains,
    )
