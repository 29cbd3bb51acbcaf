/** A dose–response curve under its slider: what the metric is at every strength, against random vectors of equal size. */

import "./curve.css";
import { setAttributes, svg } from "./dom.ts";
import { num } from "./format.ts";
import { fraction } from "./scale.ts";

export type CurveData = {
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  low: ArrayLike<number> | null;
  high: ArrayLike<number> | null;
  /** A second quantity from 0 up, on a scale of its own: drawn dashed, from the bottom to the top. */
  second?: ArrayLike<number> | null;
  /** At which strengths the text falls apart (1), and by what measure, in a sentence; null while that is not known. */
  breaks: ArrayLike<number> | null;
  criterion?: string;
};

export const HEIGHT = 56;
/** The thumb of a range input travels this far short of both ends (half its width), and so does the curve. */
export const INSET = 8;
const TOP = 5;
const BOTTOM = HEIGHT - 5;

export type CurveGeometry = {
  line: string;
  band: string;
  second: string;
  range: [number, number];
  zero: number | null;
  /** Where text breaks; `label`: the height at which the word does not meet the curve. */
  broken: { x: number; width: number; label: number }[];
  px(strength: number): number;
  py(value: number): number;
};

/** All of the drawing as numbers and path strings; values that are not finite leave a gap. */
export function curveGeometry(data: CurveData, limit: number, width: number): CurveGeometry {
  const px = (strength: number): number => INSET + fraction([-limit, limit], strength) * (width - 2 * INSET);
  const values = [data.y, data.low, data.high].flatMap((list) => Array.from(list ?? [])).filter(Number.isFinite);
  const range: [number, number] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const py = (value: number): number => BOTTOM - fraction(range, value) * (BOTTOM - TOP);
  return {
    line: path(data.x, data.y, px, py),
    band: band(data, px, py),
    second: second(data, px),
    range,
    zero: range[0] < 0 && range[1] > 0 ? py(0) : null,
    broken: brokenRegions(data, px, py, width),
    px,
    py,
  };
}

type Axis = (value: number) => number;

