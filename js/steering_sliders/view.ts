/** Steering: push the residual stream along known directions and watch the answer, and the text, move. */

import "./view.css";
import { continuation } from "../kit/continuation.ts";
import { button, el, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { num } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { type Slider, slider } from "../kit/slider.ts";
import { partIsStale } from "../session/derive.ts";
import type { Vector } from "../session/protocol.ts";
import type { ViewContext } from "../session/shell.ts";
import {
  curveIsStale,
  firstDifference,
  type Response,
  readCurves,
  reading,
  readText,
  spanOf,
  type Traits,
  unitsOf,
} from "./model.ts";

const POSITIONS = ["content", "all", "prompt", "generated", "-1"];
const MODES = ["add", "project_out", "clamp"];

export function build(context: ViewContext<Traits>): void {
  const { frame } = context;
  const question = section("Question", "what the model is asked");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, context.parts.promptStrip());
  const left = el("div", "iw-column", {}, rowsPart(context));
  const right = el("div", "iw-column", {}, ...context.parts.outcome());
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
    el("div", "iw-low", {}, textPart(context)),
  );
}

type Row = { node: HTMLElement; paint(vector: Vector): void };

function rowsPart(context: ViewContext<Traits>): HTMLElement {
  const { vectors, watch, intent, state, panel, derive } = context;
  const curves = derive(() => readCurves(panel.value));
  const part = section("Steering", "push along a direction");
  const anyOld = (): boolean =>
    vectors.value.some((vector) => curves.value.has(vector.name) && isOld(context, vector.name));
  const mute = button("All to zero", "iw-link");
  const list = el("div", "iw-rows");
  const none = el("div", "iw-muted");
  const failed = alertLine();
  const rows = new WeakMap<Element, Row>();
  part.aside.append(mute);
  part.body.append(list, none, failed.node, context.parts.panelNote(anyOld));
  mute.addEventListener("click", () => {
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
    mute.disabled = vectors.value.every((vector) => vector.coefficient === 0);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  return part.node;
}

function vectorRow(context: ViewContext<Traits>, curves: { readonly value: Map<string, Response> }): Row {
  const { intent, state, refusals, store, abort, signal } = context;
  const wrong = signal<string | null>(null);
  let vector: Vector | null = null;
  const one: Slider = slider(
    {
      move: (value) => strength(value, false),
      release: (value) => strength(value, true),
      wrong(text) {
        wrong.value = `“${text}” is not a number. Type a strength between ${num(-(vector?.limit ?? 1))} and ${num(vector?.limit ?? 1)}.`;
        paintAlert();
      },
    },
    abort,
  );
  const on = el("input", "iw-check", { type: "checkbox", "aria-label": "on" });
  const positions = choice("positions");
  const mode = choice("mode");
  const alert = alertLine(() => {
    wrong.value = null;
    if (vector !== null) for (const key of keysOf(vector)) store.dismiss(key);
    paintAlert();
  });
  const settings = el("div", "iw-row-settings", {}, el("label", "iw-inline", {}, on, "on"), mode, positions);
  const node = el("div", "iw-row", { role: "group", "data-iw": "vector" }, one.node, settings, alert.node);

  function strength(value: number, final: boolean): void {
    if (vector === null) return;
    wrong.value = null;
    intent("strength", `strength:${vector.name}`, { name: vector.name, value, final }, { throttled: !final });
  }

  function send(): void {
    if (vector === null) return;
    const { name, site } = vector;
    intent("vector", `vector:${name}`, { name, site, on: on.checked, positions: positions.value, mode: mode.value });
  }
  for (const control of [on, positions, mode]) control.addEventListener("change", send);

  function paintAlert(): void {
    const refused = vector === null ? undefined : keysOf(vector).flatMap((key) => refusals.value.get(key) ?? [])[0];
    alert.paint(wrong.value ?? refused?.message ?? null);
  }

  return {
    node,
    paint(next) {
      vector = next;
      const now = state.value;
      const curve = curves.value.get(next.name);
      one.paint({
        name: next.name,
        value: next.coefficient,
        limit: next.limit,
        units: unitsOf(next),
        curve: curve ?? null,
        curveStale: isOld(context, next.name),
        caption: captionOf(now?.question?.label ?? "metric", next, curve),
      });
      setAttributes(node, { "aria-label": `vector ${next.name}` });
      node.classList.toggle("iw-row-off", !next.on);
      on.checked = next.on;
      options(mode, MODES, next.mode);
      options(positions, POSITIONS, next.positions);
      paintAlert();
    },
  };
}

function isOld({ state, panel, snapshot, store }: ViewContext<Traits>, vector: string): boolean {
  return (
    state.value !== null && curveIsStale(panel.value, vector, state.value, snapshot.value?.revision ?? 0, store.stateAt)
  );
}

function keysOf(vector: Vector): string[] {
  return [`strength:${vector.name}`, `vector:${vector.name}`];
}

function captionOf(label: string, vector: Vector, curve: Response | undefined): string {
  if (curve === undefined) return `${label} by strength: not measured yet`;
  return [
    `${label} ${spanOf(curve)}`,
    reading(curve, vector.coefficient),
    curve.low === null ? "" : "grey: random, equal norm",
  ]
    .filter(Boolean)
    .join(" · ");
}

function choice(name: string): HTMLSelectElement {
  return el("select", "iw-select", { "aria-label": name });
}

/** A setting made from Python may be one that is not in the list: then it is shown too. */
function options(select: HTMLSelectElement, known: readonly string[], chosen: string): void {
  const all = known.includes(chosen) ? known : [...known, chosen];
  reconcile(
    select,
    all,
    () => el("option"),
    (option, value) => {
      option.value = value;
      setText(option, value.replace("_", " "));
    },
  );
  if (select.value !== chosen) select.value = chosen;
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
