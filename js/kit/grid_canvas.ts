/** The grid on a canvas, for models with thousands of heads. One button, laid over the active cell, stands for all of them. */

import { el, setText, show } from "./dom.ts";
import {
  type Box,
  boxOf,
  columnsOf,
  exists,
  type Layout,
  type Position,
  positionOf,
  type Shape,
  siteAt,
  sizeOf,
} from "./grid_geometry.ts";
import type { CellLook, Surface } from "./headgrid.ts";

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
        return site === null ? (headerOn(position) ?? false) : look(site).off;
      };
      const context = canvas.getContext("2d");
      if (context !== null && layout !== null) draw(context, canvas, shape, layout, look);
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

function nameOf(shape: Shape, position: Position): string {
  const site = siteAt(shape, position);
  if (site !== null) return site;
  if (position.column < 0) return `all heads of layer ${position.row}`;
  return position.column === columnsOf(shape) ? "all MLPs" : `head ${position.column} of every layer`;
}

type Ink = { text: string; line: string; accent: string; hatch: string; panel: string };

function draw(
  context: CanvasRenderingContext2D,
  canvas: HTMLCanvasElement,
  shape: Shape,
  layout: Layout,
  look: (site: string) => CellLook,
): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const style = getComputedStyle(canvas);
  const read = (name: string): string => style.getPropertyValue(name).trim() || "#888";
  const ink: Ink = {
    text: read("--iw-muted"),
    line: read("--iw-line"),
    accent: read("--iw-accent"),
    hatch: read("--iw-fg"),
    panel: read("--iw-panel"),
  };
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { width, height } = sizeOf(layout);
  context.clearRect(0, 0, width, height);
  drawHeaders(context, shape, layout, ink);
  for (let row = 0; row < layout.rows; row += 1) {
    for (let column = 0; column <= layout.columns; column += 1) {
      const site = siteAt(shape, { row, column });
      if (site !== null) drawCell(context, boxOf(layout, { row, column }), look(site), ink);
    }
  }
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

function drawCell(context: CanvasRenderingContext2D, box: Box, look: CellLook, ink: Ink): void {
  const inset = 0.5;
  context.globalAlpha = look.stale ? 0.5 : 1;
  if (look.colour !== null && look.hollow === true) {
    const edge = Math.max(1.5, box.width / 5);
    context.strokeStyle = look.colour;
    context.lineWidth = edge;
    context.strokeRect(box.x + edge / 2, box.y + edge / 2, box.width - edge, box.height - edge);
  } else if (look.colour !== null) {
    context.fillStyle = look.colour;
    context.fillRect(box.x, box.y, box.width, box.height);
  }
  context.globalAlpha = 1;
  if (look.off) hatch(context, box, ink.hatch);
  context.strokeStyle = look.selected ? ink.accent : ink.line;
  context.lineWidth = look.selected ? 2 : 1;
  context.setLineDash(look.colour === null ? [2, 2] : []);
  context.strokeRect(box.x + inset, box.y + inset, box.width - 2 * inset, box.height - 2 * inset);
  context.setLineDash([]);
}

function hatch(context: CanvasRenderingContext2D, box: Box, colour: string): void {
  context.save();
  context.beginPath();
  context.rect(box.x, box.y, box.width, box.height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1.2;
  context.beginPath();
  for (let offset = -box.height; offset < box.width; offset += 5) {
    context.moveTo(box.x + offset, box.y + box.height);
    context.lineTo(box.x + offset + box.height, box.y);
  }
  context.stroke();
  context.restore();
}
