/** A matrix as a picture: one pixel of the canvas per cell, scaled up by the browser; the ring and the numbers are outside of it. */

import "./heatmap.css";
import { colourAt, type Ramp } from "./colour.ts";
import { el, on } from "./dom.ts";
import { type Diverging, place } from "./scale.ts";

export type Matrix = { rows: number; columns: number; at(row: number, column: number): number };
export type HeatCell = { row: number; column: number };
export type HeatmapActions = { hover(cell: HeatCell | null): void; press(cell: HeatCell): void };
export type Heatmap = {
  node: HTMLElement;
  paint(matrix: Matrix, scale: Diverging, ramp: Ramp): void;
  mark(cell: HeatCell | null): void;
};

const LEVELS = 255;

/** The ramp as bytes, so that a million cells cost a million look-ups and no colour arithmetic. Level 0 … 254 is -1 … 1. */
export function lookupTable(ramp: Ramp): Uint8ClampedArray {
  const table = new Uint8ClampedArray(LEVELS * 4);
  for (let level = 0; level < LEVELS; level += 1) {
    const colour = colourAt(ramp, (level / (LEVELS - 1)) * 2 - 1) ?? [0, 0, 0];
    table.set([...colour, 255], level * 4);
  }
  return table;
}

/** RGBA of every cell; what is not a number stays transparent. */
export function pixels(matrix: Matrix, scale: Diverging, table: Uint8ClampedArray): Uint8ClampedArray<ArrayBuffer> {
  const out = new Uint8ClampedArray(matrix.rows * matrix.columns * 4);
  // A pixel as one number: copying four bytes apiece takes ten times as long.
  const source = new Uint32Array(table.buffer, table.byteOffset, LEVELS);
  const target = new Uint32Array(out.buffer);
  for (let row = 0; row < matrix.rows; row += 1) {
    for (let column = 0; column < matrix.columns; column += 1) {
      const position = place(scale, matrix.at(row, column));
      if (Number.isNaN(position)) continue;
      const level = Math.round(((position + 1) / 2) * (LEVELS - 1));
      target[row * matrix.columns + column] = source[level] ?? 0;
    }
  }
  return out;
}

/** The cell under a point of a box of the given size; null outside. */
export function cellUnder(
  matrix: { rows: number; columns: number },
  width: number,
  height: number,
  x: number,
  y: number,
): HeatCell | null {
  const column = Math.floor((x / width) * matrix.columns);
  const row = Math.floor((y / height) * matrix.rows);
  const inside = row >= 0 && column >= 0 && row < matrix.rows && column < matrix.columns;
  return inside ? { row, column } : null;
}

const STEPS: Record<string, [number, number]> = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

export function heatmap(label: string, actions: HeatmapActions, abort: AbortSignal): Heatmap {
  const canvas = el("canvas", "", { "aria-hidden": "true" });
  const ring = el("div", "iw-heatmap-ring", { hidden: true });
  const node = el("div", "iw-heatmap", { role: "img", "aria-label": label, tabindex: 0 }, canvas, ring);
  let matrix: Matrix = { rows: 0, columns: 0, at: () => Number.NaN };
  let active: HeatCell = { row: 0, column: 0 };
  const options = { signal: abort };

  const under = (event: MouseEvent): HeatCell | null => {
    const box = node.getBoundingClientRect();
    return cellUnder(matrix, box.width, box.height, event.clientX - box.left, event.clientY - box.top);
  };
  on(node, "pointermove", (event) => actions.hover(under(event)), options);
  on(node, "pointerleave", () => actions.hover(null), options);
  on(
    node,
    "click",
    (event) => {
      const cell = under(event);
      if (cell !== null) actions.press(cell);
    },
    options,
  );
  on(
    node,
    "keydown",
    (event) => {
      const step = STEPS[event.key];
      if (step !== undefined) {
        event.preventDefault();
        active = {
          row: clamp(active.row + step[0], matrix.rows),
          column: clamp(active.column + step[1], matrix.columns),
        };
        actions.hover(active);
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        actions.press(active);
      }
    },
    options,
  );

  return {
    node,
    paint(next, scale, ramp) {
      matrix = next;
      canvas.width = Math.max(1, next.columns);
      canvas.height = Math.max(1, next.rows);
      const context = canvas.getContext("2d");
      if (context === null || next.rows * next.columns === 0) return;
      context.putImageData(new ImageData(pixels(next, scale, lookupTable(ramp)), next.columns, next.rows), 0, 0);
    },
    mark(cell) {
      ring.hidden = cell === null;
      if (cell === null) return;
      active = cell;
      ring.style.left = `${(cell.column / matrix.columns) * 100}%`;
      ring.style.top = `${(cell.row / matrix.rows) * 100}%`;
      ring.style.width = `${100 / matrix.columns}%`;
      ring.style.height = `${100 / matrix.rows}%`;
    },
  };
}

function clamp(value: number, count: number): number {
  return Math.max(0, Math.min(count - 1, value));
}
