/** Scores as bars up and down from a line, one per span: a picture as wide as there is room, of any number of them. */

import { colourAt, css, type Ramp } from "../kit/colour.ts";
import { el } from "../kit/dom.ts";
import { type Diverging, place } from "../kit/scale.ts";

export type Bar = { x: number; width: number; y: number; height: number; position: number };
export const HEIGHT = 34;

/** One bar per value; where there are more values than pixels, the largest of those that share one. */
export function barsOf(values: readonly number[], scale: Diverging, width: number): Bar[] {
  const columns = Math.min(values.length, Math.max(1, Math.floor(width)));
  const each = width / Math.max(1, columns);
  const gap = each >= 4 ? 1 : 0;
  const middle = HEIGHT / 2;
  return Array.from({ length: columns }, (_, column) => {
    const shared = values.slice(
      Math.floor((column * values.length) / columns),
      Math.floor(((column + 1) * values.length) / columns),
    );
    const value = shared.reduce((most, one) => (Math.abs(one) > Math.abs(most) ? one : most), 0);
    const position = place(scale, value) || 0;
    const height = Math.abs(position) * (middle - 1);
    return {
      x: column * each,
      width: Math.max(0.5, each - gap),
      y: position > 0 ? middle - height : middle,
      height,
      position,
    };
  });
}

/** Which value is under a point. */
export function valueUnder(count: number, width: number, x: number): number | null {
  const at = Math.floor((x / width) * count);
  return at >= 0 && at < count ? at : null;
}

export type Bars = {
  node: HTMLElement;
  paint(values: readonly number[], scale: Diverging, ramp: Ramp, mark: number | null): void;
};

export function bars(hover: (index: number | null) => void, press: (index: number) => void, abort: AbortSignal): Bars {
  const canvas = el("canvas", "", { "aria-hidden": "true" });
  const ring = el("i", "iw-bars-ring", { hidden: true });
  const node = el("div", "iw-bars", {}, canvas, ring);
  let count = 0;
  let again: () => void = () => {};
  const under = (event: MouseEvent): number | null => {
    const box = node.getBoundingClientRect();
    return valueUnder(count, box.width, event.clientX - box.left);
  };
  const options = { signal: abort };
  node.addEventListener("pointermove", (event) => hover(under(event)), options);
  node.addEventListener("pointerleave", () => hover(null), options);
  node.addEventListener(
    "click",
    (event) => {
      const at = under(event);
      if (at !== null) press(at);
    },
    options,
  );
  if (typeof ResizeObserver !== "undefined") {
    const sized = new ResizeObserver(() => again());
    sized.observe(node);
    abort.addEventListener("abort", () => sized.disconnect());
  }

  let drawn: unknown[] = [];
  return {
    node,
    paint(values, scale, ramp, mark) {
      count = values.length;
      again = () => this.paint(values, scale, ramp, mark);
      ring.hidden = mark === null;
      ring.style.left = `${((mark ?? 0) / Math.max(1, count)) * 100}%`;
      ring.style.width = `${100 / Math.max(1, count)}%`;
      const now = [values, scale.limit, ramp, node.clientWidth];
      if (now.every((one, index) => one === drawn[index])) return;
      drawn = now;
      draw(canvas, values, scale, ramp, node.clientWidth || 300);
    },
  };
}

function draw(canvas: HTMLCanvasElement, values: readonly number[], scale: Diverging, ramp: Ramp, width: number): void {
  const sharp = Math.min(3, globalThis.devicePixelRatio || 1);
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(HEIGHT * sharp);
  const pen = canvas.getContext("2d");
  if (pen === null) return;
  pen.scale(sharp, sharp);
  pen.fillStyle = css(colourAt(ramp, 0));
  pen.fillRect(0, HEIGHT / 2 - 0.5, width, 1);
  for (const { x, y, width: w, height, position } of barsOf(values, scale, width)) {
    pen.fillStyle = css(colourAt(ramp, position));
    pen.fillRect(x, y, w, height);
  }
}
