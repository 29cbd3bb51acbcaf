/** The deletion test as the kernel sends it: curves over the number of tokens replaced, and the real answer at each. Pure. */

import { asArray, type NdArray } from "../kit/codec.ts";
import type { CurveData } from "../kit/curve.ts";
import type { Change } from "../kit/dumbbell.ts";
import { num, plural } from "../kit/format.ts";
import type { Panel } from "../session/panels.ts";
import type { Token } from "../session/protocol.ts";
import { type Fields, fields, numberOf, text, tokensOf } from "./model.ts";

export type Curves = {
  own: NdArray;
  low: NdArray | null;
  high: NdArray | null;
  area: number;
  random: number;
  spread: number;
};
export type Deletion = {
  method: string;
  order: ArrayLike<number>;
  /** Tokens that are replaced at each step, and the units (words, sentences) that they are. */
  counts: ArrayLike<number>;
  units: ArrayLike<number>;
  unit: string;
  tokens: Token[];
  probabilities: NdArray;
  deletion: Curves;
  insertion: Curves;
  baseline: string;
  orders: number;
  /** Seconds that one more random order takes, when there are fewer than there should be. */
  wait: number;
};

export function readDeletion(panel: Panel | null): Deletion | null {
  const data = fields(panel?.data.deletion);
  const [order, counts, probabilities] = [data.order, data.counts, data.probabilities].map(asArray);
  const [deletion, insertion] = [curves(fields(data.deletion)), curves(fields(data.insertion))];
  if (order == null || counts == null || probabilities == null || deletion === null || insertion === null) return null;
  return {
    method: text(data.method),
    order: order.data,
    counts: counts.data,
    units: asArray(data.units)?.data ?? counts.data,
    unit: text(data.unit) || "token",
    tokens: tokensOf(data.tokens),
    probabilities,
    deletion,
    insertion,
    baseline: text(data.baseline),
    orders: numberOf(data.orders),
    wait: numberOf(data.wait),
  };
}

/** Why there is no test. */
export function deletionNote(panel: Panel | null): string {
  return text(fields(panel?.data.deletion).note);
}

function curves(data: Fields): Curves | null {
  const own = asArray(data.own);
  if (own === null) return null;
  return {
    own,
    low: asArray(data.low),
    high: asArray(data.high),
    area: numberOf(data.area),
    random: numberOf(data.random_area),
    spread: numberOf(data.random_spread),
  };
}

/** Steps evenly apart about zero, as the curve and the slider over it have them. */
export function curveOf({ own, low, high }: Curves): CurveData {
  const middle = (own.data.length - 1) / 2;
  const x = Array.from({ length: own.data.length }, (_, step) => step - middle);
  return { x, y: own.data, low: low?.data ?? null, high: high?.data ?? null, breaks: null };
}

/** The positions that are replaced at a step. */
export function goneAt({ order, counts }: Deletion, step: number): number[] {
  return Array.from(order).slice(0, counts[step] ?? 0);
}

/** The likeliest tokens at a step, as they are and with the tokens replaced. */
export function changesAt({ tokens, probabilities }: Deletion, step: number, most = 5): Change[] {
  const at = (row: number, column: number): number => probabilities.data[row * tokens.length + column] ?? Number.NaN;
  return tokens
    .map((token, column) => ({ ...token, before: at(0, column), after: at(step, column) }))
    .toSorted((a, b) => Math.max(b.before, b.after) - Math.max(a.before, a.after))
    .slice(0, most)
    .toSorted((a, b) => b.after - a.after);
}

/** "area 0.82, random orders 2.11 ± 0.40" */
export function areaWords({ area, random, spread }: Curves): string {
  const chance = Number.isNaN(random) ? "" : `, random orders ${num(random)} ± ${num(spread)}`;
  return `area ${num(area)}${chance}`;
}

/** What a threshold did, in words. */
export function stepWords(deletion: Deletion, step: number): string {
  const { units, unit } = deletion;
  const count = units[step] ?? 0;
  const [before, after, kept] = [
    deletion.deletion.own.data[0],
    deletion.deletion.own.data[step],
    deletion.insertion.own.data[step],
  ];
  if (count === 0) return `nothing is replaced: ${num(before ?? Number.NaN)}`;
  return `top ${count} of ${plural(units[units.length - 1] ?? 0, unit)} replaced: ${num(before ?? Number.NaN)} → ${num(after ?? Number.NaN)} · only ${count === 1 ? "it" : "these"} kept: ${num(kept ?? Number.NaN)}`;
}
