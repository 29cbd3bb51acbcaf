"""The public names of attribution and patching: their examples run, and they explain what the session has on."""

from __future__ import annotations

import doctest
from collections.abc import Iterator

import numpy as np
import pytest

import interp_widgets as iw
from interp_widgets import api

NAMES = ("attribute_answer", "contrast_answers", "deletion_test", "direct_attribution", "patching", "span_scores")


@pytest.fixture
def session() -> Iterator[iw.Session]:
    session = iw.open("known:induction")
    session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
    yield session
    session.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_function_runs_and_shows_what_it_says(name: str) -> None:
    found = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name, globs={"iw": iw})
    examples = [example for one in found for example in one.examples]
    assert len(examples) >= 3
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for one in found:
        runner.run(one)
    assert runner.summarize(verbose=False).failed == 0
    assert getattr(iw, name) is getattr(api, name)


def test_the_parts_sum_to_the_metric_and_the_spans_to_the_scores(session: iw.Session) -> None:
    parts = iw.direct_attribution(session)
    rest = parts.attention_biases.sum() + parts.mlps.sum() + parts.embedding + parts.constant
    assert parts.heads.sum() + rest == pytest.approx(session.answer.metric, abs=1e-3)
    scores = iw.attribute(session, method="occlusion").scores
    for by in ("token", "word", "line", [(1, 3)], "/dog|cat/"):
        assert sum(span.score for span in iw.span_scores(session, scores, by)) == pytest.approx(scores.sum(), rel=1e-9)


def test_what_is_on_is_explained(session: iw.Session) -> None:
    plain = iw.direct_attribution(session).metric, iw.deletion_test(session, np.arange(10.0), orders=2).deletion[0]
    answer = iw.attribute_answer(session, "bird")
    session.toggle("L1H0", mode="zero")
    now = session.answer.metric
    assert abs(now - plain[0]) > 1.0
    assert iw.direct_attribution(session).metric == pytest.approx(now, abs=1e-3)
    assert iw.deletion_test(session, np.arange(10.0), orders=2).deletion[0] == pytest.approx(now, abs=1e-3)
    assert plain[1] == pytest.approx(plain[0], abs=1e-3)
    edited = iw.attribute_answer(session, "bird")
    assert (answer.explains, edited.explains) == ("plain run", "edited run")
    assert edited.log_probability < answer.log_probability


def test_a_contrast_of_answers_turns_its_sign_with_its_sides(session: iw.Session) -> None:
    scores, difference = iw.contrast_answers(session, "bird", "fish leaf")
    other, back = iw.contrast_answers(session, "fish leaf", "bird")
    np.testing.assert_allclose(scores, -other, atol=1e-6)
    assert difference == pytest.approx(-back, abs=1e-6)


def test_without_a_question_each_says_so_in_a_sentence() -> None:
    empty = iw.open("known:induction")
    calls = (
        lambda: iw.attribute_answer(empty, "bird"),
        lambda: iw.contrast_answers(empty, "bird", "fish"),
        lambda: iw.deletion_test(empty, [1.0]),
        lambda: iw.direct_attribution(empty),
        lambda: iw.span_scores(empty, [1.0]),
    )
    for call in calls:
        with pytest.raises(iw.PromptError, match="no question"):
            call()
    empty.close()
