"""What a person sees: nothing sticks out at any width, every text can be read, and nothing moves for who asked for that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.harness import Chromium, Lab, Notebook, Theme

CELLS = [
    """
import interp_widgets as iw
session = iw.open()
session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")
mood = iw.steering_vector(session, *iw.contrast("sentiment"), site="L1", name="sentiment")
for head in ("L1H0", "L1H3", "L2H1", "L2H4", "L3H2", "L3H5", "L0H0"):
    session.toggle(head)
""",
    "iw.TokenAttribution(session)",
    "iw.HeadAblation(session)",
    "iw.SteeringSliders(session, vectors={'sentiment': mood})",
    "iw.Generation(session)",
    "iw.AttentionPatterns(session)",
    "iw.SelfRepair(session)",
]
VIEWS = len(CELLS) - 1

STICKS_OUT = """() => [...document.querySelectorAll('.iw-root')].flatMap((root) => {
    const frame = root.getBoundingClientRect();
    const scrolls = (node) => { for (let up = node.parentElement; up !== root; up = up.parentElement)
        if (getComputedStyle(up).overflowX !== 'visible' && !up.classList.contains('iw-frame')) return true; return false; };
    return [...root.querySelectorAll('*')].filter((node) => {
        const box = node.getBoundingClientRect();
        return box.width > 0 && (box.right > frame.right + 0.5 || box.left < frame.left - 0.5) && !scrolls(node);
    }).map((node) => `${root.dataset.widget}: ${node.tagName}.${node.getAttribute('class')}`);
})"""

# Numbers end where their column ends, and no mark of an axis lies on another.
COLLIDES = """() => [...document.querySelectorAll('.iw-dumbbell')].flatMap((node) => {
    const wide = [...node.querySelectorAll('.iw-dumbbell-numbers')].filter((one) => one.scrollWidth > one.clientWidth + 1);
    const boxes = [...node.querySelectorAll('.iw-dumbbell-tick')].map((one) => one.getBoundingClientRect()).filter((box) => box.width > 0);
    const over = boxes.filter((box, index) => index > 0 && box.left < boxes[index - 1].right);
    return [...wide.map((one) => one.textContent), ...over.map((box) => `a tick at ${Math.round(box.left)}`)];
})"""

STEP_IN_SIGHT = """() => [...document.querySelectorAll('.iw-steps')].every((line) => {
    const [frame, step] = [line, line.querySelector('[aria-current]')].map((node) => node.getBoundingClientRect());
    return step.left >= frame.left && step.right <= frame.right;
})"""

UNREADABLE = """() => {
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return text.startsWith('color(') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a]; };
    const over = (top, low) => [0, 1, 2].map((i) => top[i] * top[3] + low[i] * (1 - top[3]));
    const light = (color) => color.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (node) => node === null ? [255, 255, 255]
        : over(parse(getComputedStyle(node).backgroundColor), ground(node.parentElement));
    const opacity = (node) => node.classList.contains('iw-root') ? 1 : Number(getComputedStyle(node).opacity) * opacity(node.parentElement);
    return [...document.querySelectorAll('.iw-root *')].flatMap((node) => {
        const text = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data.trim()).join('');
        const style = getComputedStyle(node), box = node.getBoundingClientRect();
        // what is off may be quiet; the mark of the position read stands below its token's ground
        if (text === '' || box.width === 0 || style.clipPath !== 'none') return [];
        if (node.closest(':disabled, .iw-stale, .iw-token-read, option') !== null) return [];
        const [r, g, b, a] = parse(node instanceof SVGElement ? style.fill : style.color), back = ground(node);
        const [one, other] = [light(over([r, g, b, a * opacity(node)], back)), light(back)].sort((x, y) => y - x);
        const ratio = (one + 0.05) / (other + 0.05);
        return ratio < 4.5 ? [`${node.closest('.iw-root').dataset.widget}: ${text} ${ratio.toFixed(2)}`] : [];
    });
}"""

MOVING = """() => [...document.querySelectorAll('.iw-root *')].filter((node) => {
    const { transitionDuration, animationName } = getComputedStyle(node);
    return animationName !== 'none' || transitionDuration.split(',').some((time) => parseFloat(time) > 0);
}).length"""


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS) as opened:
        opened.page.evaluate(
            "() => { const { shell } = window.jupyterapp; shell.collapseLeft(); shell.collapseRight(); }"
        )
        opened.run_all()
        opened.wait(f"() => document.querySelectorAll('.iw-root [data-iw=metric]').length === {VIEWS}", "the views", 60)
        opened.calm()
        yield opened


def wide(notebook: Notebook, width: int) -> None:
    """Make the views this wide."""
    for _ in range(3):  # the notebook's own margins depend on the window's width
        now = notebook.page.evaluate("() => document.querySelector('.iw-root').clientWidth")
        window = notebook.page.viewport_size
        assert window is not None
        notebook.page.set_viewport_size({"width": window["width"] + width - now, "height": 1600})
        notebook.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    notebook.wait(f"() => document.querySelector('.iw-root').clientWidth === {width}", f"views {width} px wide")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read_and_nothing_moves_for_who_asked_for_that(notebook: Notebook, theme: Theme) -> None:
    notebook.page.emulate_media(reduced_motion="reduce")
    notebook.theme(theme)
    try:
        assert notebook.page.evaluate(UNREADABLE) == []
        assert notebook.page.evaluate(MOVING) == 0
    finally:
        notebook.theme("light")
        notebook.page.emulate_media(reduced_motion="null")


def test_at_every_width_nothing_sticks_out_covers_another_or_hides_the_present_step(notebook: Notebook) -> None:
    for width in (1180, 968, 700, 400):
        wide(notebook, width)
        notebook.wait(STEP_IN_SIGHT, f"the present step of the history at {width} px")
        assert notebook.page.evaluate(STICKS_OUT) == []
        assert notebook.page.evaluate(COLLIDES) == []
