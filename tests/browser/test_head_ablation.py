"""HeadAblation in a browser: the pointer is answered without the kernel, and thousands of heads stay usable."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator

import pytest

from tests.browser.harness import PICTURES, Chromium, Lab, Notebook
from tests.browser.yardstick import Yardstick

CELL = """
import interp_widgets as iw
from tests.unit import tiny_models
model = tiny_models.gpt2(n_layer={layers}, n_head={heads}, n_embd={width}, n_positions=512)
session = iw.open(model, tiny_models.tokenizer())
session.ask(" ".join("w" + str(3 + i % 40) for i in range({tokens})), target="w11", foil="w13")
view = iw.HeadAblation(session, mode="zero")
view
"""
HOVER = """async () => {
  const root = document.querySelector('.iw-root[data-widget="HeadAblation"]');
  const grid = root.querySelector('.iw-grid-frame').firstElementChild;
  const line = root.querySelector('[data-iw="fixed"]');
  const box = (grid.querySelector('canvas') ?? grid).getBoundingClientRect();
  const frame = () => new Promise(requestAnimationFrame);
  const took = [];
  let answered = 0;
  for (let step = 0; step < 40; step += 1) {
    await frame();
    const before = line.textContent;
    const where = {
      clientX: box.x + box.width * (0.2 + 0.6 * ((step * 7) % 40) / 40),
      clientY: box.y + box.height * (0.2 + 0.6 * ((step * 11) % 40) / 40),
    };
    const start = performance.now();
    grid.dispatchEvent(new PointerEvent('pointermove', { ...where, bubbles: true }));
    const changed = line.textContent !== before;
    root.getBoundingClientRect();   // what the frame costs: styles and layout, at once
    took.push(performance.now() - start);
    answered += changed ? 1 : 0;
  }
  return { took, answered };
}"""
FRAMES = """async () => {
  const root = document.querySelector('.iw-root[data-widget="HeadAblation"]');
  const select = root.querySelector('select[aria-label="read"]');
  const took = [];
  for (const value of ['probability', 'rank', 'KL', 'metric', 'probability', 'metric']) {
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    select.value = value;
    select.dispatchEvent(new Event('change', { bubbles: true }));
    root.getBoundingClientRect();
    took.push(performance.now() - start);
  }
  return took;
}"""


# A click while a sweep runs; [whole, the kernel's own ms for the answer, when it was acknowledged], in ms, once the number that
# belongs to it is on the screen: after the frame that shows it.
CLICK = """async (site) => {
  const root = document.querySelector('.iw-root[data-widget="HeadAblation"]');
  const metric = root.querySelector('[data-iw="metric"]');
  const cell = root.querySelector(`button[aria-label="${site}"]`);
  const before = Number(metric.dataset.revision);
  const start = performance.now();
  const painted = new Promise((done) => {
    const watch = new MutationObserver(() => {
      if (!(Number(metric.dataset.revision) > before) || metric.parentElement.classList.contains('iw-stale')) return;
      watch.disconnect();
      const written = performance.now() - start;
      requestAnimationFrame(() => setTimeout(() => {
        const painted = performance.now() - start;
        setTimeout(() => done({ written, painted, model: Number(/exact · ([\\d.]+) ms/.exec(root.innerText)?.[1]) }), 0);
      }, 0));
    });
    watch.observe(metric.parentElement, { attributes: true, subtree: true });
  });
  cell.click();
  const pressed = cell.getAttribute('aria-pressed') === 'true';
  const toggled = performance.now() - start;
  return { pressed, toggled, ...(await painted) };
}"""
# A sweep of the present state is under way: some of its chunks are done, and more are to come. One that would take more than
# ten seconds on this machine asks first.
SWEEPING = """() => {
  const root = document.querySelector('.iw-root[data-widget="HeadAblation"]');
  const yes = root.querySelector('.iw-panel-note button:not([hidden]).iw-btn-main');
  if (yes !== null && !(performance.now() < window.iwSaidYes + 2000)) {
    window.iwSaidYes = performance.now();
    yes.click();
  }
  const share = parseFloat(root.querySelector('.iw-progress i').style.width);
  return root.getAttribute('aria-busy') === 'true' && share > 2 && share < 60;
}"""


OFF = """() => [...document.querySelectorAll('.iw-root[data-widget="HeadAblation"] .iw-cell[aria-pressed="true"]')]
  .map((cell) => cell.getAttribute('aria-label'))"""


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, ["session = None"], width=1400, height=1800) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def notebook(page: Notebook, request: pytest.FixtureRequest) -> Notebook:
    """One view of a model of this size, in the place of the one before."""
    layers, heads, width, tokens = request.param
    page.value("session and session.close()")
    page.replace(CELL.format(layers=layers, heads=heads, width=width, tokens=tokens))
    page.view("HeadAblation").locator('[data-iw="metric"]').wait_for(timeout=60_000)
    page.wait(
        "() => document.querySelector('.iw-root[data-widget=\"HeadAblation\"] .iw-grid-frame canvas') !== null"
        " || document.querySelector('button[aria-label=\"L0H0\"][data-effect]') !== null",
        "the grid",
        120,
    )
    return page


@pytest.mark.parametrize("notebook", [(12, 12, 96, 16)], indirect=True)
def test_with_12_by_12_heads_hover_is_answered_within_50_ms_without_the_kernel(notebook: Notebook) -> None:
    found = notebook.page.evaluate(HOVER)
    print(f"hover: median {statistics.median(found['took']):.1f} ms, worst {max(found['took']):.1f} ms")
    assert found["answered"] >= 20
    assert statistics.median(found["took"]) < 50


@pytest.mark.timeout(600)
def test_a_click_during_a_sweep_paints_the_exact_number_within_a_forward_and_a_half_30_ms_and_a_round_trip(
    measured: Notebook,
) -> None:
    notebook = measured
    notebook.replace("view = iw.HeadAblation(session, mode='zero'); view")
    notebook.view("HeadAblation").locator('[data-iw="metric"][data-value]').wait_for(timeout=60_000)
    yardstick, clicks, shown = Yardstick(notebook), list[dict[str, float]](), 0.0
    for head in range(8):  # each goes off in the first layer while the others stay off: the whole model runs
        if head % 4 == 0:
            notebook.calm(240)
            yardstick.measure()
            notebook.value(f"session.toggle('L11H{head}', mode='zero')")  # another state: its sweep begins anew
        notebook.page.wait_for_function(SWEEPING, timeout=120_000, polling=10)
        yardstick.echo()
        clicks.append(notebook.page.evaluate(CLICK, f"L0H{head}"))
        shown = notebook.metric("HeadAblation")
    notebook.calm(240)
    yardstick.measure()
    assert shown == pytest.approx(float(notebook.value("session.answer.metric")), abs=1e-9)
    assert notebook.value("len(session.interventions)") == "10"
    median = {key: statistics.median(one[key] for one in clicks) for key in ("toggled", "model", "written", "painted")}
    print(f"click during a sweep: {median}, of {[round(one['painted']) for one in clicks]}; {yardstick}")
    assert yardstick.forward >= 100
    assert all(one["pressed"] for one in clicks), "the cell itself does not wait for the kernel"
    assert median["toggled"] < 50
    assert median["painted"] <= yardstick.allowed(1.5, 30)


@pytest.mark.parametrize("notebook", [(4, 4, 32, 16)], indirect=True)
def test_a_card_colour_and_chosen_tokens_work_with_a_real_kernel(notebook: Notebook) -> None:
    root = notebook.page.locator('.iw-root[data-widget="HeadAblation"]')
    root.locator('button[aria-label="L2H1"]').click()
    root.get_by_role("button", name="Open the card of L2H1").click()
    card = root.locator('[data-iw="card"]')
    card.get_by_text("direct").first.wait_for(timeout=30_000)
    notebook.wait("() => document.querySelector('[data-token=\"3\"][data-score]') !== null", "a coloured prompt", 30)
    scores = [float(t.get_attribute("data-score") or "nan") for t in root.locator("[data-token]").all()]
    direct = float(card.locator(".iw-card-figures").inner_text().split()[1].replace("−", "-"))
    assert sum(scores) == pytest.approx(direct, abs=6e-3)
    root.locator('select[aria-label="colour"]').select_option("induction")
    notebook.wait("() => document.body.innerText.includes('induction score')", "the legend", 30)
    root.locator('select[aria-label="colour"]').select_option("total effect")
    root.get_by_role("button", name="At chosen tokens").click()
    root.locator('[data-token="2"]').click()
    root.locator('button[aria-label="L1H3"]').click()
    receipt = root.locator('[data-iw="receipt"]').filter(has_text="L1H3")
    receipt.get_by_text("1 pos").wait_for(timeout=30_000)
    assert receipt.get_attribute("data-state") == "acted"


@pytest.mark.parametrize("notebook", [(48, 64, 128, 512)], indirect=True)
def test_48_by_64_heads_and_512_tokens_stay_usable(notebook: Notebook) -> None:
    root = notebook.page.locator('.iw-root[data-widget="HeadAblation"]')
    root.locator("[data-token]").first.focus()
    notebook.page.keyboard.press("End")  # only the lines in sight are in the page, and every token can be reached
    root.locator('[data-token="511"]').wait_for(timeout=5_000)
    root.locator(".iw-grid-frame").scroll_into_view_if_needed()
    found = notebook.page.evaluate(HOVER)
    frames = notebook.page.evaluate(FRAMES)
    print(f"hover: median {statistics.median(found['took']):.1f} ms, worst {max(found['took']):.1f} ms")
    print(f"painting 3,072 heads anew: median {statistics.median(frames):.1f} ms, worst {max(frames):.1f} ms")
    assert found["answered"] >= 20
    assert statistics.median(found["took"]) < 50
    assert statistics.median(frames) < 100


@pytest.mark.parametrize("notebook", [(4, 4, 32, 16)], indirect=True)
def test_a_drag_selects_a_rectangle_headers_take_a_layer_or_an_index_and_only_these_are_kept(
    notebook: Notebook,
) -> None:
    def off() -> set[str]:
        notebook.calm()
        shown = set(notebook.page.evaluate(OFF))
        assert shown == set(ast.literal_eval(notebook.value("[i.site.name for i in session.interventions]")))
        assert notebook.metric("HeadAblation") == pytest.approx(
            float(notebook.value("session.answer.metric")), abs=1e-9
        )
        return shown

    root, mouse = notebook.page.locator('.iw-root[data-widget="HeadAblation"]'), notebook.page.mouse
    cells = [root.locator(f'button[aria-label="{site}"]') for site in ("L1H1", "L2H3")]
    cells[0].scroll_into_view_if_needed()
    (x0, y0), (x1, y1) = (
        (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in (c.bounding_box() for c in cells) if box
    )
    mouse.move(x0, y0)
    mouse.down()
    mouse.move(x1, y1, steps=8)
    mouse.up()
    selection = root.get_by_role("group", name="selection")
    assert "6 heads selected" in selection.inner_text()
    assert notebook.value("session.interventions") == "()", "a drag switches nothing by itself"
    rectangle = {f"L{layer}H{head}" for layer in (1, 2) for head in (1, 2, 3)}
    selection.get_by_role("button", name="Switch off").click()
    assert off() == rectangle
    selection.get_by_role("button", name="Keep only these").click()
    every = {f"L{layer}H{head}" for layer in range(4) for head in range(4)}
    assert off() == every - rectangle
    selection.get_by_role("button", name="Done").click()
    root.get_by_role("button", name="Clear").click()
    root.get_by_role("button", name="all heads of layer 2").click()
    assert off() == {f"L2H{head}" for head in range(4)}
    root.get_by_role("button", name="head 3 of every layer").click()
    assert off() == {f"L2H{head}" for head in range(4)} | {f"L{layer}H3" for layer in range(4)}
    root.get_by_role("button", name="all heads of layer 2").click()
    assert off() == {"L0H3", "L1H3", "L3H3"}
    root.get_by_role("button", name="L0.mlp").click()
    assert off() == {"L0H3", "L1H3", "L3H3", "L0.mlp"}
    for theme in ("dark", "light"):
        notebook.theme(theme)
        notebook.screenshot(PICTURES / f"head_ablation-gestures-{theme}.png", '[data-widget="HeadAblation"]')
