"""Known circuits in Llama: induction with grouped heads and rotary positions, and addition modulo a prime by clocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from interp_widgets.builtin.closed_form import (
    GAMMA,
    MATCH,
    REPEAT,
    SINK,
    WORDS,
    Built,
    KnownCircuit,
    induction_answers,
    word_tokenizer,
    zero_answers,
)
from interp_widgets.builtin.known_gpt2 import VOCAB

HEAD_WIDTH, CONTEXT = 64, 64


class _Llama:
    """Writes heads into a Llama whose other weights are zero; all heads of a layer share one key and one value head."""

    def __init__(
        self, vocab: int, width: int, layers: int, heads: int, d_head: int, neurons: int, theta: float
    ) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=1,
            head_dim=d_head, intermediate_size=neurons, hidden_act="linear", rms_norm_eps=1e-12,
            max_position_embeddings=CONTEXT, rope_parameters={"rope_type": "default", "rope_theta": theta},
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        self.model: Any = LlamaForCausalLM(config)
        self.d_head = d_head
        self.turns = [theta ** (-2 * pair / d_head) for pair in range(d_head // 2)]
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.fill_(1.0 if "norm" in name else 0.0)

    def look_back(self, layer: int, head: int, steps: int, constant: int, unit: float, pairs: int) -> None:
        """Attend `steps` tokens back: the key's `constant` feature, turned by as many steps, is the query."""
        import torch

        turns = self.turns[:pairs]
        margin = min(sum(1 - math.cos(turn * off) for turn in turns) for off in range(1, CONTEXT + steps))
        score = MATCH / margin * math.sqrt(self.d_head) / unit**2
        attention = self.model.model.layers[layer].self_attn
        half, row = self.d_head // 2, head * self.d_head
        with torch.no_grad():
            for pair, turn in enumerate(turns):
                attention.k_proj.weight[pair, constant] = 1.0
                attention.q_proj.weight[row + pair, constant] = score * math.cos(turn * steps)
                attention.q_proj.weight[row + half + pair, constant] = -score * math.sin(turn * steps)

    def copy(self, layer: int, head: int, source: Sequence[int], into: int, value: float) -> None:
        """Let a head copy the features `source` of what it attends to into `into`, `into + 1`, ..."""
        import torch

        attention = self.model.model.layers[layer].self_attn
        with torch.no_grad():
            for at, feature in enumerate(source):
                attention.v_proj.weight[at, feature] = 1.0
                attention.o_proj.weight[into + at, head * self.d_head + at] = value


def induction_llama() -> Built:
    """The induction circuit where positions are rotations and all heads share one key-value head."""
    import torch

    width, constant = 3 * VOCAB + 2, 3 * VOCAB
    previous, out = VOCAB, 2 * VOCAB

    def unit(features: int) -> float:
        return math.sqrt(width / features)

    circuit = _Llama(VOCAB, width, 2, 2, HEAD_WIDTH, 16, theta=1e16)
    circuit.look_back(0, 0, 1, constant, unit(2), pairs=6)
    circuit.copy(0, 0, range(VOCAB), previous, 1 / unit(2))
    circuit.copy(1, 0, range(1, VOCAB), out + 1, 1 / unit(3))
    content = HEAD_WIDTH // 4  # the pairs from here on turn by less than 1e-8 a step: they carry words
    attention = circuit.model.model.layers[1].self_attn
    score = math.sqrt(HEAD_WIDTH) / unit(3) ** 2
    with torch.no_grad():
        attention.k_proj.weight[content, 0] = 1.0
        attention.q_proj.weight[content, constant] = SINK * score
        for word in range(VOCAB):
            circuit.model.model.embed_tokens.weight[word, [word, constant]] = 1.0
            circuit.model.lm_head.weight[word, out + word] = GAMMA
            if word:
                attention.k_proj.weight[content + word, previous + word] = 1.0
                attention.q_proj.weight[content + word, word] = MATCH * score
    plain = GAMMA * unit(4)
    known_circuit = KnownCircuit(
        name="induction-llama",
        prompt=REPEAT,
        target="bird",
        foil="fish",
        answers=induction_answers(plain, 2),
        heads=MappingProxyType({"L0H0": "previous-token head", "L1H0": "induction head"}),
        description="The induction circuit in a Llama with one key-value head for both heads and rotary positions.",
    )
    return circuit.model, word_tokenizer(WORDS, CONTEXT), known_circuit


