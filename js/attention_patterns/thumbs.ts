/**
 * All heads, small: only what is in sight is drawn, on one canvas as large as the frame. Rings are elements over it, so that
 * hovering repaints nothing. Heads are buttons; where there are very many, one button stands on the active head.
 */

import "./thumbs.css";
import { colourAt, css, type Ramp } from "../kit/colour.ts";
import { el, setAttributes } from "../kit/dom.ts";
import { type HeadAt, nameOf, ordered, type Patterns, scoreOf, siteOf } from "./model.ts";
import { levels, strip } from "./thumb_image.ts";
import { cornerOf, indexUnder, movedThumb, type ThumbLayout, thumbLayout } from "./thumb_layout.ts";

export type ThumbState = { patterns: Patterns; score: string | null; sorted: boolean; ramp: Ramp };
export type ThumbActions = { hover(site: string | null): void; press(site: string): void };
export type Thumbs = {
  node: HTMLElement;
  paint(state: ThumbState): void;
  /** What is hovered, what is drawn large, and whether that is locked. */
  mark(hover: string | null, large: string | null, locked: boolean): void;
};

const MAX_BUTTONS = 600;

export function thumbs(actions: ThumbActions, abort: AbortSignal): Thumbs {
  const canvas = el("canvas", "iw-thumbs-canvas", { "aria-hidden": "true" });
  const [hoverRing, largeRing] = [ring("iw-thumb-hover"), ring("iw-thumb-large")];
  const room = el("div", "iw-thumbs-room", { role: "group", "aria-label": "heads by layer" }, hoverRing, largeRing);
  const frame = el("div", "iw-thumbs", {}, canvas, room);
  let state: ThumbState | null = null;
  let layout: ThumbLayout | null = null;
  let order: HeadAt[] = [];
  let places = new Map<string, number>();
  const buttons: HTMLButtonElement[] = [];
  let active = 0;
  let marked: [string | null, string | null, boolean] = [null, null, false];
  let strips = new Map<number, HTMLCanvasElement | null>();
  let drawnFor: unknown[] = [];
  let waiting = false;
  let paintedFor = 0;

  function arrange(now: ThumbState): void {
    const { patterns, score, sorted } = now;
    paintedFor = frame.clientWidth;
    layout = thumbLayout(
      patterns.heads,
      paintedFor || 420,
      score !== null,
      (sorted && score !== null) || patterns.names.size > 0,
    );
    order = ordered(patterns, sorted ? score : null);
    places = new Map(order.map((one, index) => [siteOf(one), index]));
    room.style.width = `${layout.width}px`;
    room.style.height = `${layout.height}px`;
    active = Math.min(active, Math.max(0, order.length - 1));
    arrangeButtons();
    mark(...marked);
  }

  function arrangeButtons(): void {
    const wanted = order.length > MAX_BUTTONS ? Math.min(1, order.length) : order.length;
    while (buttons.length > wanted) buttons.pop()?.remove();
    while (buttons.length < wanted) {
      const one = el("button", "iw-thumb", { type: "button", tabindex: -1 });
      buttons.push(one);
      room.append(one);
    }
    for (let index = 0; index < wanted; index += 1) dress(index, wanted === order.length ? index : active);
    setTabStop();
  }

  const single = (): boolean => buttons.length < order.length;

  function dress(slot: number, index: number): void {
    const [button, one] = [buttons[slot], order[index]];
    if (button === undefined || one === undefined || layout === null) return;
    const { x, y } = cornerOf(layout, order, index);
    button.style.left = `${x}px`;
    button.style.top = `${y}px`;
    button.style.width = `${layout.cell}px`;
    button.style.height = `${layout.cell + layout.bar}px`;
    setAttributes(button, {
      "aria-label": siteOf(one),
      "aria-pressed": String(marked[2] && siteOf(one) === marked[1]),
      "data-index": index,
    });
  }

  function setTabStop(): void {
    buttons.forEach((button, slot) => {
      button.tabIndex = single() || slot === active ? 0 : -1;
    });
  }

  function goto(index: number, focus: boolean): void {
    active = index;
    if (single()) dress(0, index);
    setTabStop();
    const button = buttons[single() ? 0 : index];
    if (focus) button?.focus({ preventScroll: false });
    const one = order[index];
    actions.hover(one === undefined ? null : siteOf(one));
  }

  function mark(hover: string | null, large: string | null, locked: boolean): void {
    marked = [hover, large, locked];
    largeRing.classList.toggle("iw-thumb-lock", locked);
    for (const [node, site] of [
      [hoverRing, hover === large ? null : hover],
      [largeRing, large],
    ] as const) {
      const index = site === null ? undefined : places.get(site);
      node.hidden = index === undefined || layout === null;
      if (index === undefined || layout === null) continue;
      const { x, y } = cornerOf(layout, order, index);
      node.style.transform = `translate(${x}px, ${y}px)`;
      node.style.width = node.style.height = `${layout.cell}px`;
    }
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(locked && button.getAttribute("aria-label") === large));
    }
  }

  function paint(next: ThumbState): void {
    state = next;
    const key = [next.patterns.thumbs.values().next().value, next.ramp, next.patterns.size, next.patterns.signed];
    if (key.some((part, index) => part !== drawnFor[index])) {
      drawnFor = key;
      strips = new Map();
    }
    arrange(next);
    draw();
  }

  function draw(): void {
    const context = canvas.getContext("2d");
    if (context === null || state === null || layout === null) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const [width, height] = [frame.clientWidth, Math.min(frame.clientHeight, layout.height)];
    if (canvas.width !== Math.ceil(width * ratio)) canvas.width = Math.ceil(width * ratio);
    if (canvas.height !== Math.ceil(height * ratio)) canvas.height = Math.ceil(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.translate(-frame.scrollLeft, -frame.scrollTop);
    const colours = levels(state.ramp, state.patterns.signed);
    drawHeads(context, colours, { width, height, ratio });
    if (!layout.flow) drawHeaders(context, { width, height });
  }

  function stripOf(layer: number, colours: Uint8ClampedArray): HTMLCanvasElement | null {
    const images = state?.patterns.thumbs.get(layer);
    if (images === undefined || state === null) return null;
    let made = strips.get(layer);
    if (made === undefined) {
      made = strip(images, state.patterns.size, colours);
      strips.set(layer, made);
    }
    return made;
  }

  function drawHeads(
    context: CanvasRenderingContext2D,
    colours: Uint8ClampedArray,
    view: { width: number; height: number; ratio: number },
  ): void {
    if (state === null || layout === null) return;
    const { patterns, score, ramp } = state;
    const { size } = patterns;
    const style = getComputedStyle(frame);
    const [line, text] = ["--iw-line", "--iw-muted"].map((name) => style.getPropertyValue(name).trim() || "#888");
    context.imageSmoothingEnabled = layout.cell * view.ratio < size;
    context.font = "10px ui-monospace, Menlo, monospace";
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    const [top, left] = [frame.scrollTop, frame.scrollLeft];
    order.forEach((one, index) => {
      if (layout === null) return;
      const { x, y } = cornerOf(layout, order, index);
      if (y + layout.cell + layout.bar < top || y - layout.name > top + view.height) return;
      if (x + layout.cell < left || x > left + view.width) return;
      const image = stripOf(one.layer, colours);
      if (image !== null) context.drawImage(image, one.head * size, 0, size, size, x, y, layout.cell, layout.cell);
      context.strokeStyle = line ?? "";
      context.lineWidth = 1;
      context.strokeRect(x + 0.5, y + 0.5, layout.cell - 1, layout.cell - 1);
      if (layout.name > 0) {
        context.fillStyle = text ?? "";
        context.fillText(nameOf(patterns, siteOf(one)), x, y - 3, layout.cell);
      }
      if (score !== null) {
        context.fillStyle = css(colourAt(ramp, scoreOf(patterns, score, one)));
        context.fillRect(x, y + layout.cell + 2, layout.cell, layout.bar - 1);
      }
    });
  }

  /** Names of layers and heads stay in sight while the rest scrolls. */
  function drawHeaders(context: CanvasRenderingContext2D, view: { width: number; height: number }): void {
    if (layout === null || state === null) return;
    const style = getComputedStyle(frame);
    const read = (name: string): string => style.getPropertyValue(name).trim() || "#888";
    const { cell, gap, left, columns, rows } = layout;
    const every = Math.ceil(18 / (cell + gap));
    const [scrollTop, scrollLeft] = [frame.scrollTop, frame.scrollLeft];
    context.fillStyle = read("--iw-panel");
    context.fillRect(scrollLeft, scrollTop, left - 2, view.height);
    context.fillRect(scrollLeft, scrollTop, view.width, 16);
    context.fillStyle = read("--iw-muted");
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let column = 0; column < columns; column += every) {
      const x = left + column * (cell + gap) + cell / 2;
      if (x > scrollLeft + left) context.fillText(String(column), x, scrollTop + 8);
    }
    context.textAlign = "right";
    const step = Math.ceil(14 / (cell + gap + layout.bar));
    for (let row = 0; row < rows; row += step) {
      const y = layout.top + row * (cell + gap + layout.bar) + cell / 2;
      if (y > scrollTop + 16) context.fillText(`L${row}`, scrollLeft + left - 7, y);
    }
  }

  function drawSoon(): void {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!abort.aborted) draw();
    });
  }

  function under(event: MouseEvent): number | null {
    if (layout === null) return null;
    const box = room.getBoundingClientRect();
    return indexUnder(layout, order, event.clientX - box.left, event.clientY - box.top);
  }

  const options = { signal: abort };
  room.addEventListener(
    "pointermove",
    (event) => {
      const one = order[under(event) ?? -1];
      actions.hover(one === undefined ? null : siteOf(one));
    },
    options,
  );
  room.addEventListener("pointerleave", () => actions.hover(null), options);
  room.addEventListener("focusout", () => actions.hover(null), options);
  room.addEventListener(
    "focusin",
    (event) => {
      const index = Number((event.target as HTMLElement).dataset.index);
      if (Number.isFinite(index)) goto(index, false);
    },
    options,
  );
  room.addEventListener(
    "click",
    (event) => {
      // A click by keyboard or by a test has no coordinates worth using; the button under it knows where it is.
      const named = Number((event.target as HTMLElement).closest<HTMLElement>("[data-index]")?.dataset.index);
      const index = single() && event.detail > 0 ? under(event) : Number.isFinite(named) ? named : under(event);
      const one = order[index ?? -1];
      if (one === undefined || index === null) return;
      active = index;
      if (single()) dress(0, index);
      setTabStop();
      actions.press(siteOf(one));
    },
    options,
  );
  room.addEventListener(
    "keydown",
    (event) => {
      const next = layout === null ? null : movedThumb(layout, order, active, event.key);
      if (next === null) return;
      event.preventDefault();
      event.stopPropagation();
      goto(next, true);
    },
    options,
  );
  frame.addEventListener("scroll", drawSoon, { ...options, passive: true });
  if (typeof ResizeObserver !== "undefined") {
    // What was painted while it was hidden was painted for no width.
    const sized = new ResizeObserver(() => {
      if (frame.clientWidth !== paintedFor && frame.clientWidth > 0 && state !== null) paint(state);
    });
    sized.observe(frame);
    abort.addEventListener("abort", () => sized.disconnect());
  }
  return { node: frame, paint, mark };
}

function ring(className: string): HTMLElement {
  return el("div", `iw-thumb-ring ${className}`, { hidden: true, "aria-hidden": "true" });
}