function path(xs: ArrayLike<number>, ys: ArrayLike<number>, px: Axis, py: Axis): string {
  let pen = "M";
  let text = "";
  for (let index = 0; index < xs.length; index += 1) {
    const [x, y] = [xs[index] ?? Number.NaN, ys[index] ?? Number.NaN];
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      pen = "M";
      continue;
    }
    text += `${pen}${px(x).toFixed(1)},${py(y).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function band({ x, low, high }: CurveData, px: Axis, py: Axis): string {
  if (low === null || high === null) return "";
  const backwards = Array.from(x, (_, index) => x.length - 1 - index);
  const pick = (list: ArrayLike<number>): number[] => backwards.map((index) => list[index] ?? Number.NaN);
  const upper = path(x, high, px, py);
  const lower = path(pick(x), pick(low), px, py);
  return upper === "" || lower === "" ? "" : `${upper}L${lower.slice(1)}Z`;
}

function second({ x, second: values }: CurveData, px: Axis): string {
  const most = highest(values ?? []);
  if (!values || !(most > 0)) return "";
  return path(x, values, px, (value) => BOTTOM - fraction([0, most], value) * (BOTTOM - TOP));
}

/** The largest of the values that are finite; 0 where there is none above it. */
export function highest(values: ArrayLike<number>): number {
  return Math.max(0, ...Array.from(values).filter(Number.isFinite));
}

/** Runs of broken strengths; each reaches halfway to its neighbours, the outermost to the edge. */
function brokenRegions({ x, y, breaks }: CurveData, px: Axis, py: Axis, width: number): CurveGeometry["broken"] {
  const regions: CurveGeometry["broken"] = [];
  const edge = (index: number): number => {
    if (index <= 0) return 0;
    return index >= x.length ? width : px(((x[index - 1] ?? 0) + (x[index] ?? 0)) / 2);
  };
  for (let index = 0; index < (breaks?.length ?? 0); index += 1) {
    if (!breaks?.[index]) continue;
    let end = index + 1;
    while (end < x.length && breaks[end]) end += 1;
    const low = py(y[Math.floor((index + end - 1) / 2)] ?? Number.NaN) > HEIGHT / 2;
    regions.push({ x: edge(index), width: edge(end) - edge(index), label: low ? 12 : HEIGHT - 5 });
    index = end;
  }
  return regions;
}

/** Whether the text falls apart at a strength: at the nearest one that was tried. */
export function isBroken({ x, breaks }: CurveData, strength: number): boolean {
  if (breaks === null || !(strength >= (x[0] ?? 0) && strength <= (x[x.length - 1] ?? 0))) return false;
  let nearest = 0;
  for (let index = 1; index < x.length; index += 1) {
    if (Math.abs((x[index] ?? 0) - strength) < Math.abs((x[nearest] ?? 0) - strength)) nearest = index;
  }
  return Boolean(breaks[nearest]);
}

/** The curve's value at a strength, between its measured points; NaN outside them. */
export function interpolate(xs: ArrayLike<number>, ys: ArrayLike<number>, x: number): number {
  for (let index = 1; index < xs.length; index += 1) {
    const [a, b] = [xs[index - 1] ?? Number.NaN, xs[index] ?? Number.NaN];
    if (!(x >= a && x <= b)) continue;
    const [ya, yb] = [ys[index - 1] ?? Number.NaN, ys[index] ?? Number.NaN];
    return a === b ? ya : ya + ((x - a) / (b - a)) * (yb - ya);
  }
  return Number.NaN;
}

export type Curve = {
  node: SVGSVGElement;
  paint(data: CurveData | null, limit: number, strength: number, stale: boolean): void;
};

export function curve(abort: AbortSignal): Curve {
  const shade = svg("g");
  const area = svg("path", { class: "iw-curve-band" });
  const base = svg("line", { class: "iw-curve-zero", x1: 0 });
  const line = svg("path", { class: "iw-curve-line" });
  const dashed = svg("path", { class: "iw-curve-second" });
  const dot = svg("circle", { class: "iw-curve-dot", r: 3.5 });
  const node = svg("svg", { class: "iw-curve", role: "img" });
  node.append(shade, area, base, dashed, line, dot);
  let drawn: { data: CurveData | null; limit: number; width: number } | null = null;
  let geometry: CurveGeometry | null = null;
  let width = 288;
  let again: () => void = () => {};

  function redraw(data: CurveData | null, limit: number): void {
    if (drawn !== null && drawn.data === data && drawn.limit === limit && drawn.width === width) return;
    drawn = { data, limit, width };
    geometry = data === null ? null : curveGeometry(data, limit, width);
    setAttributes(node, { viewBox: `0 0 ${width} ${HEIGHT}` });
    setAttributes(line, { d: geometry?.line ?? "" });
    setAttributes(area, { d: geometry?.band ?? "" });
    setAttributes(dashed, { d: geometry?.second ?? "" });
    const zero = geometry?.zero ?? null;
    setAttributes(base, { x2: width, y1: zero ?? 0, y2: zero ?? 0, visibility: zero === null ? "hidden" : null });
    shade.replaceChildren(...(geometry?.broken ?? []).map((one) => region(one, data?.criterion ?? "")));
  }

  if (typeof ResizeObserver !== "undefined") {
    const sized = new ResizeObserver(([entry]) => {
      const next = Math.round(entry?.contentRect.width ?? 0);
      if (next < 40 || next === width) return;
      width = next;
      again();
    });
    sized.observe(node);
    abort.addEventListener("abort", () => sized.disconnect());
  }

  return {
    node,
    paint(data, limit, strength, stale) {
      again = () => this.paint(data, limit, strength, stale);
      redraw(data, limit);
      const value = data === null ? Number.NaN : interpolate(data.x, data.y, strength);
      const there = geometry !== null && Number.isFinite(value);
      setAttributes(dot, {
        visibility: there ? null : "hidden",
        cx: there ? (geometry?.px(strength).toFixed(1) ?? 0) : 0,
        cy: there ? (geometry?.py(value).toFixed(1) ?? 0) : 0,
      });
      node.classList.toggle("iw-stale", stale);
      setAttributes(node, {
        "aria-label": there ? `at ${num(strength)} the curve is at ${num(value)}` : "not measured yet",
      });
    },
  };
}

function region({ x, width, label }: CurveGeometry["broken"][number], criterion: string): SVGElement {
  const group = svg("g", { "data-iw": "breaks" });
  group.append(svg("title", {}, criterion), svg("rect", { class: "iw-curve-broken", x, y: 0, width, height: HEIGHT }));
  const middle = { class: "iw-curve-label", x: x + width / 2, y: label, "text-anchor": "middle" };
  if (width >= 34) group.append(svg("text", middle, "breaks"));
  return group;
}
