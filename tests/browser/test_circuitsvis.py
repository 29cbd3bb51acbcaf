"""CircuitsVis's calls in a real JupyterLab: the frame takes the height of what is in it, and follows the theme."""

from __future__ import annotations

from tests.browser.harness import PICTURES, Chromium, Lab

CELLS = [
    (
        "import numpy as np\n"
        "from interp_widgets.interop import circuitsvis as cv\n"
        "words = ['<|endoftext|>', 'The', ' cat', ' sat', ' on', ' the', ' cat', '\\n']\n"
        "weights = np.tril(np.random.default_rng(0).random((4, 8, 8)))\n"
        "weights /= weights.sum(-1, keepdims=True)\n"
        "cv.attention.attention_patterns(tokens=words, attention=weights, attention_head_names=['a', 'b', 'c', 'd'])"
    ),
    "cv.tokens.colored_tokens(words, np.linspace(-1, 1, 8))",
]
FRAMES = """() => [...document.querySelectorAll('iframe')].map((frame) => {
  const page = frame.contentDocument;
  return {
    height: frame.getBoundingClientRect().height, content: page.body.scrollHeight,
    theme: page.documentElement.className, dark: page.querySelector('.iw-root.iw-dark') !== null,
    thumbs: page.querySelectorAll('button.iw-thumb').length,
    tokens: [...page.querySelectorAll('[data-token]')].map((token) => token.innerText.replace('▲', '')),
  };
})"""
READY = """() => {
  const frames = [...document.querySelectorAll('iframe')];
  return frames.length === 2 && frames.every((frame) => frame.contentDocument?.querySelectorAll('[data-token]').length === 8);
}"""


def test_drawings_take_the_height_they_need_and_follow_the_theme_of_their_page(lab: Lab, chromium: Chromium) -> None:
    with chromium.open(lab, CELLS, width=1400, height=1800) as notebook:
        notebook.run_all()
        notebook.wait(READY, "two drawings", 60)
        for theme in ("dark", "light"):
            notebook.theme(theme)
            is_dark = str(theme == "dark").lower()
            notebook.wait(
                f"() => [...document.querySelectorAll('iframe')].every((frame) => "
                f"(frame.contentDocument.querySelector('.iw-root.iw-dark') !== null) === {is_dark})",
                f"{theme} drawings",
            )
            patterns, tokens = notebook.page.evaluate(FRAMES)
            assert patterns["thumbs"] == 4
            assert "↵" in tokens["tokens"][-1], "a line break is shown"
            for drawing in (patterns, tokens):
                assert theme in drawing["theme"].split()
                assert abs(drawing["height"] - drawing["content"]) <= 4, "nothing is cut off, and nothing is left empty"
            notebook.screenshot(PICTURES / f"circuitsvis-{theme}.png")
