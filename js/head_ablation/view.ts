/** Head ablation: switch heads off and on, and see what each was worth. */

import "./view.css";
import { choice } from "../kit/choice.ts";
import { cell } from "../kit/codec.ts";
import { colourAt } from "../kit/colour.ts";
import { el, setText, show, strong } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { entered } from "../kit/field.ts";
import { plural } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { columnsOf, type Shape } from "../kit/grid_geometry.ts";
import type { Look } from "../kit/grid_look.ts";
import { headGrid } from "../kit/headgrid.ts";
import { legend } from "../kit/legend.ts";
import { place } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { modeOf } from "../session/derive.ts";
import { outcomePart } from "../session/parts/outcome.ts";
import type { AblationMode } from "../session/protocol.ts";
import type { ViewContext } from "../session/shell.ts";
import { ablations, selectionBar } from "./actions.ts";
import { cardButton, cardPart } from "./card.ts";
import { type Cells, COLOURS, cellsOf, numberOf, READS } from "./cells.ts";
import { examplesPart } from "./examples.ts";
import {
  headOf,
  honestParts,
  preview,
  readTable,
  shapeOf,
  siteOf,
  type Table,
  type Traits,
  type Words,
} from "./model.ts";
import { promptPart } from "./prompt.ts";
import { type Settings, settingsOf } from "./settings.ts";

const MODES = [
  { value: "mean", text: "Mean" },
  { value: "zero", text: "Zero" },
  { value: "resample", text: "Resample" },
];

export function build(context: ViewContext<Traits>): void {
  const { frame } = context;
  const settings = settingsOf(context);
  const question = section("Question", "what the model is asked");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, ...promptPart(context, settings));
  const left = el("div", "iw-column", {}, gridPart(context, settings));
  const right = el("div", "iw-column", {}, cardPart(context, settings.card), ...outcomePart(context));
  right.append(examplesPart(context, settings));
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
  );
}

