/** Tokens that are read as one: a partition of the prompt, so that sums are exact. Pure. */

import type { NdArray } from "../kit/codec.ts";

export type Range = readonly [start: number, stop: number];
/** Positions in order, the exact sum of their scores, and whether they were asked for or lie between. */
export type Span = { positions: number[]; score: number; chosen: boolean };

export const SPANS = [
  { value: "token", text: "Token" },
  { value: "word", text: "Word" },
  { value: "sentence", text: "Sentence" },
  { value: "line", text: "Line" },
  { value: "pattern", text: "Regular expression" },
  { value: "selection", text: "Selection" },
] as const;

/** For every token the span that it belongs to; without an index each is its own. */
export function partition(
  scores: ArrayLike<number>,
  index: ArrayLike<number> | null,
  chosen: (key: number) => boolean = () => true,
): Span[] {
  const found = new Map<number, Span>();
  return Array.from(scores, (score, position) => {
    const key = index?.[position] ?? position;
    const span = found.get(key) ?? { positions: [], score: 0, chosen: chosen(key) };
    found.set(key, span);
    span.positions.push(position);
    span.score += score;
    return span;
  });
}

/** The number of each token's range; what lies between ranges stays one token each, with a number from -1 down. */
export function indexOfRanges(count: number, ranges: readonly Range[]): number[] {
  const index = Array.from({ length: count }, (_, position) => -1 - position);
  ranges.forEach(([start, stop], number) => {
    for (let position = start; position < Math.min(stop, count); position += 1) index[position] = number;
  });
  return index;
}

/** The ranges with one more: those that it touches give way, and one that is there already is taken away. */
export function withRange(ranges: readonly Range[], from: number, to: number): Range[] {
  const [start, stop] = [Math.min(from, to), Math.max(from, to) + 1];
  const rest = ranges.filter(([a, b]) => b <= start || a >= stop);
  const again = ranges.some(([a, b]) => a === start && b === stop);
  return (again ? rest : [...rest, [start, stop] as const]).toSorted((a, b) => a[0] - b[0]);
}

/** Whether a token is read together with the one before it. */
export function joins(spans: readonly Span[], position: number): boolean {
  const span = spans[position];
  return span !== undefined && span === spans[position - 1];
}

/** The spans once each, in the order of the prompt. */
export function distinct(spans: readonly Span[]): Span[] {
  return [...new Set(spans)];
}

/** Ranges as a trait may hold them. */
export function readRanges(value: unknown): Range[] {
  if (!Array.isArray(value)) return [];
  return value
    .filter((one): one is Range => Array.isArray(one) && one.length === 2)
    .map(([a, b]) => [Number(a), Number(b)]);
}

export type Groups = Readonly<Record<string, NdArray | null>>;
