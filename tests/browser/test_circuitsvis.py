"""CircuitsVis's calls in a real JupyterLab: the frame takes the height of what is in it, and follows the theme."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.harness import PICTURES, Chromium, Lab, Notebook

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
    (
        "neurons = np.random.default_rng(1).normal(size=(8, 3, 300)).astype('float32')\n"
        "cv.activations.text_neuron_activations(tokens=words, activations=neurons)"
    ),
    (
        "cv.topk_tokens.topk_tokens(tokens=[words], activations=neurons.transpose(1, 0, 2)[None], max_k=4,\n"
        "    first_dimension_name='Layer', third_dimension_name='Neuron', first_dimension_labels=list(range(3)))"
    ),
]
FRAMES = """() => [...document.querySelectorAll('iframe')].slice(0, 2).map((frame) => {
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
  return frames.length === 4 && frames.slice(0, 2).every((frame) => frame.contentDocument?.querySelectorAll('[data-token]').length === 8);
}"""


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1400, height=2600) as opened:
        opened.run_all()
        opened.wait(READY, "the drawings", 60)
        yield opened


def test_drawings_take_the_height_they_need_and_follow_the_theme_of_their_page(notebook: Notebook) -> None:
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


def test_neurons_are_chosen_by_layer_and_number_and_the_largest_are_listed(notebook: Notebook) -> None:
    one, two = (notebook.page.frame_locator("iframe").nth(n) for n in (2, 3))
    one.get_by_label("Layer").select_option("2")
    one.get_by_label("Neuron").fill("271")
    one.locator('[data-token="5"]').hover()
    said = one.locator('[data-iw="fixed"]').inner_text()
    value = float(notebook.value("float(neurons[5, 2, 271])"))
    assert said == f"␣the (position 5): {value:+.4f} · Layer 2, Neuron 271".replace("-", "−")
    two.get_by_label("Layer").select_option("1")
    for _ in range(3):
        two.get_by_role("button", name="Next ›").click()
    largest = two.locator("table").first.locator("tbody tr").first.locator("td").nth(1)
    assert largest.inner_text().split()[-1] == f"{float(notebook.value('float(neurons[:, 1, 19].max())')):.3f}"
    assert two.locator("thead th").nth(2).inner_text() == "Neuron 19"
    notebook.screenshot(PICTURES / "circuitsvis-course.png")
