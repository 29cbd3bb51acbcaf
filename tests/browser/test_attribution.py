"""Token attribution in a real JupyterLab: linked with the grid of heads, and over whole answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.harness import PICTURES, Chromium, Lab, Notebook

CELLS = [
    (
        "import interp_widgets as iw, numpy as np\n"
        "session = iw.open()\n"
        'session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")\n'
        'tokens = iw.TokenAttribution(session, method="occlusion"); tokens'
    ),
    "heads = iw.HeadAblation(session); heads",
]


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1400, height=3200) as opened:
        opened.run_all()
        for name in ("TokenAttribution", "HeadAblation"):
            opened.view(name).wait_for(timeout=60_000)
        opened.calm(120)
        yield opened


def test_a_head_that_carried_a_token_is_switched_off_in_the_linked_grid(notebook: Notebook) -> None:
    tokens, heads = notebook.view("TokenAttribution"), notebook.view("HeadAblation")
    tokens.locator('[data-token="2"]').first.click()
    carrier = tokens.locator('[data-iw="carriers"] [data-site]').first
    site = carrier.get_attribute("data-site")
    carrier.click()
    heads.locator(f'button[aria-label="{site}"][aria-pressed="true"]').wait_for(timeout=20_000)
    tokens.locator(".iw-honest", has_text="edited run").first.wait_for(timeout=120_000)
    notebook.calm(120)
    carrier.click()
    heads.locator(f'button[aria-label="{site}"][aria-pressed="false"]').wait_for(timeout=20_000)
    notebook.calm(120)


def test_a_whole_answer_is_written_and_a_click_on_its_token_recolours_what_came_before(notebook: Notebook) -> None:
    tokens = notebook.view("TokenAttribution")
    tokens.get_by_role("button", name="Write an answer").click()
    written = tokens.get_by_role("list", name="answer", exact=True)
    written.locator("[data-token]").first.wait_for(timeout=60_000)
    notebook.calm(120)
    before = tokens.get_by_role("list", name="prompt of the answer")
    scores = [one.get_attribute("data-score") for one in before.locator("[data-token]").all()]
    last = written.locator("[data-token]").last
    last.click()
    after = [one.get_attribute("data-score") for one in before.locator("[data-token]").all()]
    assert before.locator("[data-score]").count() == len(after)
    assert scores != after
    notebook.theme("dark")
    notebook.screenshot(PICTURES / "token_attribution_dark.png", '[data-widget="TokenAttribution"]')
    notebook.theme("light")


def test_the_threshold_of_the_deletion_test_moves_by_keyboard_and_shows_what_was_measured_there(
    notebook: Notebook,
) -> None:
    tokens = notebook.view("TokenAttribution")
    threshold, result = tokens.locator("input.iw-threshold"), tokens.locator('[data-iw="deleted"]')
    threshold.focus()
    plain = result.get_attribute("data-value")
    for count in (1, 2, 3):
        notebook.page.keyboard.press("ArrowRight")
        notebook.wait(
            f"() => document.querySelector('[data-iw=\"deleted\"]').dataset.count === '{count}'", f"{count} gone", 10
        )
    assert result.get_attribute("data-value") != plain
    notebook.page.keyboard.press("Home")
    notebook.wait("() => document.querySelector('[data-iw=\"deleted\"]').dataset.count === '0'", "whole again", 10)
    assert result.get_attribute("data-value") == plain


def test_enter_in_a_field_does_what_leaving_it_does_though_the_notebook_keeps_the_key(notebook: Notebook) -> None:
    tokens, heads, keyboard = notebook.view("TokenAttribution"), notebook.view("HeadAblation"), notebook.page.keyboard
    tokens.get_by_label("Scores by").select_option("Regular expression")
    field = tokens.get_by_label("regular expression")
    field.click()
    keyboard.type(" (Mary|John)")
    keyboard.press("Enter")
    tokens.get_by_text("3 matches").wait_for(timeout=10_000)
    scored = "document.querySelectorAll('[data-widget=TokenAttribution] [aria-label=prompt] [data-score]')"
    notebook.wait(f"() => {scored}.length === 3", "the scores of the matches alone", 10)
    for theme in ("dark", "light"):
        notebook.theme(theme)
        notebook.screenshot(PICTURES / f"regular_expression_{theme}.png", '[data-widget="TokenAttribution"]')
    keyboard.press("Control+a")
    keyboard.type("(Mary")
    keyboard.press("Enter")
    alert = tokens.get_by_role("alert").filter(has_text="(Mary")
    alert.wait_for(timeout=10_000)
    assert field.input_value() == "(Mary"
    tokens.get_by_label("Scores by").select_option("Token")
    heads.get_by_role("button", name="resample").click()
    draws = heads.get_by_label("draws")
    draws.click()
    keyboard.press("Control+a")
    keyboard.type("3")
    keyboard.press("Enter")
    notebook.calm(120)
    assert notebook.value("heads.draws") == "3"
    notebook.value("session.set_mode('mean')")
    notebook.calm(120)
