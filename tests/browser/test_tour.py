"""The tour as a user meets it: run all cells, click, drag, type nonsense; every number against a plain torch hook."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator

from tests.browser.harness import PICTURES, Chromium, Lab, Notebook

TOUR = Path(__file__).resolve().parents[2] / "examples" / "tour.ipynb"

# On a copy: what the views compute meanwhile, on the model itself, would call these hooks too.
PLAIN_HOOK = """
import copy, json, torch
module = copy.deepcopy(session.model.module)
def plain_hook(layer, head, values):
    width = module.config.n_embd // module.config.n_head
    def hook(_module, args):
        x = args[0].clone()
        x[..., head * width : (head + 1) * width] = values
        return (x,)
    handle = module.transformer.h[layer].attn.c_proj.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            logits = module(torch.tensor([session.question.first.ids])).logits[0, -1]
    finally:
        handle.remove()
    return float(logits[session.question.first.target[0].id] - logits[session.question.first.foil[0].id])
def reference_mean(layer, head):
    rows = []
    width = module.config.n_embd // module.config.n_head
    for prompt in session.reference.prompts:
        seen = []
        handle = module.transformer.h[layer].attn.c_proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        with torch.no_grad():
            module(torch.tensor([session.model.tokenizer(prompt)["input_ids"]]))
        handle.remove()
        rows.append(seen[0][0][:, head * width : (head + 1) * width])
    return torch.cat(rows).mean(0)
