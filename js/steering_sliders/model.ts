/** The traits of SteeringSliders, and its curves and continuations as the view reads them. */

import { asArray, type Decoded, type NdArray } from "../kit/codec.ts";
import type { Written } from "../kit/continuation.ts";
import { type CurveData, interpolate } from "../kit/curve.ts";
import { num, percent, signed } from "../kit/format.ts";
import { circumstances } from "../session/derive.ts";
import type { Panel } from "../session/panels.ts";
import type { State, Vector } from "../session/protocol.ts";

export type Traits = { session: string; panel: string };

export type Response = CurveData & { kl: NdArray | null };
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
      low: asArray(one.random_low)?.data ?? null,
      high: asArray(one.random_high)?.data ?? null,
      breaks: asBreaks(one.breaks),
    });
  }
  return curves;
}

function asObject(value: Decoded | undefined): Json {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Json) : {};
}

function asBreaks(value: Decoded | undefined): [number | null, number | null] | null {
  if (!Array.isArray(value) || value.length !== 2) return null;
  return value.map((bound) => (typeof bound === "number" ? bound : null)) as [number | null, number | null];
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

/** The same strength in three units: of the vector as stored, as a length, and against the residual stream it is added to. */
export function unitsOf(vector: Vector): string {
  const length = Math.abs(vector.coefficient) * vector.norm;
  const share =
    vector.residual_norm > 0
      ? ` = ${percent(length / vector.residual_norm)} % of the residual norm at ${vector.site}`
      : ` at ${vector.site}`;
  const what = /diff/i.test(vector.source) ? "difference" : "vector";
  return `${signed(vector.coefficient)} × ${what} = length ${num(length)}${share}`;
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

/** Where the wanted and the plain text part, when the kernel has not said. */
export function firstDifference(plain: readonly Written[], edited: readonly Written[]): number | null {
  const shared = Math.min(plain.length, edited.length);
  for (let index = 0; index < shared; index += 1) if (plain[index]?.id !== edited[index]?.id) return index;
  return null;
}
