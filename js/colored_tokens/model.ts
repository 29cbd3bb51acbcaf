/** What the view of tokens is told: samples with a number per token for every pair of a first and a second axis. */

import { asArray, type Decoded, isNdArray, type NdArray } from "../kit/codec.ts";
import { named, num, percent, signed } from "../kit/format.ts";
import type { Token } from "../session/protocol.ts";

/** "Layer", "Neuron"; without labels its places are counted from 0. */
export type Axis = { name: string; labels: readonly string[]; size: number };
/** The largest and the smallest values of a sample: which tokens have them, and how much, `[first, rank, second]`. */
export type Extremes = { tokens: NdArray; values: NdArray };
export type Sample = {
  name: string;
  tokens: readonly Token[];
  /** `[first, second, token]`; none where only the extremes were given. */
  values: NdArray | null;
  extremes: readonly Extremes[];
  /** The values came as halves: three digits of them are sure. */
  coarse: boolean;
};
/** What was likeliest at each token, and where the token itself stood, from 1. */
export type Guesses = { tokens: readonly (readonly string[])[]; values: NdArray; ranks: NdArray };
export type Shown = {
  samples: readonly Sample[];
  axes: readonly [Axis, Axis];
  /** The size of full colour; by default that of the values on show. */
  limit: number | null;
  guesses: Guesses | null;
};
export type Place = { sample: number; first: number; second: number };

export function readShown(data: Readonly<Record<string, Decoded>>): Shown {
  const axes = list(data.axes).map(readAxis);
  const none = { name: "", labels: [], size: 1 };
  return {
    samples: list(data.samples).map(readSample),
    axes: [axes[0] ?? none, axes[1] ?? none],
    limit: typeof data.limit === "number" && data.limit > 0 ? data.limit : null,
    guesses: readGuesses(record(data.guesses)),
  };
}

function readAxis(value: Decoded): Axis {
  const { name, labels, size } = record(value);
  return { name: String(name ?? ""), labels: list(labels).map(String), size: Number(size ?? 1) };
}

function readSample(value: Decoded): Sample {
  const { name, tokens, values, extremes, coarse } = record(value);
  return {
    name: String(name ?? ""),
    tokens: list(tokens) as unknown as Token[],
    values: asArray(values),
    coarse: coarse === true,
    extremes: list(extremes).flatMap((one) => {
      const [found, sizes] = [asArray(record(one).tokens), asArray(record(one).values)];
      return found === null || sizes === null ? [] : [{ tokens: found, values: sizes }];
    }),
  };
}

function readGuesses({ tokens, values, ranks }: { readonly [key: string]: Decoded }): Guesses | null {
  const [sizes, places] = [asArray(values), asArray(ranks)];
  if (sizes === null || places === null) return null;
  return { tokens: list(tokens).map((one) => list(one).map(String)), values: sizes, ranks: places };
}

function list(value: Decoded | undefined): Decoded[] {
  return Array.isArray(value) ? value : [];
}

function record(value: Decoded | undefined): { readonly [key: string]: Decoded } {
  const plain = value !== null && typeof value === "object" && !Array.isArray(value) && !isNdArray(value);
  return plain ? (value as { [key: string]: Decoded }) : {};
}

export function labelOf(axis: Axis, index: number): string {
  return axis.labels[index] ?? String(index);
}

/** The number of every token of a sample at one place of the axes. */
export function seriesOf(sample: Sample | undefined, { first, second }: Place): number[] | null {
  const [, seconds = 0, tokens = 0] = sample?.values?.shape ?? [];
  if (sample?.values == null) return null;
  const start = (first * seconds + second) * tokens;
  return Array.from({ length: tokens }, (_, token) => sample.values?.data[start + token] ?? Number.NaN);
}

/** One line of a table of extremes: the token and its value for every column asked for. */
export function extremeRows(
  sample: Sample | undefined,
  which: number,
  first: number,
  columns: readonly number[],
): { token: string; value: number }[][] {
  const extremes = sample?.extremes[which];
  const [, ranks = 0, seconds = 0] = extremes?.values.shape ?? [];
  return Array.from({ length: ranks }, (_, rank) =>
    columns.map((second) => {
      const at = (first * ranks + rank) * seconds + second;
      const token = sample?.tokens[extremes?.tokens.data[at] ?? -1];
      return { token: token === undefined ? "" : named(token), value: extremes?.values.data[at] ?? Number.NaN };
    }),
  );
}

/** So many values of one token are read out together. */
const TOGETHER = 12;

/** "␣the (3): mean +0.5000 · zero −0.2000", or of log probabilities "␣the (3): −0.36 (70 %), rank 1". */
export function tokenWords(shown: Shown, place: Place, index: number): string {
  const sample = shown.samples[place.sample];
  const token = sample?.tokens[index];
  if (sample === undefined || token === undefined) return "";
  const [first, second] = shown.axes;
  const read = (at: number): number => seriesOf(sample, { ...place, second: at })?.[index] ?? Number.NaN;
  const value = read(place.second);
  const where = `${named(token)} (position ${index}): `;
  if (Number.isNaN(value)) return `${where}no value`;
  if (shown.guesses !== null) {
    const rank = shown.guesses.ranks.data[index] ?? Number.NaN;
    return `${where}log probability ${num(value, 3)}, ${percent(Math.exp(value))} %, rank ${rank}`;
  }
  if (second.size > 1 && second.size <= TOGETHER && second.labels.length > 0) {
    const each = Array.from({ length: second.size }, (_, at) => `${labelOf(second, at)} ${say(read(at), sample)}`);
    return `${where}${each.join(" · ")}`;
  }
  const chosen = [
    [first, place.first],
    [second, place.second],
  ] as const;
  const names = chosen.filter(([axis]) => axis.size > 1).map(([axis, at]) => `${axis.name} ${labelOf(axis, at)}`);
  return `${where}${say(value, sample)}${names.length > 0 ? ` · ${names.join(", ")}` : ""}`;
}

function say(value: number, { coarse }: Sample): string {
  return coarse ? `about ${Number(value.toPrecision(3)).toString().replace("-", "−")}` : signed(value, 4);
}