"""


@pytest.fixture(scope="module")
def tour(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, TOUR, width=1400, height=2400) as notebook:
        notebook.run_all()
        for name in ("TokenAttribution", "HeadAblation", "SteeringSliders"):
            notebook.view(name).wait_for(timeout=20_000)
        notebook.calm()
        yield notebook
        notebook.run("session.close(); film.close()")
        left = notebook.value(
            "from interp_widgets.model.gate import after_hook, before_hook\n"
            "sum(h in (before_hook, after_hook) for m in session.model.module.modules() "
            "for t in (m._forward_hooks, m._forward_pre_hooks) for h in t.values())",
        )
        assert left == "0", "hooks of ours stayed on the model"


def moved(notebook: Notebook, before: float, name: str = "HeadAblation") -> float:
    notebook.wait(
        f"() => Number(document.querySelector('[data-widget=\"{name}\"] [data-iw=metric]').dataset.value) !== {before!r}",
        "another metric",
    )
    notebook.calm()
    return notebook.metric(name)


def value(notebook: Notebook, code: str) -> float:
    return float(json.loads(notebook.value(code)))


def test_the_head_that_matters_most_is_worth_what_a_plain_hook_says_and_comes_back_exactly(tour: Notebook) -> None:
    tour.run(PLAIN_HOOK)
    best = tour.value(
        "import numpy as np\n"
        "e = iw.head_effects(session).effects\n"
        "[int(i) for i in np.unravel_index(np.nanargmax(e), e.shape)]"
    )
    layer, head = json.loads(best)
    plain = tour.metric("HeadAblation")
    assert plain == pytest.approx(value(tour, "session.answer.plain_metric"), abs=1e-6)
    scores = [t.get_attribute("data-score") for t in tour.view("TokenAttribution").locator("[data-token]").all()]
    button = tour.view("HeadAblation").get_by_role("button", name=f"L{layer}H{head}", exact=True)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    edited = moved(tour, plain)
    assert button.get_attribute("aria-pressed") == "true"
    assert edited == pytest.approx(
        value(tour, f"plain_hook({layer}, {head}, reference_mean({layer}, {head}))"), abs=1e-4
    )
    assert abs(edited - plain) > 0.5
    receipt = tour.view("HeadAblation").locator('[data-iw="receipt"]').first
    assert receipt.get_attribute("data-state") == "acted"
    tour.calm()
    after = [t.get_attribute("data-score") for t in tour.view("TokenAttribution").locator("[data-token]").all()]
    assert after != scores, "the attribution above did not follow"
    assert tour.metric("TokenAttribution") == edited
    tour.screenshot(PICTURES / "head_ablation.png", '[data-widget="HeadAblation"]')
    tour.screenshot(PICTURES / "token_attribution.png", '[data-widget="TokenAttribution"]')
    button.click()
    assert moved(tour, edited) == plain, "switching the head on again did not restore the number"
    tour.calm()
    again = [t.get_attribute("data-score") for t in tour.view("TokenAttribution").locator("[data-token]").all()]
    assert again == scores


def test_dragging_to_one_and_back_to_zero_restores_the_number_exactly(tour: Notebook) -> None:
    name = "SteeringSliders"
    plain = tour.metric(name)
    text = tour.view(name).locator('[data-iw="edited-text"]').inner_text()
    slider = tour.view(name).get_by_role("slider", name="sentiment")
    drag(tour, slider, 1.0)
    pushed = moved(tour, plain, name)
    assert pushed == pytest.approx(value(tour, "film.answer.metric"), abs=1e-6)
    assert pushed > plain + 0.2
    tour.wait("() => document.querySelector('[data-iw=edited-text]').innerText.length > 3", "a continuation")
    tour.screenshot(PICTURES / "steering_sliders.png", f'[data-widget="{name}"]')
    drag(tour, slider, 0.0)
    assert moved(tour, pushed, name) == plain
    assert tour.view(name).locator('[data-iw="edited-text"]').inner_text() == text


def test_three_hundred_moves_end_on_the_last_value_within_a_second(tour: Notebook) -> None:
    name = "SteeringSliders"
    before = tour.metric(name)
    slider = tour.view(name).get_by_role("slider", name="sentiment")
    slider.evaluate(
        """async (input) => {
            for (let i = 1; i <= 300; i++) {
                input.value = String(Math.sin(i / 17) * 1.5);
                input.dispatchEvent(new Event("input", { bubbles: true }));
                await new Promise((done) => setTimeout(done, 5));
            }
            input.value = "0.8";
            input.dispatchEvent(new Event("input", { bubbles: true }));
            input.dispatchEvent(new Event("change", { bubbles: true }));
            window.lastMove = performance.now();
        }"""
    )
    start = time.monotonic()
    while value(tour, "film.interventions[0].coefficient") != 0.8:  # its last move may still be on its way
        assert time.monotonic() - start < 3.0
    expected = value(tour, "film.compute(film.snapshot()).metric")
    tour.wait(
        f"() => Math.abs(Number(document.querySelector('[data-widget=\"{name}\"] [data-iw=metric]').dataset.value) - {expected!r}) < 1e-9",
        "the last value painted",
        5,
    )
    print(f"flood: painted {time.monotonic() - start:.2f} s after the last of 300 moves, a cell's run included")
    assert value(tour, "film.interventions[0].coefficient") == pytest.approx(0.8)
    assert time.monotonic() - start < 3.0
    drag(tour, slider, 0.0)
    tour.calm()
    assert tour.metric(name) == before


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("prompt", "", "empty"),
        ("target", " Mary John", "2 tokens"),
        ("target", "qzxv", "tokens"),
        ("prompt", "the house " * 200, "context holds"),
    ],
    ids=["an empty prompt", "a target of two tokens", "a target that is no token", "a prompt over the context"],
)
def test_bad_input_answers_with_a_sentence_and_loses_nothing(tour: Notebook, field: str, text: str, words: str) -> None:
    before = tour.metric("HeadAblation")
    root = tour.view("HeadAblation")
    root.get_by_role("button", name="Edit question").click()
    box = root.get_by_label(field, exact=False).first
    box.fill(text)
    root.get_by_role("button", name="Ask", exact=True).click()
    alert = root.locator('[role="alert"]').filter(has_text=words).first
    alert.wait_for(timeout=10_000)
    assert box.input_value() == text, "what was typed is gone"
    assert tour.metric("HeadAblation") == before
    root.get_by_role("button", name="Cancel").click()


def test_a_head_that_does_not_exist_and_a_strength_that_is_no_number_answer_in_a_sentence(tour: Notebook) -> None:
    name = "SteeringSliders"
    before = tour.metric(name)
    root = tour.view(name)
    box = root.get_by_label("exact strength").first
    box.fill("nan")
    box.press("Enter")
    root.locator('[role="alert"]').filter(visible=True).first.wait_for(timeout=10_000)
    assert tour.metric(name) == before
    error = tour.run("try:\n    session.toggle('L9H9')\nexcept iw.InterpError as e:\n    print(e)")
    assert "L9H9 does not exist" in str(error)


def test_both_themes_have_their_picture(tour: Notebook) -> None:
    for theme in ("dark", "light"):
        tour.theme(theme)
        assert (tour.lightness() > 128) == (theme == "dark"), "the views kept the other theme's ink"
        for name in ("TokenAttribution", "HeadAblation", "SteeringSliders"):
            tour.screenshot(PICTURES / f"{name}-{theme}.png", f'[data-widget="{name}"]')


def drag(notebook: Notebook, slider: Locator, to: float) -> None:
    """Move the thumb as a hand does: down, a few steps, up."""
    box = slider.bounding_box()
    assert box is not None
    here, low, high = (float(slider.evaluate(f"n => n.{what}")) for what in ("value", "min", "max"))
    thumb = 16.0

    def x(strength: float) -> float:
        return box["x"] + thumb / 2 + (strength - low) / (high - low) * (box["width"] - thumb)

    y = box["y"] + box["height"] / 2
    notebook.page.mouse.move(x(here), y)
    notebook.page.mouse.down()
    for step in range(1, 9):
        notebook.page.mouse.move(x(here + (to - here) * step / 8), y)
    notebook.page.mouse.up()
    slider.evaluate(
        "(n, to) => { n.value = String(to); n.dispatchEvent(new Event('input', {bubbles: true}));"
        " n.dispatchEvent(new Event('change', {bubbles: true})); }",
        to,
    )
