/** Head ablation: switch heads off and on, and see what each was worth. */

import "./view.css";
import { colourAt, css } from "../kit/colour.ts";
import { button, el, setText, show, strong } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { plural } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { allHeads, type Shape } from "../kit/grid_geometry.ts";
import { type CellLook, headGrid } from "../kit/headgrid.ts";
import { legend } from "../kit/legend.ts";
import { place } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { modeOf } from "../session/derive.ts";
import type { AblationMode } from "../session/protocol.ts";
import type { ViewContext } from "../session/shell.ts";
import type { Mark } from "../session/store.ts";
import { effectOf, honestParts, preview, readTable, shapeOf, type Table, type Traits, type Words } from "./model.ts";

const MODES = [
  { value: "mean", text: "Mean" },
  { value: "zero", text: "Zero" },
  { value: "resample", text: "Resample" },
];

export function build(context: ViewContext<Traits>): void {
  const { frame } = context;
  const question = section("Question", "what the model is asked");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, context.parts.promptStrip());
  const left = el("div", "iw-column", {}, gridPart(context));
  const right = el("div", "iw-column", {}, ...context.parts.outcome());
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
  );
}

function gridPart(context: ViewContext<Traits>): HTMLElement {
  const { state, panel, watch, hover, lock, off, pending, refusals, snapshot, theme, intent, signal, derive, stable } =
    context;
  const part = section("Heads", "what each was worth");
  const selected = signal<readonly string[]>([]);
  const table = trackTable(context);
  const stale = derive(() => (table.value.now?.revision ?? 0) < (snapshot.value?.revision ?? 0));
  const modes = segment("mode", (mode) => intent("mode", "mode", { mode: mode as AblationMode }));
  const wishes = ablations(context, (sites) => {
    selected.value = sites;
  });
  const grid = headGrid(wishes, "heads by layer", context.abort);
  const chosen = selectionBar(context, selected);
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const [headKey, mlpKey] = [legend(), legend()];
  const about = honest();
  const failed = alertLine();
  const refused = alertLine(() => {
    for (const key of refusals.peek().keys()) if (isAblation(key)) context.store.dismiss(key);
  });
  part.aside.append(modes.node);
  part.body.append(
    grid.node,
    chosen,
    line,
    refused.node,
    failed.node,
    headKey.node,
    mlpKey.node,
    about.node,
    context.parts.panelNote(() => table.value.now !== null && stale.value),
  );

  watch(() => modes.paint(MODES, state.value === null ? "" : modeOf(state.value, pending.value)));
  const heads = stable(() => state.value?.model.heads ?? []);
  watch(() => {
    const shape = shapeOf(heads.value);
    const { now, before } = table.value;
    const look = looks(shape, now, before, context, new Set(selected.value), stale.value);
    grid.paint({ shape, look, isOff: (site) => off.value.has(site) });
  });
  watch(() => grid.mark(siteOf(hover.value), siteOf(lock.value)));
  watch(() => {
    const { now } = table.value;
    const ramp = theme.value.ramp;
    for (const [key, scale, there] of [
      [headKey, now?.scale, now?.effects],
      [mlpKey, now?.mlpScale, now?.mlp],
    ] as const) {
      show(key.node, there != null);
      if (scale !== undefined) key.paint(scale, ramp, key === headKey ? "lost without it" : "MLPs");
    }
    if (state.value !== null) about.paint(honestParts(now, state.value));
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  watch(() => refused.paint([...refusals.value.values()].find((one) => isAblation(one.key))?.message ?? null));
  watch(() => {
    const site = siteOf(hover.value) ?? siteOf(lock.value);
    const now = state.value;
    line.classList.toggle("iw-fixed-on", site !== null);
    if (site === null || now === null) setText(line, HINT);
    else paintWords(line, preview(site, off.value.has(site), table.value.now, now));
  });
  return part.node;
}

const HINT = "Hover or focus a head to see the answer without it; click to switch it off; drag to select several.";

function siteOf(mark: Mark): string | null {
  return mark?.kind === "head" ? mark.site : null;
}

function isAblation(key: string): boolean {
  return key.startsWith("head:") || key.startsWith("heads:");
}

/** The newest table, and the last complete one to read from while the newest is still filling. */
function trackTable({ panel, watch, signal }: ViewContext<Traits>) {
  const table = signal<{ now: Table | null; before: Table | null }>({ now: null, before: null });
  watch(() => {
    const now = readTable(panel.value);
    const old = table.peek();
    const finished = old.now !== null && old.now.revision < (now?.revision ?? -1) ? old.now : old.before;
    table.value = { now, before: finished };
  });
  return table;
}

function looks(
  shape: Shape,
  now: Table | null,
  before: Table | null,
  context: ViewContext<Traits>,
  selected: ReadonlySet<string>,
  stale: boolean,
): (site: string) => CellLook {
  const [off, ramp] = [context.off.value, context.theme.value.ramp];
  return (site) => {
    const effect = effectOf(now, before, shape, site);
    const scale = site.endsWith(".mlp") ? now?.mlpScale : now?.scale;
    const position = scale === undefined ? Number.NaN : place(scale, effect.value);
    const colour = colourAt(ramp, position);
    return {
      colour: colour === null ? null : css(colour),
      value: effect.value,
      off: off.has(site),
      stale: stale || effect.stale,
      selected: selected.has(site),
    };
  };
}

/** Every wish names its set, so that two rows switched quickly are two wishes. */
function ablations({ state, pending, point, lock, intent }: ViewContext<Traits>, select: (sites: string[]) => void) {
  return {
    toggle(sites: string[], off: boolean): void {
      const now = state.peek();
      if (now === null) return;
      const mode = modeOf(now, pending.peek());
      const [site] = sites;
      if (sites.length === 1 && site !== undefined) {
        lock.value = { kind: "head", site };
        intent("ablate", `head:${site}`, { site, off, mode });
      } else intent("ablate_many", `heads:${nameOfSet(sites)}`, { sites, off, mode });
    },
    hover(site: string | null): void {
      point(site === null ? null : { kind: "head", site });
    },
    select,
  };
}

/** "L1", "*H3", "*.mlp", or from the first to the last. */
export function nameOfSet(sites: readonly string[]): string {
  const layers = new Set(sites.map((site) => /^L\d+/.exec(site)?.[0]));
  const columns = new Set(sites.map((site) => site.replace(/^L\d+/, "")));
  if (columns.size === 1) return `*${[...columns][0]}`;
  if (layers.size === 1) return [...layers][0] ?? "";
  return `${sites[0]}-${sites.at(-1)}`;
}

function selectionBar(context: ViewContext<Traits>, selected: { value: readonly string[] }): HTMLElement {
  const { state, pending, off, intent, watch } = context;
  const text = el("span");
  const actions: [string, () => void][] = [
    ["Switch off", () => many(selected.value, true)],
    ["Switch on", () => many(selected.value, false)],
    ["Keep only these", keepOnly],
  ];
  const done = button("Done", "iw-link");
  const node = el("div", "iw-selection", { role: "group", "aria-label": "selection" }, text);
  for (const [name, run] of actions) {
    const one = button(name);
    one.addEventListener("click", run);
    node.append(one);
  }
  node.append(done);
  done.addEventListener("click", () => {
    selected.value = [];
  });

  function many(sites: readonly string[], isOff: boolean): void {
    const now = state.peek();
    if (now === null || sites.length === 0) return;
    intent("ablate_many", `heads:${nameOfSet(sites)}`, {
      sites: [...sites],
      off: isOff,
      mode: modeOf(now, pending.peek()),
    });
  }

  function keepOnly(): void {
    const now = state.peek();
    if (now === null) return;
    const keep = new Set(selected.value);
    const dark = [...keep].filter((site) => off.peek().has(site));
    const rest = allHeads(shapeOf(now.model.heads)).filter((site) => !keep.has(site));
    intent("ablate_many", "heads:all", { sites: rest, off: true, mode: modeOf(now, pending.peek()) });
    for (const site of dark) intent("ablate", `head:${site}`, { site, off: false, mode: modeOf(now, pending.peek()) });
  }

  watch(() => {
    show(node, selected.value.length > 0);
    setText(text, `${plural(selected.value.length, "head")} selected`);
  });
  return node;
}

function paintWords(node: HTMLElement, words: Words): void {
  const key = JSON.stringify(words);
  if (node.dataset.words === key && node.textContent !== HINT) return;
  node.dataset.words = key;
  node.replaceChildren(...words.map(([text, isStrong]) => (isStrong ? strong(text) : document.createTextNode(text))));
}
