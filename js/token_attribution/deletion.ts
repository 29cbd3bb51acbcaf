/** The deletion test: a threshold is dragged, the tokens above it are replaced, and the model's real answer is shown. */

import { curve } from "../kit/curve.ts";
import { button, el, on, setAttributes, setText, show } from "../kit/dom.ts";
import { duration, num, plural } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { partIsStale } from "../session/derive.ts";
import {
  areaWords,
  changesAt,
  curveOf,
  type Deletion,
  deletionNote,
  goneAt,
  readDeletion,
  stepWords,
} from "./deletion_model.ts";
import { methodTitle } from "./model.ts";
import type { Shared } from "./shared.ts";
import { longButton } from "./token_part.ts";

const FIRST = 3;

export function deletionPart(shared: Shared): HTMLElement {
  const { context, method, gone, ours } = shared;
  const { panel, snapshot, watch, derive, signal, abort } = context;
  const part = section("Deletion test", "does the answer hang on them? replace them and look");
  const step = signal(0);
  const [down, up] = [plot("Deletion", "best first replaced"), plot("Insertion", "everything but the best replaced")];
  const range = el("input", "iw-range iw-threshold", {
    type: "range",
    min: 0,
    max: 0,
    step: 1,
    value: 0,
    "aria-label": "tokens replaced",
  });
  const result = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "deleted" });
  const answer = context.parts.dumbbell("real answer", "as it is", "with them replaced");
  const about = honest();
  const more = longButton(context, () => "deletion");
  const back = button("Put back", "iw-link");
  const none = el("div", "iw-muted");
  const body = el("div", "iw-section-body", {}, down.node, up.node, range, result, answer.node, about.node, more);
  part.aside.append(back);
  part.body.append(none, body);
  on(range, "input", () => {
    step.value = Number(range.value);
  });
  on(back, "click", () => {
    step.value = 0;
  });

  function plot(term: string, words: string) {
    const area = el("span", "iw-muted iw-num");
    const line = curve(abort);
    const node = el(
      "div",
      "iw-plot",
      {},
      el("div", "iw-plot-head", {}, el("b", "", {}, term), el("span", "iw-muted", {}, words), area),
      line.node,
    );
    return { node, area, line };
  }

  const test = derive(() => (ours.value ? readDeletion(panel.value) : null));
  const stale = derive(
    () => test.value?.method !== method.value || partIsStale(panel.value, "deletion", snapshot.value?.revision ?? 0),
  );
  watch(() => {
    const now = test.value;
    show(body, now !== null);
    show(none, now === null);
    setText(none, deletionNote(panel.value) || "The test comes after the scores.");
    if (now === null) return;
    body.classList.toggle("iw-stale", stale.value);
    setText(down.area, areaWords(now.deletion));
    setText(up.area, areaWords(now.insertion));
    setAttributes(range, { max: now.counts.length - 1 });
    about.paint(aboutTest(now));
    show(more, !Number.isNaN(now.wait));
    setText(more, Number.isNaN(now.wait) ? "" : `Measure finer (a random order takes about ${duration(now.wait)})`);
  });
  watch(() => {
    const now = test.value;
    const at = Math.min(step.value, (now?.counts.length ?? 1) - 1);
    // Where nobody touches it any more, the prompt is whole again.
    gone.value = new Set(now === null || stale.value ? [] : goneAt(now, at));
    show(back, at > 0);
    if (now === null) return;
    const last = now.counts.length - 1;
    range.value = String(at);
    range.style.setProperty("--iw-at", String(last > 0 ? at / last : 0));
    setAttributes(range, { "aria-valuetext": stepWords(now, at) });
    setAttributes(result, { "data-count": now.units[at] ?? 0, "data-value": now.deletion.own.data[at] ?? null });
    result.classList.toggle("iw-fixed-on", at > 0);
    setText(result, at === 0 ? HINT : stepWords(now, at));
    const limit = Math.max(last / 2, 0.5);
    down.line.paint(curveOf(now.deletion), limit, at - last / 2, stale.value);
    up.line.paint(curveOf(now.insertion), limit, at - last / 2, stale.value);
    answer.paint(changesAt(now, at), at > 0);
  });
  return part.node;
}

const HINT = `Drag the threshold: what scored most is replaced, and the model answers again.`;

function aboutTest(test: Deletion): string[] {
  const at = Array.from(test.units).indexOf(FIRST);
  const cost =
    at < 0
      ? ""
      : `its top ${FIRST}${test.unit === "token" ? "" : ` ${test.unit}s`} cost ${num((test.deletion.own.data[0] ?? 0) - (test.deletion.own.data[at] ?? 0))}`;
  return [
    `ranked by ${methodTitle(test.method)}`,
    `replaced by the ${test.baseline}`,
    cost,
    test.orders > 0
      ? `grey: ${plural(test.orders, "random order")}, from lowest to highest`
      : "no random order measured",
    "real runs, not estimates",
  ].filter(Boolean);
}
