"""CircuitsVis's calls: the signatures that courses use, and what reaches the page."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.interop import circuitsvis as cv

TOKENS = ["<|endoftext|>", "The", " cat", "\n", "</script><b>"]
RNG = np.random.default_rng(0)
WEIGHTS = np.tril(RNG.random((3, 5, 5)))
CAUSAL = (WEIGHTS / WEIGHTS.sum(-1, keepdims=True)).astype(np.float32)


def scene(drawing: cv.Drawing) -> dict[str, Any]:
    page = drawing.show_code()
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def panel(message: dict[str, Any]) -> dict[str, Any]:
    """A message's data with its arrays put back."""
    data: dict[str, Any] = message["content"]["data"]
    buffers = [base64.b64decode(b) for b in message["buffers"]]

    def back(value: Any) -> Any:
        if isinstance(value, dict) and "$array" in value:
            return np.frombuffer(buffers[value["$array"]], dtype=value["dtype"]).reshape(value["shape"])
        if isinstance(value, list):
            return [back(v) for v in value]
        return {k: back(v) for k, v in value.items()} if isinstance(value, dict) else value

    return back(data)


def tokens_of(drawing: cv.Drawing) -> dict[str, Any]:
    """What the view of tokens is told."""
    return panel(scene(drawing)["messages"][1])


@pytest.mark.parametrize("kind", ["list", "numpy", "torch", "batched"])
def test_the_calls_of_courses_draw_the_same_whatever_holds_the_numbers(kind: str) -> None:
    given = {
        "list": CAUSAL.tolist(),
        "numpy": CAUSAL,
        "torch": torch.tensor(CAUSAL, requires_grad=True),
        "batched": torch.tensor(CAUSAL)[None],
    }
    names = ["L0H0", "L0H1", "L5H7"]
    first = cv.attention.attention_patterns(tokens=TOKENS, attention=given[kind], attention_head_names=names)
    second = cv.attention.attention_heads(attention=given[kind], tokens=TOKENS, attention_head_names=names)
    assert scene(first) == scene(second)
    older: Any = (TOKENS, CAUSAL, names)
    assert scene(cv.attention_heads(*older)) == scene(second)
    data = panel(scene(first)["messages"][1])
    assert list(data["names"].values()) == names
    assert np.abs(data["thumbs:0"] / 255 - CAUSAL[:, *np.tril_indices(5)]).max() <= 0.5 / 255 + 1e-6


def test_every_head_is_there_exactly_without_a_kernel() -> None:
    answers = scene(cv.attention_patterns(TOKENS, CAUSAL))["answers"]
    for head in range(3):
        large = panel(answers[f'{{"action":"head","layer":0,"head":{head}}}'])["large"]
        assert np.array_equal(large["values"], CAUSAL[head][np.tril_indices(5)])


def test_what_looks_ahead_is_shown_unless_it_is_masked() -> None:
    both = RNG.random((2, 5, 5)).astype(np.float32)
    data = panel(scene(cv.attention_heads(both, TOKENS))["messages"][1])
    assert data["square"] is True
    assert np.array_equal(data["large"]["values"].reshape(5, 5), both[0])
    assert panel(scene(cv.attention_heads(both, TOKENS, mask_upper_tri=True))["messages"][1])["square"] is False


def test_negative_values_are_signed_and_limits_are_taken() -> None:
    difference = CAUSAL - CAUSAL[::-1]
    data = panel(scene(cv.attention_heads(difference, TOKENS, max_value=0.5, min_value=-2))["messages"][1])
    assert data["signed"] is True
    assert data["limit"] == 2