function gridPart(context: ViewContext<Traits>, settings: Settings): HTMLElement {
  const { state, panel, watch, hover, lock, off, pending, refusals, snapshot, theme, intent, signal, derive, stable } =
    context;
  const part = section("Heads", "what each was worth");
  const selected = signal<readonly string[]>([]);
  const table = trackTable(context);
  const now = derive(() => cellsOf(table.value.now, settings.choice.value));
  const before = derive(() => cellsOf(table.value.before, settings.choice.value));
  const stale = derive(() => isOld(now.value, table.value.now, settings, snapshot.value?.revision ?? 0));
  const modes = segment("mode", (mode) => intent("mode", "mode", { mode: mode as AblationMode }));
  const wishes = ablations(context, settings, (sites) => {
    selected.value = sites;
  });
  const grid = headGrid(wishes, "heads by layer", context.abort);
  const chosen = selectionBar(context, selected, wishes.toggle);
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const [headKey, mlpKey] = [legend(), legend()];
  const about = honest();
  const failed = alertLine();
  const refused = alertLine(() => {
    for (const key of refusals.peek().keys()) if (isAblation(key)) context.store.dismiss(key);
  });
  part.aside.append(modes.node);
  part.body.append(
    choicesPart(context, settings),
    grid.node,
    chosen,
    line,
    cardButton(context, settings),
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
    const look = looks(shape, now.value, before.value, context, new Set(selected.value), stale.value);
    grid.paint({ shape, look, isOff: (site) => off.value.has(site) });
  });
  watch(() => grid.mark(siteOf(hover.value), siteOf(lock.value)));
  watch(() => {
    const cells = now.value;
    const ramp = theme.value.ramp;
    show(headKey.node, cells?.heads != null || cells?.meanwhile != null);
    show(mlpKey.node, cells?.mlps != null);
    if (cells !== null) headKey.paint(cells.scale, ramp, cells.meaning);
    if (cells !== null) mlpKey.paint(cells.mlpScale, ramp, "MLPs");
    if (state.value !== null) {
      const whole = wholeLayers(heads.value, off.value);
      about.paint([...honestParts(table.value.now, state.value, settings.choice.value.colour), whole]);
    }
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  watch(() => refused.paint([...refusals.value.values()].find((one) => isAblation(one.key))?.message ?? null));
  watch(() => {
    const site = siteOf(hover.value) ?? siteOf(lock.value);
    const here = state.value;
    line.classList.toggle("iw-fixed-on", site !== null);
    if (site === null || here === null) setText(line, HINT);
    else paintWords(line, preview(site, off.value.has(site), table.value.now, here, settings.choice.value.example));
  });
  askForHovered(context, table);
  return part.node;
}

/** Old: measured at another revision, or at other positions than those chosen now. */
function isOld(cells: Cells | null, table: Table | null, settings: Settings, revision: number): boolean {
  if ((cells?.revision ?? 0) < revision) return true;
  const elsewhere = JSON.stringify(table?.positions ?? []) !== JSON.stringify(settings.positions.value);
  return settings.choice.value.colour === "total effect" && elsewhere;
}

function choicesPart({ watch, state, pending }: ViewContext<Traits>, settings: Settings): HTMLElement {
  const colour = choice("colour", (value) => settings.set("colour", value));
  const read = choice("read", (value) => settings.set("read", value));
  watch(() => {
    const { colour: colourNow, read: readNow } = settings.choice.value;
    const metric = state.value?.question?.label ?? "metric";
    const named = (value: string): string => ({ metric, probability: "probability of the target" })[value] ?? value;
    colour.paint(
      COLOURS.map((value) => ({ value, text: value })),
      colourNow,
    );
    read.paint(
      READS.map((value) => ({ value, text: named(value) })),
      readNow,
    );
    show(read.node, colourNow === "total effect");
  });
  return el("div", "iw-section-tools", {}, colour.node, read.node, drawsPart());

  function drawsPart(): HTMLElement {
    const field = el("input", "iw-menu iw-draws", {
      type: "number",
      min: 1,
      max: MOST_DRAWS,
      required: true,
    });
    const node = el("label", "iw-choice", { title: DRAWS }, el("span", "iw-muted", {}, "draws"), field);
    entered(field, () => {
      if (field.reportValidity()) settings.set("draws", field.valueAsNumber);
    });
    watch(() => {
      field.value = String(settings.draws.value);
    });
    watch(() => {
      show(node, state.value !== null && modeOf(state.value, pending.value) === "resample");
    });
    return node;
  }
}

const MOST_DRAWS = 64;
const DRAWS = "prompts per effect, at most; a click takes the first";

/** While a long sweep runs, the head under the pointer is measured next. */
function askForHovered(context: ViewContext<Traits>, table: { readonly value: { now: Table | null } }): void {
  const { hover, watch, intent, panelId, stable } = context;
  const site = stable(() => siteOf(hover.value));
  watch(() => {
    const head = site.value === null ? null : headOf(site.value);
    const now = table.value.now;
    if (head === null || now?.meanwhile !== "direct" || now.effects === null) return;
    if (Number.isNaN(cell(now.effects, head.layer, head.head)))
      intent("panel", `first:${panelId}`, { panel: panelId, action: "first", ...head }, { throttled: true });
  });
}

/** What a cell of a layer that is switched off as a whole means. */
function wholeLayers(heads: readonly number[], off: ReadonlySet<string>): string {
  const whole = heads.flatMap((count, layer) =>
    count > 1 && Array.from({ length: count }, (_, head) => `L${layer}H${head}`).every((site) => off.has(site))
      ? [layer]
      : [],
  );
  if (whole.length === 0) return "";
  return `all heads of ${plural(whole.length, "layer")} are off: there a cell says what that head alone would bring back`;
}

const HINT = "Hover or focus a head to see the answer without it; click to switch it off; drag to select several.";

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
  now: Cells | null,
  before: Cells | null,
  context: ViewContext<Traits>,
  selected: ReadonlySet<string>,
  stale: boolean,
): Look {
  const [off, ramp, heads] = [context.off.value, context.theme.value.ramp, columnsOf(shape)];
  return (site, at) => {
    const one = numberOf(now, before, shape, at);
    const scale = at.column === heads ? now?.mlpScale : now?.scale;
    return {
      colour: scale === undefined ? null : colourAt(ramp, place(scale, one.value)),
      value: one.value,
      off: off.has(site),
      stale: stale || one.stale,
      selected: selected.has(site),
      hollow: one.hollow,
    };
  };
}

function paintWords(node: HTMLElement, words: Words): void {
  const key = JSON.stringify(words);
  if (node.dataset.words === key && node.textContent !== HINT) return;
  node.dataset.words = key;
  node.replaceChildren(...words.map(([text, isStrong]) => (isStrong ? strong(text) : document.createTextNode(text))));
}
