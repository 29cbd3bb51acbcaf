/** The grid as real buttons: every head is in the accessibility tree. Good up to about two thousand. */

import { css } from "./colour.ts";
import { el, setAttributes } from "./dom.ts";
import { columnsOf, type Layout, nameOf, type Position, type Shape, siteAt, sizeOf } from "./grid_geometry.ts";
import type { CellLook } from "./grid_look.ts";
import type { Surface } from "./headgrid.ts";

/** So many cells may change at once with a transition. */
const FEW = 24;

export function gridButtons(label: string): Surface {
  const node = el("div", "iw-grid", { role: "grid", "aria-label": label, "data-surface": "buttons" });
  const cells = new Map<string, [HTMLButtonElement, Position]>();
  const headers: { position: Position; node: HTMLButtonElement }[] = [];
  const painted = new Map<string, string>();
  let stop: HTMLButtonElement | null = null;
  let hovered: HTMLButtonElement | undefined;
  let locked: HTMLButtonElement | undefined;

  function cellButton(position: Position, className: string, name: string): HTMLButtonElement {
    return el("button", className, {
      type: "button",
      tabindex: -1,
      "aria-label": name,
      "aria-pressed": "false",
      "data-row": position.row,
      "data-column": position.column,
    });
  }

  function header(shape: Shape, position: Position, text: string, role: string): HTMLElement {
    const one = cellButton(position, "iw-grid-header", nameOf(shape, position));
    one.textContent = text;
    headers.push({ position, node: one });
    return el("div", "iw-grid-slot", { role }, one);
  }

  function slot(shape: Shape, row: number, column: number): HTMLElement {
    const site = siteAt(shape, { row, column });
    if (site === null) return el("div", "iw-grid-slot", { role: "gridcell" });
    const one = cellButton({ row, column }, "iw-cell", site);
    cells.set(site, [one, { row, column }]);
    return el("div", "iw-grid-slot", { role: "gridcell" }, one);
  }

  function line(shape: Shape, row: number): HTMLElement {
    const columns = columnsOf(shape);
    const all = [...Array(columns + (shape.mlp ? 1 : 0)).keys()];
    const first = row < 0 ? el("div", "iw-grid-slot") : header(shape, { row, column: -1 }, `L${row}`, "rowheader");
    const rest = all.map((column) => {
      if (row >= 0) return slot(shape, row, column);
      return header(shape, { row, column }, column === columns ? "mlp" : String(column), "columnheader");
    });
    if (shape.mlp) rest.splice(columns, 0, el("div", "iw-grid-slot"));
    return el("div", "iw-grid-line", { role: "row" }, first, ...rest);
  }

  return {
    node,
    arrange(shape, layout) {
      node.replaceChildren();
      cells.clear();
      painted.clear();
      headers.length = 0;
      for (let row = -1; row < layout.rows; row += 1) node.append(line(shape, row));
      setTemplate(node, layout);
    },
    paint(look, headerOn) {
      const changed = [...cells].flatMap(([site, [one, at]]) => {
        const next = look(site, at);
        const key = JSON.stringify(next);
        if (painted.get(site) === key) return [];
        painted.set(site, key);
        return [[one, next] as const];
      });
      // The eye follows one mark that moves, or a few; a hundred animations at once only cost frames.
      node.classList.toggle("iw-grid-still", changed.length > FEW);
      for (const [one, next] of changed) paintCell(one, next);
      for (const { position, node: one } of headers)
        setAttributes(one, { "aria-pressed": String(headerOn(position) ?? false) });
    },
    mark(hover, lock) {
      const [nowHovered, nowLocked] = [hover, lock].map((site) => (site === null ? undefined : cells.get(site)?.[0]));
      if (hovered !== nowHovered) hovered?.classList.remove("iw-hover");
      if (locked !== nowLocked) locked?.classList.remove("iw-locked");
      nowHovered?.classList.add("iw-hover");
      nowLocked?.classList.add("iw-locked");
      [hovered, locked] = [nowHovered, nowLocked];
    },
    activate(position, focus) {
      const next = node.querySelector<HTMLButtonElement>(
        `[data-row="${position.row}"][data-column="${position.column}"]`,
      );
      if (next === null) return;
      if (stop !== null) stop.tabIndex = -1;
      stop = next;
      next.tabIndex = 0;
      if (focus) next.focus();
    },
  };
}

function setTemplate(node: HTMLElement, layout: Layout): void {
  const { cell, gap, header, top, aside } = layout;
  // Column gaps are part of the tracks, so that geometry and screen agree to the pixel.
  const mlp = layout.mlp ? `${aside}px ${cell + gap}px` : "";
  node.style.gridTemplateColumns = `${header}px repeat(${layout.columns}, ${cell + gap}px) ${mlp}`;
  node.style.gridTemplateRows = `${top}px repeat(${layout.rows}, ${cell + gap}px)`;
  node.style.setProperty("--iw-cell", `${cell}px`);
  node.style.width = `${sizeOf(layout).width}px`;
}

function paintCell(one: HTMLButtonElement, look: CellLook): void {
  const hollow = look.hollow === true;
  const colour = look.colour === null ? "" : css(look.colour);
  one.style.backgroundColor = hollow ? "" : colour;
  if (hollow) one.style.setProperty("--iw-hollow", colour);
  one.setAttribute("aria-pressed", String(look.off));
  setAttributes(one, {
    "data-effect": Number.isFinite(look.value) && !hollow ? look.value : null,
  });
  one.classList.toggle("iw-off", look.off);
  one.classList.toggle("iw-hollow", hollow);
  one.classList.toggle("iw-empty", look.colour === null);
  one.classList.toggle("iw-cell-stale", look.stale);
  one.classList.toggle("iw-selected", look.selected);
}