def test_tokens_keep_their_text_whatever_it_is_and_cannot_break_the_page() -> None:
    drawing = cv.tokens.colored_tokens(TOKENS, [0.0, -2.0, 1, 0.5, 3])
    page = drawing.show_code()
    data = tokens_of(drawing)["samples"][0]
    assert [t["text"] for t in data["tokens"]] == TOKENS
    assert [t["kind"] for t in data["tokens"]] == ["special", "text", "text", "text", "special"]
    assert data["values"][0, 0].tolist() == [0.0, -2.0, 1.0, 0.5, 3.0]
    assert "</script><b>" not in page
    frame = drawing._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert frame.count('"') == 6, "the page must not leave its frame"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cv.attention_patterns(TOKENS[:2], CAUSAL), "there are 2 tokens"),
        (lambda: cv.attention_patterns(TOKENS, CAUSAL, ["a"]), "3 heads and 1 names"),
        (lambda: cv.attention_patterns(TOKENS, CAUSAL[0, 0]), "must be"),
        (lambda: cv.attention_patterns(TOKENS, CAUSAL * np.nan), "not finite"),
        (lambda: cv.attention_patterns(5, CAUSAL), "list of texts"),  # pyright: ignore[reportArgumentType]
        (lambda: cv.colored_tokens(TOKENS, [1.0]), "5 tokens and 1 values"),
        (lambda: cv.colored_tokens(TOKENS, list("abcde")), "no array of numbers"),
        (lambda: cv.colored_tokens_multi(TOKENS, np.zeros((4, 2))), "4 x 2, but there are 5 tokens"),
        (lambda: cv.colored_tokens_multi(TOKENS, np.zeros((5, 2)), ["a"]), "2 places and 1 labels"),
        (lambda: cv.text_neuron_activations(TOKENS, np.zeros((5, 2))), r"5 x 2, .* must be \[token, layer, neuron\]"),
        (lambda: cv.text_neuron_activations([TOKENS], []), "1 texts and 0 arrays"),
        (
            lambda: cv.text_neuron_activations([TOKENS] * 2, [np.zeros((5, 2, 3)), np.zeros((5, 2, 4))]),
            "differ in shape",
        ),
        (lambda: cv.token_log_probs([0, 1], np.zeros((3, 4)), str), "3 x 4, but there are 2 tokens"),
        (lambda: cv.token_log_probs([0, 9], np.zeros((2, 4)), str), "outside the 4"),
        (lambda: cv.topk_tokens.topk_tokens(TOKENS, np.zeros((1, 2, 5, 3))), "a list with one list"),  # pyright: ignore[reportArgumentType]
        (lambda: cv.topk_tokens.topk_tokens([TOKENS], np.zeros((1, 5, 2, 3))), "5 x 2 x 3, but there are 5 tokens"),
        (lambda: cv.visualize_model_performance([0, 1], ["a"], np.zeros((2, 4))), "2 tokens and 1 texts"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(iw.InterpError, match=words):
        call()


def test_importing_the_package_is_enough_to_name_it() -> None:
    code = (
        "import sys, interp_widgets as iw; assert 'interp_widgets.interop' not in sys.modules;"
        "print(iw.interop.circuitsvis.attention.attention_heads.__name__, iw.interop.saes.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["attention_heads", "interp_widgets.interop.saes"]
    with pytest.raises(AttributeError, match="no attribute 'bertviz'"):
        _ = iw.interop.bertviz  # pyright: ignore[reportAttributeAccessIssue]


def test_one_head_and_its_pattern_need_no_names() -> None:
    data = panel(scene(cv.attention.attention_pattern(TOKENS, CAUSAL[0], show_axis_labels=False))["messages"][1])
    assert data["heads"] == [1]


def test_a_page_needs_no_network() -> None:
    page = cv.attention_patterns(TOKENS, CAUSAL).show_code()
    addresses = set(re.findall(r"https?://[^\s\"'\\)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}


# ---- the other calls of courses: many values a token, neurons, log probabilities, the largest of a sample -------------------


def test_several_values_a_token_keep_their_labels() -> None:
    values = torch.tensor(RNG.normal(size=(5, 3)), dtype=torch.float32)
    data = tokens_of(cv.tokens.colored_tokens_multi(TOKENS, values, labels=["mean", "zero", "edge"]))
    assert np.array_equal(data["samples"][0]["values"], values.numpy().T[None])
    assert data["axes"][1] == {"name": "Value", "size": 3, "labels": ["mean", "zero", "edge"]}


@pytest.mark.parametrize("kind", ["one text", "several texts"])
def test_neurons_of_every_layer_are_found_under_their_own_layer_and_neuron(kind: str) -> None:
    activations = RNG.normal(size=(5, 2, 4)).astype(np.float32)
    shorter = activations[:3] + 1
    if kind == "one text":
        drawing = cv.activations.text_neuron_activations(tokens=TOKENS, activations=torch.tensor(activations))
    else:
        drawing = cv.activations.text_neuron_activations(
            [TOKENS, TOKENS[:3]], [activations, shorter], second_dimension_name="Head", first_dimension_labels=[0, 1]
        )
    data = tokens_of(drawing)
    assert [(a["name"], a["size"]) for a in data["axes"]] == [
        ("Layer", 2),
        ("Neuron" if kind == "one text" else "Head", 4),
    ]
    for sample, given in zip(data["samples"], [activations, shorter], strict=False):
        assert sample["coarse"] is False
        assert np.array_equal(sample["values"], given.transpose(1, 2, 0))


def test_very_many_neurons_travel_as_halves_and_say_so() -> None:
    activations = RNG.normal(size=(5, 12, 17_000)).astype(np.float32)
    sample = tokens_of(cv.text_neuron_activations(TOKENS, activations))["samples"][0]
    assert sample["coarse"] is True
    assert sample["values"].dtype == np.float16
    np.testing.assert_allclose(sample["values"], activations.transpose(1, 2, 0), rtol=5e-4, atol=1e-7)


def test_log_probabilities_are_read_at_the_token_they_predict_with_its_rank_and_what_was_likeliest() -> None:
    ids = torch.tensor([[3, 1, 4, 1]])
    log_probs = torch.tensor(RNG.normal(size=(1, 4, 6))).log_softmax(-1)
    drawing = cv.logits.token_log_probs(ids, log_probs, lambda i: f"t{i}", top_k=3)
    data = tokens_of(drawing)
    sample, guesses = data["samples"][0], data["guesses"]
    assert [t["text"] for t in sample["tokens"]] == ["t3", "t1", "t4", "t1"]
    assert np.isnan(sample["values"][0, 0, 0]), "the first token is not predicted"
    for at in (1, 2, 3):
        row, own = log_probs[0, at - 1], int(ids[0, at])
        assert sample["values"][0, 0, at] == pytest.approx(float(row[own]), abs=1e-6)
        assert guesses["ranks"][at] == int((row > row[own]).sum()) + 1
        assert guesses["tokens"][at] == [f"t{int(i)}" for i in row.topk(3).indices]
        assert guesses["values"][at] == pytest.approx(row.topk(3).values.numpy(), abs=1e-6)


def test_a_token_that_cannot_come_has_a_log_probability_of_minus_infinity() -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    data = tokens_of(cv.token_log_probs([0, 2], log_probs, str))
    assert data["samples"][0]["values"][0, 0, 1] == -np.inf
    assert data["guesses"]["ranks"][1] == 3


def test_the_largest_and_the_smallest_of_every_neuron_are_those_of_a_sort() -> None:
    activations = RNG.normal(size=(1, 2, 5, 4)).astype(np.float32)
    drawing = cv.topk_tokens.topk_tokens(
        tokens=[TOKENS], activations=activations, max_k=3, first_dimension_name="Layer", third_dimension_name="Neuron",
        first_dimension_labels=list(range(2)),
    )  # fmt: skip
    high, low = tokens_of(drawing)["samples"][0]["extremes"]
    for layer, neuron in np.ndindex(2, 4):
        order = np.argsort(activations[0, layer, :, neuron])
        assert high["tokens"][layer, :, neuron].tolist() == order[::-1][:3].tolist()
        assert low["tokens"][layer, :, neuron].tolist() == order[:3].tolist()
        assert np.array_equal(high["values"][layer, :, neuron], activations[0, layer, order[::-1][:3], neuron])
    assert tokens_of(cv.topk_tokens.topk_tokens([TOKENS], activations, max_k=99))["samples"][0]["extremes"][0][
        "values"
    ].shape == (2, 5, 4)


def test_how_well_each_token_is_predicted_is_its_logit_log_probability_and_probability() -> None:
    ids, logits = torch.tensor([[3, 1, 4]]), torch.tensor(RNG.normal(size=(1, 3, 6)))
    data = tokens_of(cv.tokens.visualize_model_performance(ids, ["a", "b", "c"], logits))
    assert [t["text"] for t in data["samples"][0]["tokens"]] == ["b", "c"]
    for at, own in enumerate((1, 4)):
        row = logits[0, at]
        expected = [row[own], row.log_softmax(-1)[own], row.softmax(-1)[own]]
        assert data["samples"][0]["values"][0, :, at] == pytest.approx([float(x) for x in expected], abs=1e-6)
