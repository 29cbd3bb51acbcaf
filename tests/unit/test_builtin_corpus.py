"""Documents are drawn from a seed, answers are marked, and what is held out never occurs in training."""

from __future__ import annotations

import re
from itertools import combinations
from random import Random

import pytest

from interp_widgets.builtin import corpus, families, words
from interp_widgets.builtin.corpus import Family

MEASURED = [family for family in families.FAMILIES if family.splits]


def _documents(family: Family, split: corpus.Split, count: int = 300, seed: int = 0) -> list[corpus.Document]:
    random = Random(seed)
    return [family.document(random, split) for _ in range(count)]


def test_the_same_seed_draws_the_same_documents() -> None:
    first, second = Random(3), Random(3)
    assert [corpus.draw(first, families.FAMILIES) for _ in range(50)] == [
        corpus.draw(second, families.FAMILIES) for _ in range(50)
    ]


@pytest.mark.parametrize("family", MEASURED, ids=lambda f: f.name)
def test_a_held_out_template_never_occurs_in_training(family: Family) -> None:
    assert not set(family.templates) & set(family.held_out)


@pytest.mark.parametrize("family", MEASURED, ids=lambda f: f.name)
def test_held_out_prompts_never_occur_in_training(family: Family) -> None:
    trained = {d.prompt for d in _documents(family, "train", 3000)}
    for split in family.splits:
        assert not trained & {d.prompt for d in _documents(family, split)}, split


@pytest.mark.parametrize("family", MEASURED, ids=lambda f: f.name)
def test_a_document_asks_for_one_of_its_targets_and_for_no_foil(family: Family) -> None:
    for document in _documents(family, "train"):
        assert document.text.startswith(document.prompt + document.answer)
        assert document.answer in document.targets
        assert not set(document.targets) & set(document.foils)


def test_no_training_document_of_indirect_objects_has_an_unseen_name() -> None:
    unseen = {f" {name}" for name in words.UNSEEN_NAMES}
    for document in _documents(MEASURED[0], "train", 2000):
        assert not unseen & {*document.targets, *document.foils}


def test_every_name_is_drawn_for_indirect_objects() -> None:
    drawn = {name for d in _documents(MEASURED[0], "train", 6000) for name in (*d.targets, *d.foils)}
    assert {f" {name}" for name in words.NAMES} <= drawn
    assert len(words.NAMES) >= 150


def test_the_indirect_object_is_named_first_about_half_of_the_time() -> None:
    first = [
        d.text.find(d.targets[0].strip()) < d.text.find(d.foils[0].strip())
        for d in _documents(MEASURED[0], "train", 2000)
    ]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_how_often_a_name_occurs_does_not_tell_the_indirect_object() -> None:
    twice = [d.prompt.count(d.targets[0].strip()) == 2 for d in _documents(MEASURED[0], "train", 2000)]
    assert sum(twice) > 100


BINDING = next(family for family in MEASURED if family.name == "binding")
_COLOR, _THING = "|".join(words.COLORS), "|".join(words.COLORED)


def _bound(text: str) -> set[tuple[str, str]]:
    """The pairs of a thing and its color that a text of the binding family tells (an opening sentence says "had")."""
    text = re.sub(r"\w+ had a \w+ \w+\. ", "", text)
    before = [(t, c) for c, t in re.findall(rf"\b({_COLOR}) ({_THING})\b", text)]
    behind = re.findall(rf"\b({_THING})(?: of \w+)?(?: is)? ({_COLOR})\b", text)
    return {*before, *behind}


def test_two_things_with_colors_that_are_held_out_together_never_meet_in_a_training_text() -> None:
    pairs = [_bound(d.text) for d in _documents(BINDING, "train", 3000)]
    assert sum(len(p) > 3 for p in pairs) > 600
    for told in pairs:
        for one, two in combinations(sorted(told), 2):
            assert not corpus.is_held_out("binding|" + "|".join((*one, *two)))
    held = [_bound(d.text) for d in _documents(BINDING, "fillings", 100)]
    assert all(
        any(corpus.is_held_out("binding|" + "|".join((*a, *b))) for a, b in combinations(sorted(p), 2)) for p in held
    )


def test_no_training_text_joins_a_held_out_question_to_its_statement() -> None:
    for document in _documents(BINDING, "train", 3000):
        for thing in re.findall(rf"(?:^|\. )\w+ has a (?:{_COLOR}) (\w+)\. ", document.text):
            assert f"The {thing} is" not in document.text
        for thing in re.findall(rf"\bThe (\w+) is (?:{_COLOR})\.", document.text):
            assert f"The color of the {thing} is" not in document.text


def test_most_texts_of_binding_ask_about_one_of_several_things() -> None:
    documents = _documents(BINDING, "train", 2000)
    assert sum(len(d.foils) > 1 for d in documents) > 1000
    first = [d.text.find(d.targets[0]) < d.text.find(d.foils[0]) for d in documents]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_there_are_forty_facts_in_five_wordings_or_more() -> None:
    capitals = next(f for f in MEASURED if f.name == "capitals")
    assert len({row[0] for row in words.FACTS + words.CAPITALS_ONLY}) >= 40
    assert len(capitals.templates) >= 5


def test_sentiment_words_have_one_sentiment_and_are_no_antonyms() -> None:
    assert not set(words.GOOD) & set(words.BAD)
    assert not {w for pair in words.ANTONYMS for w in pair} & {*words.GOOD, *words.BAD}


def test_no_fact_is_given_two_answers() -> None:
    rows = words.FACTS + words.CAPITALS_ONLY
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)
