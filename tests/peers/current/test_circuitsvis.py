"""`.to_circuitsvis()` gives CircuitsVis's own object, of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from circuitsvis.utils.render import RenderedHTML

from interp_widgets.interop import circuitsvis as cv

TOKENS = ["<s>", " a", "\n"]
PATTERN = np.tril(np.ones((2, 3, 3), dtype=np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("drawing", "view"),
    [
        (cv.attention_patterns(TOKENS, PATTERN, ["L0H1", "L0H2"]), "AttentionHeads"),
        (cv.attention_heads(PATTERN, TOKENS, max_value=1.0), "AttentionHeads"),
        (cv.colored_tokens(TOKENS, [0.5, -1.0, 0.25], positive_color="blue"), "ColoredTokens"),
    ],
)
def test_the_real_object_is_made_of_the_same_numbers(drawing: cv.Drawing, view: str) -> None:
    theirs = drawing.to_circuitsvis()
    assert isinstance(theirs, RenderedHTML)
    text = str(theirs)
    assert view in text
    assert "0.5" in text
    assert '" a"' in text
