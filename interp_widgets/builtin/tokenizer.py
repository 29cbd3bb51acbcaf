"""The embedded model's tokenizer: whole words of a closed vocabulary, bytes for everything else."""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from . import corpus, words
from .families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS = "<|endoftext|>"
_SPLIT = r" ?\p{L}+| ?\d{1,2}| ?[^\s\p{L}\d]+|\s+"
_WORD = re.compile(r" ?[^\W\d_]+| ?[^\w\s](?![^\w\s])")
_SAMPLE, _SEEN = 60_000, 3


def vocabulary() -> list[str]:
    """Every token's text in the order of its id: BOS, 256 bytes, words, two-digit numbers."""
    from tokenizers.pre_tokenizers import ByteLevel

    random = Random(0)
    counts: Counter[str] = Counter()
    for _ in range(_SAMPLE):
        counts.update(_WORD.findall(corpus.draw(random, FAMILIES).text))
    found = {word for word, count in counts.items() if count >= _SEEN}
    found |= {form for name in (*words.FEMALE, *words.MALE, *words.SURNAMES) for form in (name, f" {name}")}
    found |= {form for row in (*words.FACTS, *words.CAPITALS_ONLY) for word in row for form in (word, f" {word}")}
    numbers = [form for n in range(100) for form in (f"{n:02}", f" {n:02}")] + [f" {n}" for n in range(10)]
    alphabet = sorted(ByteLevel.alphabet())
    spelled = [_byte_level(text) for text in (*sorted(found), *numbers)]
    return [BOS, *alphabet, *(text for text in spelled if text not in set(alphabet))]


def build() -> PreTrainedTokenizerFast:
    """A fast tokenizer that looks like GPT-2's, round-trips any text and adds its own BOS in front."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # pyright: ignore[reportAttributeAccessIssue]
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([BOS])
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=None,
        pad_token=BOS,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _byte_level(text: str) -> str:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
