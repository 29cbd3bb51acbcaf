"""`.to_circuitsvis()` gives CircuitsVis's own object, made of the same numbers, and our calls take what its own calls take."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import circuitsvis
import circuitsvis.activations
import circuitsvis.attention
import circuitsvis.logits
import circuitsvis.tokens
import circuitsvis.topk_tokens
import numpy as np
import pytest
import torch
from circuitsvis.utils.render import RenderedHTML

from interp_widgets.interop import circuitsvis as cv

TOKENS = ["<s>", " a", "\n"]
PATTERN = np.tril(np.ones((2, 3, 3), dtype=np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
SIGNED = PATTERN - PATTERN.mean(0)
NAMES = ["L0H1", "L0H2"]


def drawn(theirs: Any) -> tuple[str, dict[str, Any]]:
    """The component that CircuitsVis draws, and what it is given."""
    assert isinstance(theirs, RenderedHTML)
    found = re.search(r"render\(\s*\"[^\"]+\",\s*(\w+),\s*(\{.*\})\s*\)\s*</script>", theirs.cdn_src, re.DOTALL)
    assert found is not None
    return found[1], json.loads(found[2])


@pytest.mark.parametrize("numbers", [PATTERN.tolist(), PATTERN, torch.tensor(PATTERN), torch.tensor(PATTERN)[None]])
def test_the_real_patterns_are_made_of_the_same_numbers_names_and_tokens(numbers: Any) -> None:
    for drawing in (
        cv.attention_patterns(tokens=TOKENS, attention=numbers, attention_head_names=NAMES),
        cv.attention_heads(attention=numbers, tokens=TOKENS, attention_head_names=NAMES),
    ):
        component, given = drawn(drawing.to_circuitsvis())
        assert component == "AttentionHeads"
        assert np.array_equal(np.asarray(given["attention"], np.float32), PATTERN)
        assert given["attentionHeadNames"] == NAMES
        assert given["tokens"] == TOKENS


def test_limits_colours_and_what_looks_ahead_are_passed_on() -> None:
    both = np.random.default_rng(0).random((2, 3, 3)).astype(np.float32)
    _, given = drawn(
        cv.attention_heads(both, TOKENS, max_value=2.0, min_value=-1.0, positive_color="red").to_circuitsvis()
    )
    assert (given["maxValue"], given["minValue"], given["positiveColor"]) == (2.0, -1.0, "red")
    assert given["maskUpperTri"] is False
    assert np.array_equal(np.asarray(given["attention"], np.float32), both)
    _, given = drawn(cv.attention_heads(SIGNED, TOKENS).to_circuitsvis())
    assert np.array_equal(np.asarray(given["attention"], np.float32), SIGNED)


def test_the_real_tokens_have_the_same_values_and_colours() -> None:
    drawing = cv.colored_tokens(TOKENS, torch.tensor([0.5, -1.0, 0.25]), positive_color="blue", max_value=3)
    component, given = drawn(drawing.to_circuitsvis())
    assert component == "ColoredTokens"
    assert given["tokens"] == TOKENS
    assert given["values"] == [0.5, -1.0, 0.25]
    assert (given["positiveColor"], given["maxValue"]) == ("blue", 3)


RNG = np.random.default_rng(1)
NEURONS = RNG.normal(size=(3, 2, 4)).astype(np.float32)  # [token, layer, neuron]
IDS, LOGITS = torch.tensor([[0, 2, 1]]), torch.tensor(RNG.normal(size=(1, 3, 5)), dtype=torch.float32)


def calls(library: Any, numbers: Any) -> dict[str, Any]:
    """The other calls, as courses write them."""
    return {
        "ColoredTokensMulti": library.tokens.colored_tokens_multi(
            TOKENS, torch.tensor(NEURONS[:, 0]), labels=list("abcd")
        ),
        "TextNeuronActivations": library.activations.text_neuron_activations(tokens=TOKENS, activations=numbers),
        "TokenLogProbs": library.logits.token_log_probs(IDS, LOGITS.log_softmax(-1), lambda i: f"t{i}", top_k=2),
        "TopkTokens": library.topk_tokens.topk_tokens(
            tokens=[TOKENS], activations=NEURONS.transpose(1, 0, 2)[None], max_k=2, first_dimension_labels=[0, 1]
        ),
    }


@pytest.mark.parametrize("numbers", [NEURONS, torch.tensor(NEURONS)])
def test_the_other_calls_of_courses_give_circuitsvis_what_it_would_have_been_given(numbers: Any) -> None:
    theirs, ours = calls(circuitsvis, numbers), calls(cv, numbers)
    for name, drawing in ours.items():
        component, given = drawn(drawing.to_circuitsvis())
        assert component == name
        expected = drawn(theirs[name])[1]
        assert {k: v for k, v in given.items() if not k.endswith("Labels")} == {
            k: v for k, v in expected.items() if not k.endswith("Labels")
        }
        for labels in (k for k in expected if k.endswith("Labels") and expected[k] is not None):
            assert given[labels] == [str(label) for label in expected[labels]]
    performance = cv.tokens.visualize_model_performance(IDS, TOKENS, LOGITS).to_circuitsvis()
    expected = drawn(circuitsvis.tokens.visualize_model_performance(IDS, TOKENS, LOGITS))[1]
    np.testing.assert_allclose(drawn(performance)[1]["values"], expected["values"], atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cv.attention_heads, circuitsvis.attention.attention_heads),
        (cv.attention_patterns, circuitsvis.attention.attention_patterns),
        (cv.attention_pattern, circuitsvis.attention.attention_pattern),
        (cv.colored_tokens, circuitsvis.tokens.colored_tokens),
        (cv.tokens.colored_tokens_multi, circuitsvis.tokens.colored_tokens_multi),
        (cv.tokens.visualize_model_performance, circuitsvis.tokens.visualize_model_performance),
        (cv.activations.text_neuron_activations, circuitsvis.activations.text_neuron_activations),
        (cv.logits.token_log_probs, circuitsvis.logits.token_log_probs),
        (cv.topk_tokens.topk_tokens, circuitsvis.topk_tokens.topk_tokens),
    ],
)
def test_every_argument_that_the_real_call_takes_is_taken(ours: Any, theirs: Any) -> None:
    known, needed = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    ordered = [name for name, p in needed.items() if p.default is inspect.Parameter.empty]
    assert open_ended or set(needed) <= set(known)
    assert [
        name for name, p in known.items() if p.default is inspect.Parameter.empty and p.kind is not p.VAR_KEYWORD
    ] == ordered
