/**
 * The layer × head grid: one button per head, a column of MLPs, headers that stand for a whole layer or head index.
 * This file is the behaviour (focus, hover, click, rectangle); `grid_buttons` and `grid_canvas` are two ways to show it.
 */

import "./headgrid.css";
import { el, on } from "./dom.ts";
import { gridButtons } from "./grid_buttons.ts";
import { gridCanvas } from "./grid_canvas.ts";
import {
  exists,
  type Layout,
  layoutOf,
  moved,
  type Position,
  positionAt,
  rectangle,
  type Shape,
  siteAt,
  sitesOfHeader,
} from "./grid_geometry.ts";
import type { CellLook, Look } from "./grid_look.ts";

export type { CellLook };

export type Surface = {
  readonly node: HTMLElement;
  arrange(shape: Shape, layout: Layout): void;
  paint(look: Look, headerOn: (position: Position) => boolean | null): void;
  /** The rings of what is hovered and what is locked: apart from `paint`, for they move with every move of the pointer. */
  mark(hover: string | null, lock: string | null): void;
  /** Makes a cell the one tab stop; with `focus` the keyboard goes there. */
  activate(position: Position, focus: boolean): void;
};

export type GridActions = {
  /** Switch these off, or on again. */
  toggle(sites: string[], off: boolean): void;
  hover(site: string | null): void;
  select(sites: string[]): void;
};

export type GridState = {
  shape: Shape;
  look: Look;
  isOff(site: string): boolean;
};

export type HeadGrid = {
  node: HTMLElement;
  paint(state: GridState): void;
  mark(hover: string | null, lock: string | null): void;
};

/** Buttons stay quick up to about this many cells. */
export const MAX_BUTTONS = 2000;

export function headGrid(actions: GridActions, label: string, abort: AbortSignal): HeadGrid {
  const frame = el("div", "iw-grid-frame");
  let surface: Surface | null = null;
  let state: GridState | null = null;
  let layout: Layout | null = null;
  let shapeKey = "";
  let active: Position = { row: 0, column: 0 };
  let anchor: Position | null = null;
  let dragging = false;
  let swallowClick = false;
  let marked: [string | null, string | null] = [null, null];
  // Read when it changes, not when painting: to read it there would lay the whole page out in the middle of a paint.
  let width = 0;

  function arrange(shape: Shape): void {
    width ||= frame.clientWidth || 420;
    const next = layoutOf(shape, width);
    const key = JSON.stringify([shape, next]);
    if (key === shapeKey) return;
    shapeKey = key;
    layout = next;
    const cells = shape.heads.reduce((sum, n) => sum + n, 0);
    if (surface === null || (surface.node.dataset.surface === "canvas") !== cells > MAX_BUTTONS) {
      surface?.node.remove();
      surface = cells > MAX_BUTTONS ? gridCanvas(label) : gridButtons(label);
      frame.append(surface.node);
      listen(surface.node);
    }
    surface.arrange(shape, next);
    if (!exists(shape, active)) active = moved(shape, { row: 0, column: 0 }, "Home") ?? { row: 0, column: 0 };
    surface.activate(active, false);
  }

  function paint(next: GridState): void {
    state = next;
    arrange(next.shape);
    surface?.paint(next.look, headerOn);
    surface?.mark(...marked);
  }

  function mark(hover: string | null, lock: string | null): void {
    marked = [hover, lock];
    surface?.mark(hover, lock);
  }

  /** Pressed when everything under a header is off, null when there is nothing under it. */
  function headerOn(position: Position): boolean | null {
    if (state === null) return null;
    const sites = sitesOfHeader(state.shape, position);
    return sites.length === 0 ? null : sites.every(state.isOff);
  }

  function at(event: PointerEvent | MouseEvent): Position | null {
    if (surface === null || layout === null || state === null) return null;
    const box = surface.node.getBoundingClientRect();
    const position = positionAt(layout, event.clientX - box.left, event.clientY - box.top);
    return position !== null && exists(state.shape, position) ? position : null;
  }

  function press(position: Position): void {
    if (state === null) return;
    const site = siteAt(state.shape, position);
    const sites = site === null ? sitesOfHeader(state.shape, position) : [site];
    if (sites.length > 0) actions.toggle(sites, !sites.every(state.isOff));
  }

  function goto(position: Position, focus: boolean): void {
    active = position;
    surface?.activate(position, focus);
    actions.hover(state === null ? null : siteAt(state.shape, position));
  }

  function selectTo(position: Position): void {
    if (anchor !== null && state !== null) actions.select(rectangle(state.shape, anchor, position));
  }

  function onKey(event: KeyboardEvent): void {
    if (state === null) return;
    if (event.key === "Escape") {
      anchor = null;
      actions.select([]);
      return;
    }
    const next = moved(state.shape, active, event.key, event.ctrlKey || event.metaKey);
    if (next === null) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.shiftKey) {
      anchor ??= active;
      goto(next, true);
      selectTo(next);
    } else {
      anchor = null;
      goto(next, true);
    }
  }

  function listen(node: HTMLElement): void {
    const options = { signal: abort };
    on(node, "keydown", onKey, options);
    on(
      node,
      "focusin",
      (event) => {
        const target = event.target as HTMLElement;
        const row = Number(target.dataset.row);
        const column = Number(target.dataset.column);
        if (Number.isFinite(row) && Number.isFinite(column)) goto({ row, column }, false);
      },
      options,
    );
    on(node, "focusout", () => actions.hover(null), options);
    on(node, "pointerleave", () => dragging || actions.hover(null), options);
    on(
      node,
      "pointerdown",
      (event) => {
        if (event.button !== 0) return;
        const position = at(event);
        anchor = position !== null && position.row >= 0 && position.column >= 0 ? position : null;
        dragging = false;
        swallowClick = false;
      },
      options,
    );
    on(
      node,
      "pointermove",
      (event) => {
        const position = at(event);
        if (position === null || state === null) return;
        if (
          event.buttons === 1 &&
          anchor !== null &&
          (dragging || position.row !== anchor.row || position.column !== anchor.column)
        ) {
          if (!dragging) node.setPointerCapture?.(event.pointerId);
          dragging = true;
          selectTo(position);
        } else actions.hover(siteAt(state.shape, position));
      },
      options,
    );
    on(
      node,
      "pointerup",
      () => {
        swallowClick = dragging;
        dragging = false;
        anchor = null;
      },
      options,
    );
    on(
      node,
      "pointercancel",
      () => {
        dragging = false;
      },
      options,
    );
    on(node, "click", (event) => onClick(event), options);
  }

  function onClick(event: MouseEvent): void {
    if (swallowClick) {
      swallowClick = false;
      return;
    }
    const target = (event.target as HTMLElement).closest<HTMLElement>("[data-row]");
    // A click by keyboard or by a test has no coordinates worth using; the button under it knows where it is.
    const position =
      target === null ? at(event) : { row: Number(target.dataset.row), column: Number(target.dataset.column) };
    if (position === null) return;
    active = position;
    surface?.activate(position, false);
    press(position);
  }

  if (typeof ResizeObserver !== "undefined") {
    const sized = new ResizeObserver(() => {
      if (frame.clientWidth === 0 || frame.clientWidth === width) return;
      width = frame.clientWidth;
      if (state !== null) paint(state);
    });
    sized.observe(frame);
    abort.addEventListener("abort", () => sized.disconnect());
  }
  return { node: frame, paint, mark };
}
