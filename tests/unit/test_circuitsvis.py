"""CircuitsVis's calls: the signatures that courses use, and what reaches the page."""

from __future__ import annotations

import base64
import json
import re
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
        return {k: back(v) for k, v in value.items()} if isinstance(value, dict) else value

    return back(data)


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
    data = panel(scene(drawing)["messages"][1])
    assert [t["text"] for t in data["tokens"]] == TOKENS
    assert [t["kind"] for t in data["tokens"]] == ["special", "text", "text", "text", "special"]
    assert data["values"].tolist() == [0.0, -2.0, 1.0, 0.5, 3.0]
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
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(iw.InterpError, match=words):
        call()


def test_one_head_and_its_pattern_need_no_names() -> None:
    data = panel(scene(cv.attention.attention_pattern(TOKENS, CAUSAL[0], show_axis_labels=False))["messages"][1])
    assert data["heads"] == [1]


def test_a_page_needs_no_network() -> None:
    page = cv.attention_patterns(TOKENS, CAUSAL).show_code()
    addresses = set(re.findall(r"https?://[^\s\"'\\)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
