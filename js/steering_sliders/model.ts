/** The traits of SteeringSliders, and its curves and continuations as the view reads them. */

import { asArray, type Decoded, type NdArray } from "../kit/codec.ts";
import type { Written } from "../kit/continuation.ts";
import { type CurveData, interpolate, isBroken } from "../kit/curve.ts";
import { num, percent, signed } from "../kit/format.ts";
import { circumstances } from "../session/derive.ts";
import type { Panel } from "../session/panels.ts";
import type { State, Vector } from "../session/protocol.ts";

export type Traits = { session: string; panel: string };

export type Response = CurveData & {
  kl: NdArray | null;
  loss: NdArray | null;
  repeats: NdArray | null;
  criterion: string;
  label: string;
  reason: string;
  randoms: number;
  /** Where it was measured, and the mean norm of the residual stream there. */
  site: string;
  residual: number | null;
  /** It belongs to another state. */
  old: boolean;
};
export type StrengthMap = {
  vector: string;
  layers: number[];
  strengths: ArrayLike<number>;
  metric: ArrayLike<number>;
  kl: ArrayLike<number>;
  baseline: number;
  label: string;
  done: boolean;
};
export type Text = { plain: Written[]; edited: Written[]; divergence: number | null; running: boolean; note: string };

type Json = { readonly [key: string]: Decoded };

/** The curves by vector. A Map: a vector may be called anything, "__proto__" too. */
export function readCurves(panel: Panel | null): Map<string, Response> {
  const curves = new Map<string, Response>();
  for (const [name, value] of Object.entries(asObject(panel?.data.vectors))) {
    const one = asObject(value);
    const [x, y] = [asArray(one.strengths), asArray(one.metric)];
    if (x === null || y === null) continue;
    curves.set(name, {
      x: x.data,
      y: y.data,
      kl: asArray(one.kl),
      second: asArray(one.kl)?.data ?? null,
      low: asArray(one.random_low)?.data ?? null,
      high: asArray(one.random_high)?.data ?? null,
      breaks: asArray(one.breaks)?.data ?? null,
      loss: asArray(one.loss),
      repeats: asArray(one.repeats),
      criterion: asText(one.criterion),
      label: asText(one.label),
      reason: asText(one.reason),
      randoms: typeof one.randoms === "number" ? one.randoms : 0,
      site: asText(one.site),
      residual: typeof one.residual === "number" ? one.residual : null,
      old: one.old === true,
    });
  }
  return curves;
}

function asObject(value: Decoded | undefined): Json {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Json) : {};
}

function asText(value: Decoded | undefined): string {
  return typeof value === "string" ? value : "";
}

/** The map that was asked for, as far as it has come. */
export function readMap(panel: Panel | null): StrengthMap | null {
  const one = asObject(panel?.data.map);
  const [strengths, metric, kl] = [asArray(one.strengths), asArray(one.metric), asArray(one.kl)];
  if (strengths === null || metric === null || kl === null || !Array.isArray(one.layers)) return null;
  return {
    vector: asText(one.vector),
    layers: one.layers as number[],
    strengths: strengths.data,
    metric: metric.data,
    kl: kl.data,
    baseline: typeof one.baseline === "number" ? one.baseline : Number.NaN,
    label: asText(one.label),
    done: one.done === true,
  };
}

export function readText(panel: Panel | null): Text | null {
  const raw = panel?.data.continuation;
  if (raw === undefined || raw === null) return null;
  const one = asObject(raw);
  return {
    plain: asTokens(one.plain),
    edited: asTokens(one.edited),
    divergence: typeof one.divergence === "number" ? one.divergence : null,
    running: one.running === true,
    note: typeof one.note === "string" ? one.note : "",
  };
}

function asTokens(value: Decoded | undefined): Written[] {
  return Array.isArray(value) ? (value as unknown as Written[]) : [];
}

/** A curve holds as long as everything but its own strength is as it was when it was measured. */
export function curveIsStale(
  panel: Panel | null,
  vector: string,
  now: State,
  revision: number,
  stateAt: (revision: number) => State | undefined,
): boolean {
  const measured = panel?.revisions.vectors;
  if (measured === undefined || measured >= revision) return false;
  const then = stateAt(measured);
  return then === undefined || circumstances(then, vector) !== circumstances(now, vector);
}

/** The first and the last layer of a range, "L2–L5"; of one place, that and "". */
export function endsOf(site: string): [string, string] {
  const [, first, last] = /^(L\d+)–(L\d+)$/.exec(site) ?? [];
  return first === undefined || last === undefined ? [site, ""] : [first, last];
}

