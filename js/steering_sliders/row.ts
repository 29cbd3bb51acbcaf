/** One vector: its strength over its curve, and its settings. */

import "../kit/choice.css";
import { highest } from "../kit/curve.ts";
import { button, el, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { entered } from "../kit/field.ts";
import { num } from "../kit/format.ts";
import { type Slider, slider } from "../kit/slider.ts";
import type { Vector } from "../session/protocol.ts";
import type { ViewContext } from "../session/shell.ts";
import {
  boundaryWords,
  curveIsStale,
  endsOf,
  type Response,
  reading,
  siteOf,
  spanOf,
  type Traits,
  textWords,
  unitsOf,
} from "./model.ts";

const POSITIONS = ["content", "all", "prompt", "generated", "prompt[-1]", "gen[:8]"];
const MODES = ["add", "project_out", "clamp", "keep_norm"];
const OTHER = "other…";
const WRITES = "writes";

export type Row = { node: HTMLElement; paint(vector: Vector): void };
export type Curves = { readonly value: Map<string, Response> };

export function vectorRow(context: ViewContext<Traits>, curves: Curves): Row {
  const { intent, state, refusals, store, abort, signal, panelId } = context;
  const wrong = signal<string | null>(null);
  let vector: Vector | null = null;
  const one: Slider = slider(
    {
      move: (value) => strength(value, false),
      release: (value) => strength(value, true),
      wrong(text) {
        wrong.value = `“${text}” is not a number. Type a strength between ${num(-(vector?.limit ?? 1))} and ${num(vector?.limit ?? 1)}.`;
      },
      back() {
        wrong.value = null;
        if (vector !== null) store.dismiss(strengthKey(vector));
      },
    },
    abort,
  );
  const on = el("input", "iw-check", { type: "checkbox", "aria-label": "on" });
  const layer = choice("layer");
  const last = choice("last layer");
  const positions = choice("positions");
  const typed = el("input", "iw-positions", {
    type: "text",
    hidden: true,
    "aria-label": "positions, typed",
    placeholder: '-1 · 3:7 · gen[:8] · " Mary"',
    spellcheck: "false",
    autocomplete: "off",
  });
  const mode = choice("mode");
  const map = button("Map", "iw-link", { title: "the same vector at every layer and strength" });
  const boundary = el("div", "iw-honest", { "data-iw": "boundary" });
  const alert = alertLine(() => {
    wrong.value = null;
    if (vector !== null) for (const key of keysOf(vector)) store.dismiss(key);
  });
  const settings = el(
    "div",
    "iw-row-settings",
    {},
    el("label", "iw-inline", {}, on, "on"),
    el("span", "iw-inline iw-muted", {}, "layer", layer, last),
    el("span", "iw-inline iw-muted", {}, "mode", mode),
    el("span", "iw-inline iw-muted", {}, "positions", positions, typed),
    map,
  );
  const node = el("div", "iw-row", { role: "group", "data-iw": "vector" }, one.node, settings, boundary, alert.node);

  function strength(value: number, final: boolean): void {
    if (vector === null) return;
    wrong.value = null;
    intent("strength", strengthKey(vector), { name: vector.name, value, final }, { throttled: !final });
  }

  function send(where: string): void {
    if (vector === null) return;
    intent("vector", `vector:${vector.name}`, {
      name: vector.name,
      site: siteOf(layer.value, last.value),
      on: on.checked,
      positions: where,
      mode: mode.value,
    });
  }
  const chosen = (): string => (positions.value === OTHER ? (vector?.positions ?? "content") : positions.value);
  for (const control of [on, layer, last, mode]) control.addEventListener("change", () => send(chosen()));
  positions.addEventListener("change", () => {
    show(typed, positions.value === OTHER);
    if (positions.value === OTHER) typed.focus();
    else send(positions.value);
  });
  entered(typed, () => {
    const where = typed.value.trim();
    if (where !== "") send(where);
  });
  map.addEventListener("click", () => {
    if (vector !== null) intent("panel", `panel:${panelId}`, { panel: panelId, action: "map", vector: vector.name });
  });

  return {
    node,
    paint(next) {
      const moved = vector?.positions !== next.positions;
      if (vector !== null && vector.name !== next.name) wrong.value = null;
      vector = next;
      const now = state.value;
      const curve = curves.value.get(next.name);
      const text = textWords(curve, next.coefficient);
      one.paint({
        name: next.name,
        value: next.coefficient,
        limit: next.limit,
        units: unitsOf(next, curve),
        curve: curve ?? null,
        curveStale: isOld(context, next.name, curve),
        caption: captionOf(now?.question?.label ?? "metric", next, curve),
        text: text.words,
        warns: text.breaks,
        about: curve?.criterion ?? "",
        wrong: wrong.value !== null || refusals.value.has(strengthKey(next)),
      });
      setAttributes(node, { "aria-label": `vector ${next.name}` });
      node.classList.toggle("iw-row-off", !next.on);
      on.checked = next.on;
      const count = now?.model.layers ?? 0;
      const [from, to] = endsOf(next.site);
      options(layer, [...layersOf(count), WRITES], from, (value) => (value === WRITES ? "every write" : value));
      const after = from === WRITES ? [] : layersOf(count).slice(1 + layersOf(count).indexOf(from));
      options(last, ["", ...after], to, (value) => (value === "" ? "only there" : `to ${value}`));
      show(last, /^L\d+$/.test(from) && after.length > 0);
      options(mode, MODES, next.mode);
      setText(boundary, boundaryWords(next.positions));
      show(boundary, boundary.textContent !== "");
      if (moved || positions.value !== OTHER) {
        options(positions, [...POSITIONS, OTHER], next.positions);
        show(typed, false);
      }
      const refused = keysOf(next).flatMap((key) => refusals.value.get(key) ?? [])[0];
      alert.paint(wrong.value ?? refused?.message ?? null);
    },
  };
}

export function isOld(
  { state, panel, snapshot, store }: ViewContext<Traits>,
  vector: string,
  curve: Response | undefined,
): boolean {
  if (curve?.old) return true;
  return (
    state.value !== null && curveIsStale(panel.value, vector, state.value, snapshot.value?.revision ?? 0, store.stateAt)
  );
}

function layersOf(count: number): string[] {
  return ["embed", ...Array.from({ length: count }, (_, index) => `L${index}`)];
}

function strengthKey({ name }: Vector): string {
  return `strength:${name}`;
}

function keysOf(vector: Vector): string[] {
  return [strengthKey(vector), `vector:${vector.name}`];
}

function captionOf(label: string, vector: Vector, curve: Response | undefined): string {
  if (curve === undefined) return `${label} by strength: not measured yet`;
  if (curve.reason) return `${curve.label || label} does not move: ${curve.reason}`;
  return [
    `${curve.label || label} ${spanOf(curve)}`,
    reading(curve, vector.coefficient),
    highest(curve.second ?? []) > 0 ? `dashed: KL, to ${num(highest(curve.second ?? []))}` : "",
    curve.randoms > 0 ? `grey: ${curve.randoms} random, equal norm` : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

function choice(name: string): HTMLSelectElement {
  return el("select", "iw-menu", { "aria-label": name });
}

/** A setting made from Python may be one that is not in the list: then it is shown too. */
function options(
  select: HTMLSelectElement,
  known: readonly string[],
  chosen: string,
  named = (value: string): string => value.replace("_", " "),
): void {
  const all = known.includes(chosen) ? known : [chosen, ...known];
  reconcile(
    select,
    all,
    () => el("option"),
    (option, value) => {
      option.value = value;
      setText(option, named(value));
    },
  );
  if (select.value !== chosen) select.value = chosen;
}
