"""The tokenizer looks like GPT-2's, adds its own BOS, and gives back any text."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from interp_widgets.builtin import corpus, families, tokenizer, words

TOKENIZER = tokenizer.build()


@given(st.text(max_size=60))
def test_any_text_round_trips(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_prompt_starts_with_the_bos_that_the_post_processor_adds() -> None:
    ids = TOKENIZER("When Mary and John went")["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.convert_ids_to_tokens(ids[1:]) == ["When", "ĠMary", "Ġand", "ĠJohn", "Ġwent"]
    assert ids.count(TOKENIZER.bos_token_id) == 1


def test_every_name_is_one_token_with_and_without_a_space() -> None:
    for name in (*words.FEMALE, *words.MALE):
        for form in (name, f" {name}"):
            assert len(TOKENIZER(form, add_special_tokens=False)["input_ids"]) == 1, form


def test_a_year_is_its_century_and_two_digits() -> None:
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER(" 1732", add_special_tokens=False)["input_ids"]) == ["Ġ17", "32"]


def test_documents_in_pieces_and_as_a_whole_give_the_same_tokens() -> None:
    random = Random(5)
    for _ in range(400):
        document = corpus.draw(random, families.FAMILIES)
        pieces = [i for piece in document.pieces for i in TOKENIZER(piece, add_special_tokens=False)["input_ids"]]
        assert pieces == TOKENIZER(document.text, add_special_tokens=False)["input_ids"], document.text


def test_documents_hardly_fall_to_bytes() -> None:
    random = Random(6)
    ids = [i for _ in range(400) for i in TOKENIZER(corpus.draw(random, families.FAMILIES).text)["input_ids"]]
    texts = [str(TOKENIZER.decode([i])) for i in ids]
    letters = [text for text in texts if text.isalpha() and len(text) == 1]
    assert len(letters) / len(ids) < 0.02