/** Its name; a last layer that is not above the first makes no range. */
export function siteOf(first: string, last: string): string {
  const [from, to] = [first, last].map((name) => (/^L\d+$/.test(name) ? Number(name.slice(1)) : Number.NaN));
  return Number(to) > Number(from) ? `${first}–${last}` : first;
}

/** What a strength does, in three units where it adds: of the difference it was made from, as a length, and against the stream. */
export function unitsOf(vector: Vector, curve?: Response): string {
  const { coefficient: c, mode, origin, span } = vector;
  // The vector knows the norm where it was made; elsewhere it is measured with the curve.
  const here = curve?.site === vector.site ? (curve.residual ?? vector.residual_norm) : vector.residual_norm;
  const everywhere = vector.site === "writes";
  const norm = everywhere ? 0 : here; // what is written has no one norm
  const [first, last] = endsOf(vector.site);
  const again = last === "" ? "" : `, and again after every block to ${last}`;
  const where = everywhere ? "at every write" : `at ${first}${again}`;
  const share = (length: number): string => (norm > 0 ? ` = ${percent(length / norm)} % of the residual norm` : "");
  if (mode === "project_out") {
    const left = c === 1 ? "taken out whole" : c === 0 ? "as it is" : `× ${num(1 - c)}`;
    return `component along it ${left} ${where}`;
  }
  if (mode === "clamp") {
    const set = origin + c * span;
    return `component along it set to ${num(set)}${share(Math.abs(set))} ${where}`;
  }
  const length = Math.abs(c) * vector.norm;
  const { difference } = vector;
  const [times, what] = difference ? [(c * vector.norm) / difference, "difference"] : [c, "vector"];
  const kept = mode === "keep_norm" ? ", the stream's own norm kept" : "";
  return `${signed(times)} × ${what} = length ${num(length)}${share(length)} ${where}${kept}`;
}

/** What has to be said of positions that begin where the prompt ends; else nothing. */
export function boundaryWords(positions: string): string {
  if (!/^gen/.test(positions)) return "";
  return "The first generated token is predicted at the last prompt position, so this cannot change it (prompt[-1] can).";
}

/** The values the curve runs through, for its caption: "−1.20 … 4.89". */
export function spanOf(curve: Response): string {
  const values = Array.from(curve.y).filter(Number.isFinite);
  return values.length === 0 ? "" : `${num(Math.min(...values))} … ${num(Math.max(...values))}`;
}

/** What the curve says at a strength, before the exact run has answered. */
export function reading(curve: Response | undefined, strength: number): string {
  if (curve === undefined) return "";
  const metric = interpolate(curve.x, curve.y, strength);
  if (!Number.isFinite(metric)) return "";
  const kl = curve.kl === null ? Number.NaN : interpolate(curve.x, curve.kl.data, strength);
  return `here ${num(metric)}${Number.isFinite(kl) ? ` · KL ${num(kl)}` : ""}`;
}

/** What is known of text at a strength: whether it breaks, and by how much. */
export function textWords(curve: Response | undefined, strength: number): { words: string; breaks: boolean } {
  if (curve === undefined || curve.loss === null || curve.repeats === null) return { words: "", breaks: false };
  const breaks = isBroken(curve, strength);
  const loss = interpolate(curve.x, curve.loss.data, strength);
  const repeats = interpolate(curve.x, curve.repeats.data, strength);
  if (!Number.isFinite(loss)) return { words: "text: not tried at this strength", breaks };
  const how = `loss ${num(loss)} nats, ${Math.round(100 * repeats)} % of 4-grams repeated`;
  return { words: `${breaks ? "text breaks here" : "text holds here"}: ${how}`, breaks };
}

/** "L2 × +0.40: 2.31, from 0.08 (KL 0.52)" */
export function cellWords(map: StrengthMap, row: number, column: number): string {
  const at = row * map.strengths.length + column;
  const [metric, kl] = [map.metric[at] ?? Number.NaN, map.kl[at] ?? Number.NaN];
  const where = `${map.vector} ${signed(map.strengths[column] ?? 0)} at L${map.layers[row]}`;
  return Number.isFinite(metric)
    ? `${where}: ${map.label} ${num(metric)}, from ${num(map.baseline)} · KL ${num(kl)}`
    : `${where}: not measured yet`;
}

/** Where the wanted and the plain text part, when the kernel has not said. */
export function firstDifference(plain: readonly Written[], edited: readonly Written[]): number | null {
  const shared = Math.min(plain.length, edited.length);
  for (let index = 0; index < shared; index += 1) if (plain[index]?.id !== edited[index]?.id) return index;
  return null;
}
