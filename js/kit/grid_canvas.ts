/** The grid on a canvas, for models with thousands of heads. One button, laid over the active cell, stands for all of them. */

import { css } from "./colour.ts";
import { el, setText, show } from "./dom.ts";
import {
  type Box,
  boxOf,
  exists,
  type Layout,
  nameOf,
  type Position,
  positionOf,
  type Shape,
  siteAt,
  sizeOf,
} from "./grid_geometry.ts";
import type { CellLook, Look } from "./grid_look.ts";
import type { Surface } from "./headgrid.ts";

export function gridCanvas(label: string): Surface {
  const canvas = el("canvas", "iw-grid-canvas", { "aria-hidden": "true" });
  const proxy = el("button", "iw-grid-proxy", { type: "button" });
  const slot = el("div", "iw-grid-slot", { role: "gridcell" }, proxy);
  const node = el("div", "iw-grid-large", { role: "grid", "aria-label": label, "data-surface": "canvas" }, canvas);
  node.append(el("div", "iw-grid-line", { role: "row" }, slot));
  const rings = ["iw-hover", "iw-locked"].map((name) =>
    el("i", `iw-grid-ring ${name}`, { hidden: true, "aria-hidden": "true" }),
  );
  node.append(...rings);
  let shape: Shape = { heads: [], mlp: false };
  let layout: Layout | null = null;
  let active: Position = { row: 0, column: 0 };
  let pressed: (position: Position) => boolean = () => false;
  const dots = el("canvas");

  function dress(): void {
    if (layout === null) return;
    lay(proxy, boxOf(layout, active));
    proxy.dataset.row = String(active.row);
    proxy.dataset.column = String(active.column);
    proxy.setAttribute("aria-label", nameOf(shape, active));
    proxy.setAttribute("aria-pressed", String(pressed(active)));
    setText(proxy, "");
  }

  return {
    node,
    arrange(nextShape, nextLayout) {
      shape = nextShape;
      layout = nextLayout;
      const { width, height } = sizeOf(nextLayout);
      const ratio = globalThis.devicePixelRatio || 1;
      canvas.width = Math.ceil(width * ratio);
      canvas.height = Math.ceil(height * ratio);
      for (const part of [canvas, node]) {
        part.style.width = `${width}px`;
        part.style.height = `${height}px`;
      }
      dress();
    },
    paint(look, headerOn) {
      pressed = (position) => {
        const site = siteAt(shape, position);
        return site === null ? (headerOn(position) ?? false) : look(site, position).off;
      };
      const context = canvas.getContext("2d");
      if (context !== null && layout !== null) draw(context, dots, shape, layout, look);
      dress();
    },
    mark(hover, lock) {
      for (const [index, site] of [hover, lock].entries()) {
        const position = site === null ? null : positionOf(shape, site);
        const ring = rings[index];
        if (ring === undefined) continue;
        show(ring, position !== null);
        if (position !== null && layout !== null) lay(ring, boxOf(layout, position));
      }
    },
    activate(position, focus) {
      active = position;
      dress();
      if (focus) proxy.focus();
    },
  };
}

function lay(node: HTMLElement, box: Box): void {
  node.style.left = `${box.x}px`;
  node.style.top = `${box.y}px`;
  node.style.width = `${box.width}px`;
  node.style.height = `${box.height}px`;
}

type Ink = { text: string; line: string; accent: string; hatch: string };

function inkOf(canvas: HTMLCanvasElement): Ink {
  const style = getComputedStyle(canvas);
  const [text, line, accent, hatch] = ["muted", "line", "accent", "fg"].map(
    (name) => style.getPropertyValue(`--iw-${name}`).trim() || "#888",
  ) as [string, string, string, string];
  return { text, line, accent, hatch };
}

function draw(
  context: CanvasRenderingContext2D,
  dots: HTMLCanvasElement,
  shape: Shape,
  layout: Layout,
  look: Look,
): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const ink = inkOf(context.canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { width, height } = sizeOf(layout);
  context.clearRect(0, 0, width, height);
  const others = paintDots(dots, shape, layout, look);
  drawDots(context, dots, layout, ink);
  drawHeaders(context, shape, layout, ink);
  for (const [at, own] of others) drawCell(context, boxOf(layout, at), own, ink);
}

