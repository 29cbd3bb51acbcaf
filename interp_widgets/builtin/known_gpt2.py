"""Known circuits in GPT-2: induction, and induction whose loss the last layer repairs.

The stream holds token, position, previous token and prediction, each feature with both signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from interp_widgets.builtin.closed_form import (
    GAMMA,
    MATCH,
    REPEAT,
    SILENCE,
    SINK,
    SUPPRESSED,
    WORDS,
    WRITTEN,
    Built,
    KnownCircuit,
    induction_answers,
    word_tokenizer,
    zero_answers,
)

VOCAB, POSITIONS = len(WORDS) + 2, 24
WIDTH = 2 * (3 * VOCAB + POSITIONS)
TOKEN, POSITION, PREVIOUS, OUT = 0, VOCAB, VOCAB + POSITIONS, 2 * VOCAB + POSITIONS


def size(features: float) -> float:
    """A unit feature after the layer norm, when the squares of all features sum to `features`."""
    return math.sqrt(WIDTH / (2 * features))


class _Gpt2:
    """Writes heads into a GPT-2 whose other weights are zero."""

    def __init__(self, layers: int) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=VOCAB, n_positions=POSITIONS, n_embd=WIDTH, n_layer=layers, n_head=4, n_inner=16,
            layer_norm_epsilon=1e-12, tie_word_embeddings=False, bos_token_id=0, eos_token_id=None,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        self.model: Any = GPT2LMHeadModel(config)
        self.width = WIDTH // 4
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
            for token in range(VOCAB):
                self._signs(self.model.transformer.wte.weight[token], TOKEN + token, 1.0)
                self._signs(self.model.lm_head.weight[token], OUT + token, GAMMA / 2)
            for position in range(POSITIONS):
                self._signs(self.model.transformer.wpe.weight[position], POSITION + position, 1.0)

    @staticmethod
    def _signs(vector: Any, feature: int, value: float) -> None:
        vector[feature] = value
        vector[feature + WIDTH // 2] = -value

    def head(
        self, layer: int, head: int, scores: Sequence[tuple[int | None, int, float]], copies: int, value: float
    ) -> None:
        """Set one head.

        `scores` are `(query feature or None for always, key feature, score)`, each in a channel of its own; what is
        attended to has its `copies` words copied into the prediction (or the previous token) times `value`.
        """
        import torch

        attention = self.model.transformer.h[layer].attn
        column = head * self.width
        unit, root = size(2 if layer == 0 else 3), math.sqrt(self.width)
        with torch.no_grad():
            channels = sorted({key for _, key, _ in scores})
            for query, key, score in scores:
                at = column + channels.index(key)
                if query is None:
                    attention.c_attn.bias[at] = score * root / unit
                else:
                    self._signs(attention.c_attn.weight[:, at], query, score * root / (2 * unit * unit))
                self._signs(attention.c_attn.weight[:, WIDTH + at], key, 0.5)
            for word in range(VOCAB if copies == PREVIOUS else VOCAB - 1):
                token = word if copies == PREVIOUS else word + 1  # nothing is copied from <bos>, where heads rest
                at = column + word
                self._signs(attention.c_attn.weight[:, 2 * WIDTH + at], TOKEN + token, 0.5)
                self._signs(attention.c_proj.weight[at], copies + token, value)


def _previous_token(circuit: _Gpt2) -> None:
    scores = [(POSITION + i, POSITION + i - 1, MATCH) for i in range(1, POSITIONS)]
    circuit.head(0, 0, scores, PREVIOUS, 1.0 / size(2))


def _induction_scores(queries: int, keys: int) -> list[tuple[int | None, int, float]]:
    """Attend to where feature `keys` names the word that `queries` names here, else rest on <bos>."""
    matches: list[tuple[int | None, int, float]] = [(queries + w, keys + w, MATCH) for w in range(1, VOCAB)]
    return [*matches, (None, TOKEN, SINK)]


def induction() -> Built:
    """A previous-token head feeds an induction head: what followed the word the last time is said again."""
    circuit = _Gpt2(2)
    _previous_token(circuit)
    circuit.head(1, 0, _induction_scores(TOKEN, PREVIOUS), OUT, 1.0 / size(3))
    plain = GAMMA * size(4)
    known_circuit = KnownCircuit(
        name="induction",
        prompt=REPEAT,
        target="bird",
        foil="fish",
        answers=induction_answers(plain, 4),
        heads=MappingProxyType({"L0H0": "previous-token head", "L1H0": "induction head"}),
        description="A two-layer GPT-2 that says what followed the last time: a previous-token head feeds an induction head.",
    )
    return circuit.model, word_tokenizer(WORDS, POSITIONS), known_circuit


def self_repair(name: str, backup: bool, suppression: bool) -> Built:
    """Induction, and a last layer with a head that takes over, one that writes against what is said, both, or neither."""
    circuit = _Gpt2(3)
    _previous_token(circuit)
    circuit.head(1, 0, _induction_scores(TOKEN, PREVIOUS), OUT, 1.0 / size(3))
    heads = {"L0H0": "previous-token head", "L1H0": "induction head"}
    if backup:
        silence = [(OUT + w, TOKEN, SILENCE) for w in range(1, VOCAB)]
        circuit.head(2, 0, [*_induction_scores(TOKEN, PREVIOUS), *silence], OUT, WRITTEN / size(3))
        heads["L2H0"] = "backup induction head: acts when nothing is predicted yet"
    if suppression:
        circuit.head(2, 1, _induction_scores(OUT, TOKEN), OUT, -SUPPRESSED * WRITTEN / size(3))
        heads["L2H1"] = "copy-suppression head: writes against what is predicted"
    known_circuit = KnownCircuit(
        name=name,
        prompt=REPEAT,
        target="bird",
        foil="fish",
        answers=_repair_answers(backup, suppression),
        heads=MappingProxyType(heads),
        description="An induction circuit whose last layer repairs (or over-repairs) the loss of the induction head L1H0.",
    )
    return circuit.model, word_tokenizer(WORDS, POSITIONS), known_circuit


def _repair_answers(backup: bool, suppression: bool) -> Mapping[str, float]:
    """The closed forms: the prediction's amplitude is 1 (L1H0) less what is suppressed, or r when the backup acts."""
    amplitude = 1.0 - SUPPRESSED * WRITTEN if suppression else 1.0
    unit = GAMMA * size(3 + amplitude**2)  # the metric of one unit, with the plain run's norm
    plain, direct = amplitude * unit, unit
    ablated = GAMMA * WRITTEN * size(3 + WRITTEN**2) if backup else 0.0
    by_backup = WRITTEN * unit if backup else 0.0
    by_suppression = SUPPRESSED * WRITTEN * unit if suppression else 0.0
    repair = ablated - plain + direct
    table = zero_answers(plain, ("L0H0",), 3, 4)
    table |= {"zero:L1H0": ablated, "direct:L1H0": direct, "repair:L1H0": repair, "repair:L1H0:L2H0": by_backup}
    table |= {"repair:L1H0:L2H1": by_suppression, "repair:L1H0:norm": repair - by_backup - by_suppression}
    if suppression:
        table |= {"zero:L2H1": GAMMA * size(4), "direct:L2H1": -by_suppression}
    return MappingProxyType(table)