FREQUENCIES = {23: (1, 2, 4, 7, 10), 59: (1, 4, 10, 12, 28), 113: (14, 35, 41, 42, 52)}


def clock_logit(p: int, a: int, b: int, c: int) -> float:
    """The logit of `c` after "a b =": the sum over the frequencies k of cos(2 pi k (a + b - c) / p)."""
    return sum(math.cos(2 * math.pi * k * (a + b - c) / p) for k in FREQUENCIES[p])


def clock(name: str, p: int) -> Built:
    """Addition modulo `p`: each number is a hand of five clocks, and the MLP adds the angles."""
    n = len(FREQUENCIES[p])
    width, constant = 8 * n + 4, 8 * n
    first, second = 2 * n, 4 * n

    def unit(squares: int) -> float:
        return math.sqrt(width / squares)

    circuit = _Llama(p + 3, width, 1, 4, max(2 * n, 16), 4 * n, theta=1e4)
    for head, (steps, into) in enumerate(((2, first), (1, second))):
        circuit.look_back(0, head, steps, constant, unit(n + 1), pairs=3)
        circuit.copy(0, head, range(2 * n), into, 1 / unit(n + 1))
    _clock_tables(circuit, p, n, unit(4 * n + 1))
    _clock_products(circuit, n, unit(3 * n + 1))
    a, b = 7, p - 3
    answer, other = (a + b) % p, (a + b + 1) % p
    plain = clock_logit(p, a, b, answer) - clock_logit(p, a, b, other)
    table = zero_answers(plain, ("L0H0", "L0H1"), 1, 4) | {"zero:L0.mlp": 0.0, "direct:L0H0": 0.0, "direct:L0H1": 0.0}
    known_circuit = KnownCircuit(
        name=name,
        prompt=f"{a} {b} =",
        target=str(answer),
        foil=str(other),
        answers=MappingProxyType(table),
        heads=MappingProxyType({"L0H0": "fetches the first number", "L0H1": "fetches the second number"}),
        description=f"Addition modulo {p} in one Llama layer: two heads fetch the numbers, the MLP adds their angles.",
    )
    return circuit.model, word_tokenizer([*map(str, range(p)), "="], CONTEXT), known_circuit


def _clock_tables(circuit: _Llama, p: int, n: int, unit: float) -> None:
    """A number is the angles that it turns each frequency's hand by; what is no number has a flag of the same norm."""
    import torch

    embed, unembed = circuit.model.model.embed_tokens.weight, circuit.model.lm_head.weight
    with torch.no_grad():
        embed[:, 8 * n] = 1.0
        embed[[0, 1, p + 2], 8 * n + 1] = math.sqrt(n)
        for number in range(p):
            for i, k in enumerate(FREQUENCIES[p]):
                angle = 2 * math.pi * k * number / p
                for at, value in ((2 * i, math.cos(angle)), (2 * i + 1, math.sin(angle))):
                    embed[number + 2, at] = value
                    unembed[number + 2, 6 * n + at] = value / unit


def _clock_products(circuit: _Llama, n: int, unit: float) -> None:
    """cos(a + b) = cos a cos b - sin a sin b, sin(a + b) = sin a cos b + cos a sin b: four products a frequency."""
    import torch

    mlp = circuit.model.model.layers[0].mlp
    products = ((0, 0, 0, 1.0), (1, 1, 0, -1.0), (1, 0, 1, 1.0), (0, 1, 1, 1.0))
    with torch.no_grad():
        for i in range(n):
            for j, (left, right, into, sign) in enumerate(products):
                mlp.gate_proj.weight[4 * i + j, 2 * n + 2 * i + left] = 1 / unit
                mlp.up_proj.weight[4 * i + j, 4 * n + 2 * i + right] = 1 / unit
                mlp.down_proj.weight[6 * n + 2 * i + into, 4 * i + j] = sign
