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
EXTRA_WORDS = tuple(
    """one two three four five six seven eight nine ten again also always never about into over under
between through during against without people world life time year month week morning evening water money work word hand
head eye face room town street country school child children man woman men women mother father brother sister son daughter
make made take took come go gone see seen know think say said tell told ask asked give given find found want need try use
used work call feel become leave put mean keep let begin seem help show play run move live believe bring happen write
provide sit stand lose pay meet include continue set learn change lead understand watch follow stop create speak read
allow add spend grow open walk win offer remember love consider appear buy wait serve die send expect build stay fall cut
reach kill remain because although while until since if but or so than then there here where when how why what who which
this that these those my your our their its me him us them you not no yes very much many more most some any all both each
few other such only own same too just now still even back well""".split()
)
"""Common words that the families do not need, there so that typed prompts rarely fall to bytes (lists train them)."""
_SAMPLE, _SEEN = 60_000, 3


def vocabulary(families: tuple[corpus.Family, ...] = FAMILIES, extra: tuple[str, ...] = EXTRA_WORDS) -> list[str]:
    """Every token's text in the order of its id: BOS, 256 bytes, words of the families and extra ones, numbers."""
    from tokenizers.pre_tokenizers import ByteLevel

    random = Random(0)
    counts: Counter[str] = Counter()
    for _ in range(_SAMPLE):
        counts.update(_WORD.findall(corpus.draw(random, families).text))
    found = {word for word, count in counts.items() if count >= _SEEN}
    found |= {form for name in (*words.FEMALE, *words.MALE, *words.SURNAMES) for form in (name, f" {name}")}
    rows = (*words.FACTS, *words.CAPITALS_ONLY, ("List", *extra))
    found |= {form for row in rows for word in row for form in (word, f" {word}")}
    found |= {
        form for pair in words.ANTONYMS for word in pair for w in (word, word.capitalize()) for form in (w, f" {w}")
    }
    numbers = [form for n in range(100) for form in (f"{n:02}", f" {n:02}")] + [f" {n}" for n in range(10)]
    alphabet = sorted(ByteLevel.alphabet())
    spelled = [_byte_level(text) for text in (*sorted(found), *numbers)]
    return [BOS, *alphabet, *(text for text in spelled if text not in set(alphabet))]


def build(
    families: tuple[corpus.Family, ...] = FAMILIES, extra: tuple[str, ...] = EXTRA_WORDS
) -> PreTrainedTokenizerFast:
    """A fast tokenizer that looks like GPT-2's, round-trips any text and adds its own BOS in front."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary(families, extra)
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
