"""Spans: a partition of the prompt, whatever the tokenizer and the script; sums are exact."""

from __future__ import annotations

import re
import types
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp_widgets.methods.spans import Span, span_scores
from interp_widgets.model.errors import PromptError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Metric, Tokenizer

TEXT = "When Mary's unbelievably long walk ended, she sat. Was it far? Yes!\nΤέλος 😀👍 日本語 שלום <b>x</b>"


def _trained(kind: str) -> PreTrainedTokenizerFast:
    core = Core(models.BPE())
    alphabet: list[str] = []
    if kind == "bytes":  # as GPT-2: a letter outside ASCII is several tokens, none of which is a text
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:  # as Llama: a token decoded alone loses the space in front of it
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    core.train_from_iterator([TEXT[:60]] * 3 if kind == "bytes" else [TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


TOKENIZERS = {kind: _trained(kind) for kind in ("bytes", "pieces")}


def ask(kind: str, text: str, *, bos: bool = False, as_ids: bool = False) -> tuple[LiveModel, Asked]:
    raw = TOKENIZERS[kind]
    tokens = Tokenizer(raw, 10_000, None)
    live: Any = types.SimpleNamespace(tokens=tokens, tokenizer=raw)
    encoded = tokens.encode(text, bos)
    return cast("LiveModel", live), Asked("" if as_ids else text, encoded, Metric((0,)), (), (), len(encoded) - 1)


def spans(kind: str, text: str, by: Any, **how: bool) -> list[Span]:
    live, asked = ask(kind, text, **how)
    scores = np.random.default_rng(0).normal(size=len(asked.tokens))
    found = span_scores(live, asked, scores, by)
    assert [i for s in found for i in s.positions] == list(range(len(scores))), "every token exactly once, in order"
    assert sum(s.score for s in found) == pytest.approx(scores.sum(), abs=1e-12)
    return list(found)


@pytest.mark.parametrize("how", [{}, {"bos": True}, {"as_ids": True}])
def test_sub_word_pieces_merge_into_words(how: dict[str, bool]) -> None:
    words = [s.text for s in spans("bytes", TEXT, "word", **how)]
    start = ["<s>"] if how.get("bos") else []
    expected = ["When", " Mary's", " unbelievably", " long", " walk", " ended", ",", " she", " sat", ".", " Was", " it"]
    assert words[: len(start) + 12] == [*start, *expected]
    assert words[-7:] == [" <", "b", ">", "x", "</", "b", ">"]
    assert "".join(words[len(start) :]) == TEXT


@pytest.mark.parametrize("how", [{}, {"bos": True}, {"as_ids": True}])
def test_a_space_that_the_decoder_drops_still_parts_two_words(how: dict[str, bool]) -> None:
    words = [s.text.strip() for s in spans("pieces", "When Mary sat", "word", **how)]
    assert words[-3:] == ["When", "Mary", "sat"]


def test_sentences_and_lines_begin_where_their_first_letter_stands() -> None:
    sentences = [s.text.strip() for s in spans("bytes", TEXT, "sentence")]
    assert sentences[:3] == ["When Mary's unbelievably long walk ended, she sat.", "Was it far?", "Yes!"]
    lines = [s.text for s in spans("bytes", TEXT, "line")]
    assert len(lines) == 2
    assert lines[0].endswith("Yes!\n")
    assert lines[1].startswith("Τέλος")


def test_a_regular_expression_keeps_what_lies_between_its_matches() -> None:
    for by in (r"/[A-Z]\w+/", re.compile(r"[A-Z]\w+")):
        found = spans("bytes", TEXT, by)
        assert [s.text.strip() for s in found if s.chosen][:3] == ["When", "Mary", "Was"]
        assert any(not s.chosen for s in found)


def test_positions_of_ones_own_are_a_partition_with_the_rest() -> None:
    found = spans("bytes", TEXT, [(1, 3), (3, 4)])
    assert [(s.positions, s.chosen) for s in found[:3]] == [((0,), False), ((1, 2), True), ((3,), True)]


def test_half_an_emoji_is_shown_as_its_bytes() -> None:
    live, asked = ask("bytes", "a 😀")
    found = span_scores(live, asked, np.ones(len(asked.tokens)), "token")
    assert "\ufffd" not in "".join(s.text for s in found)
    assert found[-1].text == "⟨80⟩"
    assert span_scores(live, asked, np.ones(len(asked.tokens)), "word")[-1].text == " 😀"


@pytest.mark.parametrize(
    ("by", "sentence"),
    [
        ([(0, 99)], "0:99 is outside the prompt"),
        ([(2, 2)], "2:2 is outside"),
        ([(0, 3), (2, 4)], "overlaps"),
        ("paragraph", "'paragraph' do not exist"),
        ("/(/", "cannot be read"),
        ("/zebra/", "matches nothing"),
    ],
)
def test_spans_that_make_no_sense_are_refused_in_a_sentence(by: Any, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        spans("bytes", TEXT, by)


def test_scores_of_another_length_are_refused() -> None:
    live, asked = ask("bytes", TEXT)
    with pytest.raises(PromptError, match="3 scores for"):
        span_scores(live, asked, [1.0, 2.0, 3.0])


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=40), st.sampled_from(["word", "sentence", "line", "token"]), st.booleans())
def test_any_text_is_partitioned_exactly(text: str, by: str, as_ids: bool) -> None:
    if TOKENIZERS["bytes"](text)["input_ids"]:
        spans("bytes", text, by, as_ids=as_ids)
