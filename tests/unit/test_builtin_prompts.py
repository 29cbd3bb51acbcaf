"""The named questions, reference sets and contrasts fit the tokenizer and mean what they say."""

from __future__ import annotations

import pytest

from interp_widgets.builtin import addition, generic, train, words
from interp_widgets.builtin.families import FAMILIES
from interp_widgets.builtin.prompts import NamedPrompt, contrast, prompts, references
from interp_widgets.builtin.recipe import RECIPES
from interp_widgets.model.errors import PromptError

TOKENIZERS = {name: train.build_tokenizer(recipe) for name, recipe in RECIPES.items()} | {
    "embedded:addition": addition.build_tokenizer(59)
}


@pytest.mark.parametrize("question", prompts().values(), ids=lambda q: q.name)
def test_a_corrupt_prompt_has_the_length_of_the_clean_one_and_differs(question: NamedPrompt) -> None:
    tok = TOKENIZERS[question.model]
    clean, corrupt = (tok(text)["input_ids"] for text in (question.prompt, question.corrupt))
    assert len(clean) == len(corrupt)
    assert clean != corrupt


@pytest.mark.parametrize("question", prompts().values(), ids=lambda q: q.name)
def test_target_and_foil_are_single_different_tokens(question: NamedPrompt) -> None:
    tok = TOKENIZERS[question.model]
    target, foil = (tok(text, add_special_tokens=False)["input_ids"] for text in (question.target, question.foil))
    assert len(target) == len(foil) == 1
    assert target != foil


def test_every_family_that_is_measured_has_a_named_question_and_a_reference_set() -> None:
    measured = {family.name for family in FAMILIES if family.splits}
    assert measured <= {q.family for q in prompts().values()}
    for question in prompts().values():
        assert question.reference in references(question.model)


def test_reference_sets_are_large_and_always_the_same() -> None:
    assert min(map(len, references().values())) >= 64
    first = dict(references())
    references.cache_clear()
    assert references() == first


def test_nobody_is_named_twice_in_the_reference_set_of_indirect_objects() -> None:
    names = set(words.NAMES)
    for prompt in references()["indirect objects"]:
        named = [w for w in prompt.replace(",", " ").replace(".", " ").split() if w in names]
        assert len(named) == len(set(named)) == 3


def test_there_are_64_generic_sentences() -> None:
    assert len(set(generic.SENTENCES)) == 64


@pytest.mark.parametrize("name", ["sentiment", "french", "gender"])
def test_contrasts_are_paired_and_disjoint(name: str) -> None:
    positives, negatives = contrast(name)
    assert len(positives) == len(negatives) >= 32
    assert not set(positives) & set(negatives)


def test_an_unknown_contrast_lists_what_exists() -> None:
    with pytest.raises(PromptError, match="'mood'.*'sentiment', 'french', 'gender'"):
        contrast("mood")
