"""A slider that is dragged fast, in a real JupyterLab: the hand is followed, and what is painted last is the truth."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import Any

import pytest

from tests.browser.harness import PICTURES, Notebook
from tests.browser.yardstick import Yardstick

MOVES, SECONDS = 300, 3.0
CELL = """
vector = iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L0", name="push")
view = iw.SteeringSliders(session, vectors={"push": vector}, tokens=4)
view
"""
# 300 `input` events at 100 Hz on the slider, its thumb held; then every change that is painted for as long as it takes until the
# number on screen is the answer to the last move, and a while longer.
DRAG = """async ({ moves, seconds, last: end, patience }) => {
  const root = document.querySelector('.iw-root[data-widget="SteeringSliders"]');
  const slider = root.querySelector('input[type=range][aria-label="push"]');
  const metric = root.querySelector('[data-iw="metric"]');
  const seen = { moved: [], metrics: [], thumb: [], frames: [] };
  const now = () => performance.now();
  const old = () => metric.parentElement.classList.contains('iw-stale');
  const watch = new MutationObserver(() => {
    const painted = [now(), Number(metric.dataset.revision), Number(metric.dataset.value), old()];
    if (String(seen.metrics.at(-1)?.slice(1)) !== String(painted.slice(1))) seen.metrics.push(painted);
  });
  watch.observe(metric.parentElement, { attributes: true, subtree: true });
  const thumb = new MutationObserver(() => seen.thumb.push([now(), Number(slider.dataset.value), slider.valueAsNumber]));
  thumb.observe(slider, { attributes: true, attributeFilter: ['data-value'] });
  let last = now(), running = true;
  const frame = () => {
    if (!running) return;
    seen.frames.push(now() - last);
    last = now();
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const start = now();
  for (let n = 1; n <= moves; n += 1) {
    const due = start + (n * 1000 * seconds) / moves;
    while (now() < due) await new Promise((done) => setTimeout(done, Math.max(0, due - now())));
    slider.value = String(n === moves ? end : Math.sin(n / 11) * 1.4);
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    seen.moved.push([now(), slider.valueAsNumber]);
  }
  running = false;
  await new Promise((done) => setTimeout(done, patience));
  watch.disconnect();
  thumb.disconnect();
  return seen;
}"""
RELEASE = """() => {
  const slider = document.querySelector('.iw-root[data-widget="SteeringSliders"] input[type=range]');
  slider.dispatchEvent(new Event('change', { bubbles: true }));
}"""


@pytest.mark.timeout(600)
def test_300_moves_in_3_seconds_end_on_the_answer_to_the_last_and_never_show_an_older_one_after_a_newer_one(
    measured: Notebook,
) -> None:
    notebook = measured
    notebook.replace(CELL)
    notebook.view("SteeringSliders").locator('[data-iw="metric"][data-value]').wait_for(timeout=60_000)
    notebook.calm(240)
    yardstick = Yardstick(notebook)
    yardstick.echo(5)
    waits: list[float] = []
    for last in (0.65, -0.4, 1.1):
        yardstick.measure()
        found = notebook.page.evaluate(
            DRAG, {"moves": MOVES, "seconds": SECONDS, "last": last, "patience": 6 * yardstick.forward + 1500}
        )
        yardstick.echo(3)
        waits.append(_followed(found))
        state: Any = ast.literal_eval(
            notebook.value("(session.interventions[0].coefficient, session.answer.metric, session.history.now.draft)")
        )
        assert state[:2] == (found["moved"][-1][1], found["metrics"][-1][2])
        assert state[2] != "", "the drag has not ended: the thumb is still held"
        steps = len(ast.literal_eval(notebook.value("[m.label for m in session.history.moments]")))
        notebook.page.evaluate(RELEASE)
        notebook.calm(240)
        assert notebook.metric("SteeringSliders") == found["metrics"][-1][2], "letting go moved the number"
        assert ast.literal_eval(notebook.value("len(session.history.moments), session.history.now.draft")) == (
            steps,
            "",
        )
    yardstick.measure()
    notebook.screenshot(PICTURES / "slider-after-a-drag.png", '[data-widget="SteeringSliders"]')
    took = sorted(waits)[1]
    print(f"slider: the last of {MOVES} moves was answered after {took:.0f} ms ({waits}); {yardstick}")
    assert yardstick.forward >= 100
    assert took <= yardstick.allowed(2, 50)


def _followed(found: dict[str, list[Any]]) -> float:
    """Check everything that was painted while a slider moved; ms from the last move to its answer."""
    moved, metrics, thumb = found["moved"], found["metrics"], found["thumb"]
    begun, (ended, last) = moved[0][0], moved[-1]
    assert len(moved) == MOVES
    assert ended - begun == pytest.approx(1000 * SECONDS, rel=0.15)
    assert len({value for _, value in moved}) > 20, "the slider has too few steps for a drag"
    revisions = [revision for _, revision, _, _ in metrics]
    assert all(a <= b for a, b in pairwise(revisions)), f"an older answer after a newer one: {revisions}"
    # The thumb never goes where the hand was earlier: what is painted at a moment is the newest move until then.
    for at, painted, under_hand in thumb:
        newest = [value for when, value in moved if when <= at + 1][-1:]
        assert not newest or painted in (newest[-1], under_hand), f"{painted} painted when the hand was at {newest}"
    assert thumb[-1][1] == last
    assert not metrics[-1][3], "the number that is painted last is marked as old"
    final = [
        at for at, revision, value, old in metrics if (revision, value, old) == (revisions[-1], metrics[-1][2], False)
    ]
    waited = min(final) - ended
    assert waited > 0
    print(
        f"  {len(metrics)} paints of the number, {len(thumb)} of the thumb, worst frame {max(found['frames']):.0f} ms"
    )
    return waited