/** One pixel per cell; what is more than a colour is given back, and what is no cell (null). */
function paintDots(
  dots: HTMLCanvasElement,
  shape: Shape,
  { rows, columns }: Layout,
  look: Look,
): [Position, CellLook | null][] {
  const image = new ImageData(columns + 1, rows);
  const others: [Position, CellLook | null][] = [];
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column <= columns; column += 1) {
      const at = { row, column };
      const site = siteAt(shape, at);
      const own = site === null ? null : look(site, at);
      if (own === null || own.colour === null || own.hollow || own.off || own.selected) others.push([at, own]);
      else image.data.set([...own.colour, own.stale ? 128 : 255], 4 * (row * (columns + 1) + column));
    }
  }
  dots.width = columns + 1;
  dots.height = rows;
  dots.getContext("2d")?.putImageData(image, 0, 0);
  return others;
}

/** All cells at once: the pixels as large as cells, the lines around them, and out again with what is between them. */
function drawDots(context: CanvasRenderingContext2D, dots: HTMLCanvasElement, layout: Layout, ink: Ink): void {
  const { cell, gap, top, rows, columns } = layout;
  const pitch = cell + gap;
  const height = rows * pitch;
  const [left, last] = [layout.header, boxOf(layout, { row: 0, column: columns }).x];
  context.imageSmoothingEnabled = false;
  context.drawImage(dots, 0, 0, columns, rows, left, top, columns * pitch, height);
  context.drawImage(dots, columns, 0, 1, rows, last, top, pitch, height);
  context.fillStyle = ink.line;
  const across = Array.from(
    { length: columns + (layout.mlp ? 1 : 0) },
    (_, column) => boxOf(layout, { row: 0, column }).x,
  );
  const down = Array.from({ length: rows }, (_, row) => top + row * pitch);
  const width = (across.at(-1) ?? left) + pitch - left;
  for (const [draw, at, size] of [
    ["fillRect", 0, 1],
    ["fillRect", cell - 1, 1],
    ["clearRect", cell, gap],
  ] as const) {
    for (const x of across) context[draw](x + at, top, size, height);
    for (const y of down) context[draw](left, y + at, width, size);
  }
  if (layout.mlp) context.clearRect(last - layout.aside - gap, top, layout.aside + gap, height);
}

/** Every label that has room: all of them would overlap at 12 px. */
function drawHeaders(context: CanvasRenderingContext2D, shape: Shape, layout: Layout, ink: Ink): void {
  const every = layout.cell + layout.gap < 18 ? 4 : 1;
  context.fillStyle = ink.text;
  context.font = "10px ui-monospace, Menlo, monospace";
  context.textBaseline = "middle";
  context.textAlign = "center";
  for (let column = 0; column <= layout.columns; column += 1) {
    if (!exists(shape, { row: -1, column })) continue;
    const box = boxOf(layout, { row: -1, column });
    const isMlp = column === layout.columns;
    if (isMlp || column % every === 0)
      context.fillText(isMlp ? "mlp" : String(column), box.x + box.width / 2, box.height / 2);
  }
  context.textAlign = "right";
  for (let row = 0; row < layout.rows; row += every === 1 ? 1 : 2) {
    const box = boxOf(layout, { row, column: -1 });
    context.fillText(`L${row}`, box.width - 6, box.y + layout.cell / 2);
  }
}

function drawCell(context: CanvasRenderingContext2D, box: Box, look: CellLook | null, ink: Ink): void {
  context.clearRect(box.x, box.y, box.width, box.height);
  if (look === null) return;
  context.globalAlpha = look.stale ? 0.5 : 1;
  const colour = css(look.colour);
  if (look.hollow) outline(context, box, colour, Math.max(1.5, box.width / 5));
  else if (look.colour !== null) {
    context.fillStyle = colour;
    context.fillRect(box.x, box.y, box.width, box.height);
  }
  context.globalAlpha = 1;
  if (look.off) hatch(context, box, ink.hatch);
  outline(
    context,
    box,
    look.selected ? ink.accent : ink.line,
    look.selected ? 2 : 1,
    look.colour === null ? [2, 2] : [],
  );
}

/** A line inside a box, along its edge. */
function outline(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: Box,
  colour: string,
  line: number,
  dash: number[] = [],
): void {
  context.strokeStyle = colour;
  context.lineWidth = line;
  context.setLineDash(dash);
  context.strokeRect(x + line / 2, y + line / 2, width - line, height - line);
}

function hatch(context: CanvasRenderingContext2D, box: Box, colour: string): void {
  context.save();
  context.beginPath();
  context.rect(box.x, box.y, box.width, box.height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1.2;
  context.setLineDash([]);
  context.beginPath();
  for (let offset = -box.height; offset < box.width; offset += 5) {
    context.moveTo(box.x + offset, box.y + box.height);
    context.lineTo(box.x + offset + box.height, box.y);
  }
  context.stroke();
  context.restore();
}
