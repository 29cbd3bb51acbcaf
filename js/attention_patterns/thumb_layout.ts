/** Where thumbnails stand, which one is under a point, and where an arrow key leads. No DOM in here. */

import type { HeadAt } from "./model.ts";

export type ThumbLayout = {
  cell: number;
  gap: number;
  /** Room under a thumbnail for its score, over it for its name. */
  bar: number;
  name: number;
  left: number;
  top: number;
  columns: number;
  rows: number;
  width: number;
  height: number;
  /** Sorted: one after the other; else a row per layer. */
  flow: boolean;
};

export const MIN_CELL = 14;
const BEST_CELL = 76;
const HEADER = 30;
/** Room for the ring of an outermost thumbnail. */
const RING = 5;

export function thumbLayout(heads: readonly number[], width: number, scored: boolean, flow: boolean): ThumbLayout {
  const most = heads.reduce((a, b) => Math.max(a, b), 0);
  const total = heads.reduce((a, b) => a + b, 0);
  const gap = most > 24 ? 2 : 5;
  const left = flow ? RING : HEADER;
  const fit = most > 0 ? Math.floor((width - left - RING) / most) - gap : BEST_CELL;
  const cell = Math.max(flow ? 24 : MIN_CELL, Math.min(BEST_CELL, fit));
  const columns = flow ? Math.max(1, Math.floor((width - 2 * RING + gap) / (cell + gap))) : most;
  const rows = flow ? Math.ceil(total / columns) : heads.length;
  const bar = scored ? 5 : 0;
  const name = flow && cell >= 30 ? 13 : 0;
  const top = flow ? RING : 18;
  return {
    cell,
    gap,
    bar,
    name,
    left,
    top,
    columns,
    rows,
    flow,
    width: left + columns * (cell + gap) - gap + RING,
    height: top + rows * (cell + gap + bar + name) - gap + RING,
  };
}

export function pitchOf({ cell, gap, bar, name }: ThumbLayout): number {
  return cell + gap + bar + name;
}

/** The corner of the thumbnail itself. */
export function cornerOf(layout: ThumbLayout, order: readonly HeadAt[], index: number): { x: number; y: number } {
  const at = gridOf(layout, order, index);
  return {
    x: layout.left + at.column * (layout.cell + layout.gap),
    y: layout.top + at.row * pitchOf(layout) + layout.name,
  };
}

function gridOf(layout: ThumbLayout, order: readonly HeadAt[], index: number): { row: number; column: number } {
  const one = order[index];
  if (layout.flow || one === undefined)
    return { row: Math.floor(index / layout.columns), column: index % layout.columns };
  return { row: one.layer, column: one.head };
}

/** The index in `order` of the thumbnail under a point; null between and outside. */
export function indexUnder(layout: ThumbLayout, order: readonly HeadAt[], x: number, y: number): number | null {
  const column = Math.floor((x - layout.left) / (layout.cell + layout.gap));
  const row = Math.floor((y - layout.top) / pitchOf(layout));
  return indexAt(layout, order, row, column);
}

function indexAt(layout: ThumbLayout, order: readonly HeadAt[], row: number, column: number): number | null {
  if (row < 0 || column < 0 || column >= layout.columns || row >= layout.rows) return null;
  if (layout.flow) return row * layout.columns + column < order.length ? row * layout.columns + column : null;
  const index = order.findIndex((one) => one.layer === row && one.head === column);
  return index < 0 ? null : index;
}

const STEPS: Record<string, [number, number]> = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

/** Where a key leads from a thumbnail, past layers without heads; null when the key means nothing here. */
export function movedThumb(layout: ThumbLayout, order: readonly HeadAt[], index: number, key: string): number | null {
  if (key === "Home") return 0;
  if (key === "End") return order.length - 1;
  const step = STEPS[key];
  if (step === undefined) return null;
  let { row, column } = gridOf(layout, order, index);
  do {
    row += step[0];
    column += step[1];
    const next = indexAt(layout, order, row, column);
    if (next !== null) return next;
  } while (row >= 0 && column >= 0 && row < layout.rows && column < layout.columns);
  return index;
}
