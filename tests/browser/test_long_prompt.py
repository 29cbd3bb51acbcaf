"""A prompt of 2,000 tokens, run by a real kernel on a model with a context of 2,048 and shown in a real JupyterLab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator

from tests.browser.harness import Chromium, Lab, Notebook

PICTURES = Path(__file__).resolve().parents[2] / "build" / "pictures"
TOKENS = 2000
CELLS = [
    """
import random, resource, torch
import interp_widgets as iw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

words = ("the of and to in that was with his they but not which when there were out them been would who has more her two "
         "about if then could time these may like other into only over some also people work life still <b>bold</b> שלום "
         "مرحبا 日本語 👍🏽 café naïve &amp; counter-revolutionaries antidisestablishmentarianism . , ; —").split()
core = Tokenizer(models.WordLevel({"<unk>": 0, **{word: i for i, word in enumerate(words, 1)}}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=len(words) + 1, n_positions=2048, n_layer=3, n_embd=128, n_head=4, initializer_range=0.08,
    bos_token_id=None, eos_token_id=None)).eval()
prompt = " ".join(random.Random(0).choices(words, k=2000))
session = iw.open(model, tokenizer)
session.ask(prompt, target="the", foil="of")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = iw.TokenAttribution(session, steps=256); tokens
""",
]
# When the first message with scores reaches the page, when a token first has one, and when that was painted.
WATCH = """() => {
    const seen = window.__iw = {arrived: 0, scored: 0, painted: 0, long: [], drawn: 0};
    const data = Object.getOwnPropertyDescriptor(MessageEvent.prototype, 'data');
    const decoder = new TextDecoder();
    Object.defineProperty(MessageEvent.prototype, 'data', {...data, get() {
        const value = data.get.call(this);
        if (!seen.arrived && value instanceof ArrayBuffer && this.target instanceof WebSocket &&
            decoder.decode(value).includes('"method":"gradient_x_input"'.replace(':', ': '))) seen.arrived = performance.now();
        return value;
    }});
    new PerformanceObserver((list) => {
        for (const task of list.getEntries()) seen.long.push([task.startTime, task.duration]);
    }).observe({type: 'longtask'});
    const look = () => {
        if (!seen.scored && document.querySelector('[data-widget="TokenAttribution"] [data-score]')) {
            seen.scored = performance.now();
            requestAnimationFrame(() => requestAnimationFrame(() => { seen.painted = performance.now(); }));
        }
    };
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributeFilter: ['data-score']});
}"""
# Scrolls the strip from its first line to its last, and tells how long each step took to paint and how far apart frames came.
SCROLL = """async () => {
    const strip = document.querySelector('[data-widget="TokenAttribution"] [aria-label="prompt"].iw-tokens');
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const times = [], counts = [], work = [];
    let last = await frame();
    for (let top = 0; top <= strip.scrollHeight; top += 120) {
        const start = performance.now();
        strip.scrollTop = top;
        strip.dispatchEvent(new Event('scroll'));
        strip.offsetHeight;
        work.push(performance.now() - start);
        const now = await frame();
        times.push(now - last);
        last = now;
        counts.push(strip.querySelectorAll('[data-token]').length);
    }
    const tokens = [...strip.querySelectorAll('[data-token]')].map((one) => Number(one.dataset.token));
    for (const list of [times, work]) list.sort((a, b) => a - b);
    const middle = (list) => list[list.length >> 1];
    return {work: middle(work), median: middle(times), worst: times.at(-1), most: Math.max(...counts), last: tokens.at(-1)};
}"""

# How many tokens of the prompt are inside the strip's own box.
IN_SIGHT = """() => {
    const strip = document.querySelector('[data-widget="TokenAttribution"] [aria-label="prompt"].iw-tokens');
    const box = strip.getBoundingClientRect();
    const inside = (one) => one.getBoundingClientRect().bottom > box.top && one.getBoundingClientRect().top < box.bottom;
    return [...strip.querySelectorAll('[data-token]')].filter(inside).length;
}"""


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1400, height=2600) as opened:
        opened.page.evaluate(WATCH)
        opened.run_all(240)
        view(opened).locator("[data-score]").first.wait_for(timeout=120_000)
        opened.wait("() => window.__iw.painted > 0", "a painted frame")
        yield opened


def view(notebook: Notebook) -> Locator:
    return notebook.page.locator('.iw-root[data-widget="TokenAttribution"]').first


def calm(notebook: Notebook, seconds: float = 240) -> None:
    notebook.wait(
        "() => [...document.querySelectorAll('.iw-root')].every(n => n.getAttribute('aria-busy') === 'false')",
        "calm",
        seconds,
    )


def told(notebook: Notebook, code: str) -> Any:
    """What an expression is in the kernel."""
    out = notebook.run(f"import json; print(json.dumps({code}))")
    return json.loads("".join(one["text"] for one in out if one["output_type"] == "stream"))


def test_the_first_scores_are_painted_within_a_second_of_their_arrival(notebook: Notebook) -> None:
    seen = notebook.page.evaluate("() => window.__iw")
    assert seen["arrived"] > 0
    first = seen["painted"] - seen["arrived"]
    print(
        f"first paint {first:.0f} ms after the scores came; longest task {max([d for _, d in seen['long']] or [0]):.0f} ms"
    )
    assert first < 1000
    assert view(notebook).locator('[aria-label="prompt"] [data-token]').count() < 400


def test_scrolling_shows_every_token_and_stays_smooth(notebook: Notebook) -> None:
    found = notebook.page.evaluate(SCROLL)
    frames = f"frames {found['median']:.0f} ms apart, {found['worst']:.0f} at most"
    print(f"a step of scrolling takes {found['work']:.1f} ms; {frames}; {found['most']} tokens in the page")
    assert found["last"] == TOKENS - 1
    assert found["most"] < 400
    assert found["work"] < 16.7  # what a frame has; how far apart frames come also hangs on what else the machine does


def test_a_finer_method_asks_before_it_takes_long(notebook: Notebook) -> None:
    tokens = view(notebook)
    go = tokens.get_by_role("button", name="Compute (about")
    go.first.wait_for(timeout=60_000)
    assert "takes long on this prompt" in tokens.inner_text()
    assert tokens.locator("[data-score]").count() > 0


@pytest.mark.timeout(480)
def test_the_whole_of_it_is_usable_by_a_rough_method_within_the_memory_that_was_promised(notebook: Notebook) -> None:
    tokens = view(notebook)
    tokens.get_by_role("button", name="Gradient × input", exact=True).first.click()
    threshold = tokens.locator("input.iw-threshold")
    threshold.wait_for(timeout=240_000)
    tokens.get_by_role("button", name="Write an answer").click()
    answer = tokens.get_by_role("list", name="answer", exact=True)
    answer.locator("[data-score]").first.wait_for(timeout=240_000)
    calm(notebook)
    threshold.focus()
    for _ in range(3):
        notebook.page.keyboard.press("ArrowRight")
    notebook.wait("() => Number(document.querySelector('[data-iw=\"deleted\"]').dataset.count) > 1", "tokens gone", 10)
    canvas = tokens.locator(".iw-heatmap canvas").first
    assert canvas.evaluate("(one) => [one.width, one.height]") == [TOKENS + 7, 8]
    assert tokens.locator("[data-token]").count() < 900
    tokens.get_by_role("list", name="prompt of the answer").locator('[data-token="5"]').click()
    grown = told(notebook, "(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024")
    print(f"the kernel grew by {grown:.0f} MB at most; the budget of a batch is 512 MB")
    assert grown < 512 + 256
    assert notebook.page.evaluate(IN_SIGHT) > 20
    for theme in ("dark", "light"):
        notebook.theme(theme)
        notebook.screenshot(PICTURES / f"long_prompt_{theme}.png", '[data-widget="TokenAttribution"]')
