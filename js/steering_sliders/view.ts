/** Steering: push the residual stream along known directions and watch the answer, and the text, move. */

import "./view.css";
import { continuation } from "../kit/continuation.ts";
import { button, el, reconcile, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { section } from "../kit/frame.ts";
import { partIsStale } from "../session/derive.ts";
import { outcomePart } from "../session/parts/outcome.ts";
import { promptStrip } from "../session/parts/prompt_strip.ts";
import type { ViewContext } from "../session/shell.ts";
import { mapPart } from "./map.ts";
import { firstDifference, readCurves, readText, type Traits } from "./model.ts";
import { isOld, type Row, vectorRow } from "./row.ts";

export function build(context: ViewContext<Traits>): void {
  const { frame } = context;
  const question = section("Question", "what the model is asked");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, promptStrip(context));
  const left = el("div", "iw-column", {}, rowsPart(context));
  const right = el("div", "iw-column", {}, ...outcomePart(context));
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
    el("div", "iw-low", {}, mapPart(context)),
    el("div", "iw-low", {}, textPart(context)),
  );
}

function rowsPart(context: ViewContext<Traits>): HTMLElement {
  const { vectors, watch, intent, state, panel, derive } = context;
  const curves = derive(() => readCurves(panel.value));
  const part = section("Steering", "push along a direction");
  const anyOld = (): boolean =>
    vectors.value.some(({ name }) => curves.value.has(name) && isOld(context, name, curves.value.get(name)));
  const mute = button("Mute all", "iw-link");
  const zero = button("All to zero", "iw-link");
  const list = el("div", "iw-rows");
  const none = el("div", "iw-muted");
  const failed = alertLine();
  const rows = new WeakMap<Element, Row>();
  part.aside.append(mute, zero);
  part.body.append(list, none, failed.node, context.parts.panelNote(anyOld));
  mute.addEventListener("click", () => {
    const on = vectors.peek().every((vector) => !vector.on);
    for (const { name, site, positions, mode } of vectors.peek())
      intent("vector", `vector:${name}`, { name, site, on, positions, mode });
  });
  zero.addEventListener("click", () => {
    for (const vector of vectors.peek()) {
      if (vector.coefficient !== 0)
        intent("strength", `strength:${vector.name}`, { name: vector.name, value: 0, final: true });
    }
  });

  const makeRow = (): HTMLElement => {
    const row = vectorRow(context, curves);
    rows.set(row.node, row);
    return row.node;
  };
  watch(() => {
    reconcile(list, vectors.value, makeRow, (node, vector) => rows.get(node)?.paint(vector));
    show(none, state.value !== null && vectors.value.length === 0);
    setText(none, 'No vectors yet: SteeringSliders(session, vectors={"name": iw.steering_vector(…)}).');
    zero.disabled = vectors.value.every((vector) => vector.coefficient === 0);
    mute.disabled = vectors.value.length === 0;
    setText(mute, vectors.value.length > 0 && vectors.value.every((vector) => !vector.on) ? "Unmute all" : "Mute all");
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  return part.node;
}

function textPart(context: ViewContext<Traits>): HTMLElement {
  const { panel, panelId, intent, watch, snapshot, derive } = context;
  const part = section("Generation", "same seed; first difference marked");
  const run = button("Generate");
  const text = continuation(context.abort);
  const none = el("div", "iw-muted", {}, "The model's own continuation and the pushed one, side by side.");
  const written = derive(() => readText(panel.value));
  part.aside.append(run);
  part.body.append(none, text.node);
  run.addEventListener("click", () => {
    intent("panel", `panel:${panelId}`, { panel: panelId, action: written.peek()?.running ? "stop" : "generate" });
  });
  watch(() => {
    const now = written.value;
    setText(run, now?.running ? "Stop" : "Generate");
    show(none, now === null);
    show(text.node, now !== null);
    if (now === null) return;
    const stale = !now.running && partIsStale(panel.value, "continuation", snapshot.value?.revision ?? 0);
    const note = [now.note, stale && "written before your last change"].filter(Boolean).join(" · ");
    text.paint({ ...now, note, divergence: now.divergence ?? firstDifference(now.plain, now.edited), stale });
  });
  return part.node;
}
