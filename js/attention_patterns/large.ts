/** One pattern, large: rows are destinations, columns sources, every token named; a crosshair, rings, and the edges that are cut. */

import "./large.css";
import type { Ramp } from "../kit/colour.ts";
import { el, reconcile, setText } from "../kit/dom.ts";
import { named } from "../kit/format.ts";
import { type HeatCell, heatmap } from "../kit/heatmap.ts";
import type { Diverging } from "../kit/scale.ts";
import type { Token } from "../session/protocol.ts";
import { blockOf, type Drawn, tokenOf } from "./model.ts";

export type LargeState = { tokens: readonly Token[]; drawn: Drawn; scale: Diverging; ramp: Ramp };
export type LargeMarks = {
  cell: HeatCell | null;
  locked: HeatCell | null;
  token: number | null;
  cut: readonly HeatCell[];
};
export type LargeActions = { hover(cell: HeatCell | null): void; press(cell: HeatCell): void };
export type Large = { node: HTMLElement; paint(state: LargeState): void; mark(marks: LargeMarks): void };

const MIN_CELL = 3;
const BEST_CELL = 26;
/** Below this a name has no line of its own. */
const LINE = 13;

export type LargeLayout = { cell: number; every: number; left: number; top: number };

/** As large as fits beside its names, between 3 and 26 px a cell. */
export function largeLayout(size: number, width: number, longest: number): LargeLayout {
  const left = Math.min(104, 14 + longest * 7.3);
  const cell = Math.max(MIN_CELL, Math.min(BEST_CELL, Math.floor((width - left - 6) / Math.max(1, size))));
  return { cell, every: Math.max(1, Math.ceil(LINE / cell)), left, top: Math.min(92, 14 + longest * 7.3) };
}

export function large(actions: LargeActions, abort: AbortSignal): Large {
  const [rows, columns] = [el("div", "iw-large-rows"), el("div", "iw-large-columns")];
  const map = heatmap("attention pattern, rows are destinations and columns sources", actions, abort);
  const [across, down] = [band("iw-large-across"), band("iw-large-down")];
  const locked = el("div", "iw-large-locked", { hidden: true });
  const cuts = el("div", "iw-large-cuts", { "aria-hidden": "true" });
  const corner = el("div", "iw-large-corner iw-honest", {}, el("span", "", {}, "looks ↓ at →"));
  map.node.append(across, down, cuts, locked);
  const node = el("div", "iw-large", {}, corner, columns, rows, map.node);
  let state: LargeState | null = null;
  let marks: LargeMarks = { cell: null, locked: null, token: null, cut: [] };
  let layout: LargeLayout | null = null;
  let paintedFor = 0;

  function paint(next: LargeState): void {
    state = next;
    paintedFor = node.clientWidth;
    const { tokens, drawn } = next;
    const { size } = drawn;
    const longest = Math.min(12, Math.max(1, ...tokens.map((token) => named(token).length)));
    layout = largeLayout(size, paintedFor || 460, longest);
    const side = size * layout.cell;
    node.style.gridTemplateColumns = `${layout.left}px ${side}px`;
    node.style.gridTemplateRows = `${layout.top}px ${side}px`;
    map.node.style.width = map.node.style.height = `${side}px`;
    map.paint({ rows: size, columns: size, at: drawn.at }, next.scale, next.ramp);
    paintNames();
    mark(marks);
  }

  function paintNames(): void {
    if (state === null || layout === null) return;
    const { tokens, drawn } = state;
    const { every, cell } = layout;
    const shown = Array.from({ length: Math.ceil(drawn.size / every) }, (_, index) => index * every);
    for (const [axis, along] of [
      [rows, "top"],
      [columns, "left"],
    ] as const) {
      reconcile(
        axis,
        [...shown, -1],
        () => el("span", "iw-large-name"),
        (name, block, index) => {
          const last = index === shown.length;
          name.classList.toggle("iw-large-here", last);
          if (last) return;
          const token = tokenOf(block, tokens.length, drawn.size);
          setText(name, nameAt(tokens, token));
          name.dataset.axisToken = String(token);
          name.classList.toggle("iw-token-special", tokens[token]?.kind !== "text");
          name.style[along] = middle(block, cell);
        },
      );
    }
  }

  function mark(next: LargeMarks): void {
    marks = next;
    if (state === null || layout === null) return;
    const { tokens, drawn } = state;
    const { cell: side } = layout;
    const block = next.token === null ? null : blockOf(next.token, tokens.length, drawn.size);
    const row = next.cell?.row ?? next.locked?.row ?? block;
    const column = next.cell?.column ?? next.locked?.column ?? block;
    for (const [line, at, size, along] of [
      [across, row, "height", "top"],
      [down, column, "width", "left"],
    ] as const) {
      line.hidden = at === null;
      line.style[along] = `${(at ?? 0) * side}px`;
      line.style[size] = `${side}px`;
    }
    here(rows, "top", row);
    here(columns, "left", column);
    map.mark(next.cell);
    locked.hidden = next.locked === null;
    if (next.locked !== null) box(locked, next.locked, side);
    reconcile(
      cuts,
      next.cut,
      () => el("i", "iw-large-cut"),
      (one, cell) => box(one, cell, side),
    );
  }

  /** The name of the row or column that is meant, over those that happen to stand there. */
  function here(axis: HTMLElement, along: "top" | "left", block: number | null): void {
    const name = axis.lastElementChild as HTMLElement | null;
    if (name === null || state === null || layout === null) return;
    name.hidden = block === null || block >= state.drawn.size;
    if (block === null) return;
    setText(name, nameAt(state.tokens, tokenOf(block, state.tokens.length, state.drawn.size)));
    name.style[along] = middle(block, layout.cell);
  }

  if (typeof ResizeObserver !== "undefined") {
    // What was painted while it was hidden was painted for no width.
    const sized = new ResizeObserver(() => {
      if (node.clientWidth !== paintedFor && node.clientWidth > 0 && state !== null) paint(state);
    });
    sized.observe(node);
    abort.addEventListener("abort", () => sized.disconnect());
  }
  return { node, paint, mark };
}

/** Where a name stands beside its line; the first of narrow lines would stick out. */
function middle(block: number, cell: number): string {
  return `${Math.max(LINE / 2, (block + 0.5) * cell)}px`;
}

function nameAt(tokens: readonly Token[], index: number): string {
  const token = tokens[index];
  return token === undefined ? "" : named(token);
}

function band(className: string): HTMLElement {
  return el("div", `iw-large-band ${className}`, { hidden: true });
}

function box(node: HTMLElement, { row, column }: HeatCell, side: number): void {
  node.style.left = `${column * side}px`;
  node.style.top = `${row * side}px`;
  node.style.width = node.style.height = `${side}px`;
}
