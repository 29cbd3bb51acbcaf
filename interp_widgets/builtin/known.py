"""Circuits set by hand in stock configurations, whose every answer is a formula: the engine's oracle.

The residual stream holds one-hot features, so its norm is a known constant; the softmaxes are saturated (a margin of at
least 60 in the scores, e**-60 vanishes in float32). Where a layer norm subtracts the mean, every feature is stored
twice, once with each sign, so that the mean is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import InterpError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

WORDS = "cat dog bird fish tree leaf stone river cloud star moon sun wind rain".split()
REPEAT = "cat dog bird fish tree leaf stone river dog"
GAMMA = 10.0  # what the unembedding multiplies a unit feature by
MATCH, SINK, SILENCE = 130.0, 60.0, 500.0  # scores of a match, of resting on <bos>, and of being told to rest
WRITTEN, SUPPRESSED = math.sqrt(4 / 3), 0.4  # the backup head writes r, the suppressing head -0.4 r


@dataclass(frozen=True)
class KnownCircuit:
    """A circuit whose answers are known in closed form.

    Attributes:
        name: what `iw.open("known:<name>")` calls it.
        prompt: the text that it is asked about; `target` and `foil` are tokens, the metric is their logit difference.
        answers: the metric as a number, by what is done: `"plain"`, `"zero:L1H0"` (that head zero-ablated),
            `"direct:L1H0"` (its direct effect), `"repair:L1H0"` (the self-repair when it is zero-ablated) and its split
            `"repair:L1H0:L2H0"`, `"repair:L1H0:norm"`. Direct effects use the final norm's scale of the plain run.
        heads: what each head of the circuit does; all other heads write nothing.
        description: one sentence.
    """

    name: str
    prompt: str
    target: str
    foil: str
    answers: Mapping[str, float]
    heads: Mapping[str, str]
    description: str


def names() -> tuple[str, ...]:
    """The names of all known circuits."""
    return tuple(_CIRCUITS)


def known(name: str) -> tuple[Any, PreTrainedTokenizerFast, KnownCircuit]:
    """Build a known circuit: a stock `transformers` model with weights set by hand, its tokenizer, its answers.

    Raises:
        InterpError: there is no circuit of that name.

    Example:
        >>> model, tokenizer, circuit = known("induction")
        >>> round(circuit.answers["plain"], 4)
        42.4264
    """
    builder = _CIRCUITS.get(name.removeprefix("known:"))
    if builder is None:
        message = f"There is no known circuit {name!r}: choose one of {', '.join(_CIRCUITS)}."
        raise InterpError(message)
    model, tokenizer, circuit = builder()
    model.config._name_or_path = f"known:{circuit.name}"
    tokenizer.name_or_path = f"known:{circuit.name}"
    return model.eval(), tokenizer, circuit


def _tokenizer(words: Sequence[str], length: int) -> PreTrainedTokenizerFast:
    """One token per word; `<bos>` is put in front, an unknown word is `<unk>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(("<bos>", "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", pad_token="<unk>", model_max_length=length
    )


def _answers(plain: float, killed: Sequence[str], layers: int, heads: int) -> dict[str, float]:
    """Zero-ablation of each head: 0 for those that the answer needs, nothing changes for the rest."""
    every = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    return {"plain": plain} | {f"zero:{head}": 0.0 if head in killed else plain for head in every}


def _induction_answers(plain: float, heads: int) -> Mapping[str, float]:
    """Both heads are needed; only the second writes the prediction."""
    table = _answers(plain, ("L0H0", "L1H0"), 2, heads)
    return MappingProxyType(table | {"direct:L0H0": 0.0, "direct:L1H0": plain})


# --- GPT-2: token | position | previous token | prediction, each feature with both signs -------------------------------

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
        self.model = GPT2LMHeadModel(config)
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
    def _signs(vector: Tensor, feature: int, value: float) -> None:
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


def _induction() -> tuple[Any, PreTrainedTokenizerFast, KnownCircuit]:
    circuit = _Gpt2(2)
    _previous_token(circuit)
    circuit.head(1, 0, _induction_scores(TOKEN, PREVIOUS), OUT, 1.0 / size(3))
    plain = GAMMA * size(4)
    known_circuit = KnownCircuit(
        name="induction",
        prompt=REPEAT,
        target="bird",
        foil="fish",
        answers=_induction_answers(plain, 4),
        heads=MappingProxyType({"L0H0": "previous-token head", "L1H0": "induction head"}),
        description="A two-layer GPT-2 that says what followed the last time: a previous-token head feeds an induction head.",
    )
    return circuit.model, _tokenizer(WORDS, POSITIONS), known_circuit


def _self_repair(name: str, backup: bool, suppression: bool) -> tuple[Any, PreTrainedTokenizerFast, KnownCircuit]:
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
    return circuit.model, _tokenizer(WORDS, POSITIONS), known_circuit


def _repair_answers(backup: bool, suppression: bool) -> Mapping[str, float]:
    """The closed forms: the prediction's amplitude is 1 (L1H0) less what is suppressed, or r when the backup acts."""
    amplitude = 1.0 - SUPPRESSED * WRITTEN if suppression else 1.0
    unit = GAMMA * size(3 + amplitude**2)  # the metric of one unit, with the plain run's norm
    plain, direct = amplitude * unit, unit
    ablated = GAMMA * WRITTEN * size(3 + WRITTEN**2) if backup else 0.0
    by_backup = WRITTEN * unit if backup else 0.0
    by_suppression = SUPPRESSED * WRITTEN * unit if suppression else 0.0
    repair = ablated - plain + direct
    table = _answers(plain, ("L0H0",), 3, 4)
    table |= {"zero:L1H0": ablated, "direct:L1H0": direct, "repair:L1H0": repair, "repair:L1H0:L2H0": by_backup}
    table |= {"repair:L1H0:L2H1": by_suppression, "repair:L1H0:norm": repair - by_backup - by_suppression}
    if suppression:
        table |= {"zero:L2H1": GAMMA * size(4), "direct:L2H1": -by_suppression}
    return MappingProxyType(table)


# --- Llama: one key-value head for all heads, rotary positions ---------------------------------------------------------

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
        self.model, self.d_head = LlamaForCausalLM(config), d_head
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


def _induction_llama() -> tuple[Any, PreTrainedTokenizerFast, KnownCircuit]:
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
        answers=_induction_answers(plain, 2),
        heads=MappingProxyType({"L0H0": "previous-token head", "L1H0": "induction head"}),
        description="The induction circuit in a Llama with one key-value head for both heads and rotary positions.",
    )
    return circuit.model, _tokenizer(WORDS, CONTEXT), known_circuit


# --- modular addition by clocks ------------------------------------------------------------------------------------------

FREQUENCIES = {23: (1, 2, 4, 7, 10), 59: (1, 4, 10, 12, 28), 113: (14, 35, 41, 42, 52)}


def clock_logit(p: int, a: int, b: int, c: int) -> float:
    """The logit of `c` after "a b =": the sum over the frequencies k of cos(2 pi k (a + b - c) / p)."""
    return sum(math.cos(2 * math.pi * k * (a + b - c) / p) for k in FREQUENCIES[p])


def _clock(name: str, p: int) -> tuple[Any, PreTrainedTokenizerFast, KnownCircuit]:
    n = len(FREQUENCIES[p])
    width, constant = 8 * n + 4, 8 * n
    first, second, out = 2 * n, 4 * n, 6 * n

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
    table = _answers(plain, ("L0H0", "L0H1"), 1, 4) | {"zero:L0.mlp": 0.0, "direct:L0H0": 0.0, "direct:L0H1": 0.0}
    known_circuit = KnownCircuit(
        name=name,
        prompt=f"{a} {b} =",
        target=str(answer),
        foil=str(other),
        answers=MappingProxyType(table),
        heads=MappingProxyType({"L0H0": "fetches the first number", "L0H1": "fetches the second number"}),
        description=f"Addition modulo {p} in one Llama layer: two heads fetch the numbers, the MLP adds their angles.",
    )
    return circuit.model, _tokenizer([*map(str, range(p)), "="], CONTEXT), known_circuit


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


_CIRCUITS: dict[str, Callable[[], tuple[Any, PreTrainedTokenizerFast, KnownCircuit]]] = {
    "induction": _induction,
    "induction-llama": _induction_llama,
    "self-repair": lambda: _self_repair("self-repair", backup=False, suppression=False),
    "self-repair-backup": lambda: _self_repair("self-repair-backup", backup=True, suppression=False),
    "self-repair-suppression": lambda: _self_repair("self-repair-suppression", backup=False, suppression=True),
    "self-repair-both": lambda: _self_repair("self-repair-both", backup=True, suppression=True),
    "clock": lambda: _clock("clock", 113),
    "clock-59": lambda: _clock("clock-59", 59),
    "clock-23": lambda: _clock("clock-23", 23),
}
