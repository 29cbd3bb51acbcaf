"""What every known circuit is: a prompt, its answers in closed form, and a tokenizer of whole words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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


Built = tuple[Any, Any, KnownCircuit]  # a model, a PreTrainedTokenizerFast, what is known of them


def word_tokenizer(words: Sequence[str], length: int) -> Any:
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


def zero_answers(plain: float, killed: Sequence[str], layers: int, heads: int) -> dict[str, float]:
    """Zero-ablation of each head: 0 for those that the answer needs, nothing changes for the rest."""
    every = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    return {"plain": plain} | {f"zero:{head}": 0.0 if head in killed else plain for head in every}


def induction_answers(plain: float, heads: int) -> Mapping[str, float]:
    """Both heads are needed; only the second writes the prediction."""
    table = zero_answers(plain, ("L0H0", "L1H0"), 2, heads)
    return MappingProxyType(table | {"direct:L0H0": 0.0, "direct:L1H0": plain})
