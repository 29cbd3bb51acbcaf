"""Steering turns what the embedded model writes, and text breaks only beyond the working strength."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from interp_widgets.builtin import words
from interp_widgets.builtin.load import load
from interp_widgets.builtin.prompts import contrast
from interp_widgets.methods.coherence import coherence
from interp_widgets.methods.steering import SteeringVector, steering_vector
from interp_widgets.model.generate import generate_many
from interp_widgets.model.interventions import Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric

OPENINGS = [
    "I think the film", "The food", "My", "The hotel room was", "We saw the show. The", "What a", "The trip",
    "He said the service was", "We had soup. The soup was", "She saw the movie and", "The party was",
]  # fmt: skip
PRAISE = {*words.GOOD, *(verb for verb, _ in words.GOOD_ENDS)}
BLAME = {*words.BAD, *(verb for verb, _ in words.BAD_ENDS)}
EACH = 12


@pytest.fixture(scope="module")
def live() -> Iterator[LiveModel]:
    opened = open_model(*load("embedded"), name="embedded")
    yield opened
    opened.release()


def texts(live: LiveModel, openings: list[str], steer: Steer, tokens: int) -> list[str]:
    prompts = [o for o in openings for _ in range(EACH)]
    run = generate_many(live, prompts, [steer], tokens, temperature=1.0, seeds=list(range(len(prompts))))
    return [run.text(r).split("<|endoftext|>")[0].lower() for r in range(len(run.finish()))]


def praise(live: LiveModel, vector: SteeringVector, strength: float) -> float:
    found = [w for t in texts(live, OPENINGS, Steer("L1", vector, strength), 20) for w in re.findall(r"[a-z]+", t)]
    good, bad = sum(w in PRAISE for w in found), sum(w in BLAME for w in found)
    assert good + bad >= 200
    return good / (good + bad)


def test_sentiment_turns_sampled_text_at_plus_and_minus_1_and_breaks_it_beyond(live: LiveModel) -> None:
    vector = steering_vector(live, *contrast("sentiment"), "L1", name="sentiment")
    assert vector.separation is not None
    assert vector.separation.accuracy >= 0.95
    assert praise(live, vector, -1.0) <= 0.05
    assert 0.3 < praise(live, vector, 0.0) < 0.8
    assert praise(live, vector, 1.0) >= 0.95
    tokens = live.tokens.encode("The room was")
    a, b = live.tokens.one("target", " great"), live.tokens.one("foil", " terrible")
    asked = Asked("The room was", tokens, Metric((a.id,), (b.id,)), (a,), (b,), len(tokens) - 1)
    found = coherence(live, asked, vector, [-3.0, -2.0, -0.5, 0.0, 0.5, 2.0, 3.0])
    assert found.breaks.tolist() == [True, True, False, False, False, True, True]


def test_french_makes_sampled_text_french_at_its_working_strength(live: LiveModel) -> None:
    french = {w for _, noun, article in words.FRENCH_NOUNS for w in (noun, article)} | {
        v for _, v in words.FRENCH_VERBS
    }
    french |= {w for _, one, other in words.FRENCH_ADJECTIVES for w in (one, other)}
    french -= {noun for noun, _, _ in words.FRENCH_NOUNS}
    vector = steering_vector(live, *contrast("french"), "L0", name="french", positions="mean")
    share: list[float] = []
    for strength in (0.0, 1.5):
        found = [
            w
            for t in texts(live, ["The dog", "The king"], Steer("L0", vector, strength), 16)
            for w in re.findall(r"\w+", t)
        ]
        share.append(sum(w in french for w in found) / len(found))
    assert share[0] < 0.2
    assert share[1] >= 0.9
