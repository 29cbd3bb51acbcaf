/** The methods side by side: each one's scores as bars, its check, and how far they rank the tokens alike. */

import { asArray, type NdArray } from "../kit/codec.ts";
import { colourAt, css, type Ramp } from "../kit/colour.ts";
import { button, el, on, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { duration, num } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { diverging } from "../kit/scale.ts";
import { tokenIndex } from "../kit/tokens.ts";
import { partIsStale } from "../session/derive.ts";
import type { Panel } from "../session/panels.ts";
import { type Bars, bars } from "./bars.ts";
import { fields, listOf, methodTitle, numberOf, spansOf, text } from "./model.ts";
import type { Shared } from "./shared.ts";
import { distinct } from "./spans.ts";
import { wish } from "./token_part.ts";

export type Compared = {
  methods: string[];
  scores: NdArray;
  lines: string[];
  /** How many of its first tokens were replaced, what that cost, and what as many random ones cost. */
  checks: NdArray | null;
  correlations: NdArray | null;
  off: { method: string; reason: string }[];
  waiting: { method: string; seconds: number }[];
};

export function readCompared(panel: Panel | null): Compared | null {
  const data = fields(panel?.data.compare);
  const scores = asArray(data.scores);
  if (scores === null) return null;
  return {
    methods: listOf(data.methods).map(String),
    scores,
    lines: listOf(data.lines).map(String),
    checks: asArray(data.checks),
    correlations: asArray(data.correlations),
    off: listOf(data.off)
      .map(fields)
      .map(({ method, reason }) => ({ method: text(method), reason: text(reason) })),
    waiting: listOf(data.waiting)
      .map(fields)
      .map(({ method, seconds }) => ({ method: text(method), seconds: numberOf(seconds) })),
  };
}

/** The scores of one method. */
export function scoresOf({ scores }: Compared, row: number): number[] {
  const width = scores.shape[1] ?? 0;
  return Array.from({ length: width }, (_, column) => scores.data[row * width + column] ?? Number.NaN);
}

/** "top 3 cost 21.43, random 10.41": the deletion test of one method; empty where nothing was replaced. */
export function checkWords({ checks }: Pick<Compared, "checks">, row: number): string {
  const [count, cost, random] = [0, 1, 2].map((column) => checks?.data[3 * row + column] ?? Number.NaN);
  return cost === undefined || Number.isNaN(cost)
    ? ""
    : `top ${count} cost${count === 1 ? "s" : ""} ${num(cost)}, random ${num(random ?? Number.NaN)}`;
}

type Row = { node: HTMLElement; name: HTMLButtonElement; check: HTMLElement; bars: Bars };

export function methodsPart(shared: Shared): HTMLElement {
  const { context, method, ours, result, by, selection, choose } = shared;
  const { panel, snapshot, watch, derive, theme, hover, lock, point, abort, question } = context;
  const part = section("Methods", "side by side; a click chooses one");
  const list = el("div", "iw-methods");
  const none = el("div", "iw-muted", {}, "The other methods come after the scores.");
  const about = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed-method" });
  const table = el("div", "iw-agreement", { role: "table", "aria-label": "rank correlation between methods" });
  const words = el(
    "div",
    "iw-honest",
    {},
    "Spearman's rank correlation over the tokens: 1 the same order, 0 none, −1 reversed · agreement is no evidence by itself",
  );
  const rest = el("div", "iw-methods-rest");
  part.body.append(none, list, about, table, words, rest);
  const rows = new Map<string, Row>();
  const pointed = context.signal<string | null>(null);
  const compared = derive(() => (ours.value ? readCompared(panel.value) : null));
  /** One value per span and method, with the first token of each span. */
  const shown = derive(() => {
    const now = compared.value;
    const attribution = result.value;
    if (now === null || attribution === null) return null;
    const each = now.methods.map((_, row) =>
      distinct(spansOf(attribution, scoresOf(now, row), by.value, selection.value)),
    );
    return {
      values: each.map((spans) => spans.map(({ score }) => score)),
      firsts: each[0]?.map(({ positions }) => positions[0] ?? 0) ?? [],
      lasts: each[0]?.map(({ positions }) => positions.at(-1) ?? 0) ?? [],
    };
  });

  function makeRow(name: string): Row {
    const title = button("", "iw-method");
    const press = (): void => choose("method", name);
    const strip = bars(
      (index) => point(index === null ? null : { kind: "token", index: shown.peek()?.firsts[index] ?? 0 }),
      (index) => {
        const at = shown.peek()?.firsts[index] ?? 0;
        lock.value = tokenIndex(lock.peek()) === at ? null : { kind: "token", index: at };
      },
      abort,
    );
    on(title, "click", press);
    const check = el("div", "iw-honest", { "data-iw": "check" });
    const node = el("div", "iw-methods-row", {}, title, strip.node, check);
    for (const kind of ["pointerenter", "focusin"] as const)
      on(node, kind, () => {
        pointed.value = name;
      });
    return { node, name: title, check, bars: strip };
  }

  /** Whoever is told first of a new method makes its row: those that watch are not told in any order. */
  function rowOf(name: string): Row {
    const row = rows.get(name) ?? makeRow(name);
    rows.set(name, row);
    return row;
  }

  watch(() => {
    const now = compared.value;
    show(none, now === null);
    for (const node of [list, about, rest]) show(node, now !== null);
    const many = (now?.methods.length ?? 0) > 1;
    show(table, many);
    show(words, many);
    if (now === null) return;
    const old = partIsStale(panel.value, "compare", snapshot.value?.revision ?? 0);
    for (const node of [list, table]) node.classList.toggle("iw-stale", old);
    const nodes = now.methods.map((name) => rowOf(name).node);
    if (nodes.some((node, index) => list.children[index] !== node) || list.children.length !== nodes.length)
      list.replaceChildren(...nodes);
    for (const [name, row] of rows) {
      setText(row.name, methodTitle(name));
      setAttributes(row.name, { "aria-pressed": String(name === method.value), "data-method": name });
      setText(row.check, checkWords(now, now.methods.indexOf(name)));
    }
    if (now.correlations !== null) paintTable(table, now, theme.value.ramp);
    paintRest(now);
  });
  watch(() => {
    const [now, drawn] = [compared.value, shown.value];
    if (now === null || drawn === null) return;
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    const mark = at === null ? -1 : drawn.lasts.findIndex((last) => last >= at);
    now.methods.forEach((name, row) => {
      const values = drawn.values[row] ?? [];
      rowOf(name).bars.paint(values, diverging(values), theme.value.ramp, mark < 0 ? null : mark);
    });
  });
  watch(() => {
    const now = compared.value;
    if (now === null) return;
    const row = now.methods.indexOf(pointed.value ?? method.value);
    about.classList.toggle("iw-fixed-on", pointed.value !== null);
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    const name = now.methods[row];
    const score = at === null || row < 0 ? null : scoresOf(now, row)[at];
    const token = at === null ? undefined : question.value?.tokens[at];
    const number = score == null || token === undefined ? "" : ` · this token ${num(score, 3)}`;
    setText(about, name === undefined ? "" : `${methodTitle(name)}: ${now.lines[row] ?? ""}${number}`);
  });

  function paintRest(now: Compared): void {
    rest.replaceChildren(
      ...now.waiting.map(({ method: name, seconds }) => {
        const yes = button(`${methodTitle(name)} (about ${duration(seconds)})`);
        on(yes, "click", () => wish(context, "compute", { what: name }));
        return yes;
      }),
      ...now.off.map(({ method: name, reason }) => el("div", "iw-honest", {}, `${methodTitle(name)}: ${reason}`)),
    );
  }
  return part.node;
}

const SHORT: Record<string, string> = { gradient_x_input: "G × I", integrated_gradients: "IG" };

/** A table of numbers, each on its own colour. */
function paintTable(table: HTMLElement, { methods, correlations }: Compared, ramp: Ramp): void {
  const n = methods.length;
  table.style.setProperty("--iw-columns", String(n));
  const cells = [
    null,
    ...methods.map((name) => ({ name })),
    ...methods.flatMap((name, row) => [{ name }, ...methods.map((_, column) => ({ row, column }))]),
  ];
  reconcile(
    table,
    cells,
    () => el("span"),
    (node, cell) => {
      const header = cell === null || "name" in cell;
      const value =
        cell !== null && "row" in cell ? (correlations?.data[cell.row * n + cell.column] ?? Number.NaN) : Number.NaN;
      node.className = header ? "iw-agreement-name" : "iw-agreement-cell iw-num";
      const named = cell !== null && "name" in cell ? methodTitle(cell.name) : null;
      setAttributes(node, {
        title: named,
        role: header ? "columnheader" : "cell",
        "data-value": Number.isNaN(value) ? null : value,
      });
      setText(node, cell === null ? "" : "name" in cell ? (SHORT[cell.name] ?? methodTitle(cell.name)) : num(value));
      node.style.backgroundColor =
        header || Number.isNaN(value) ? "" : css(colourAt(ramp, value), 0.45 * Math.abs(value));
    },
  );
}
