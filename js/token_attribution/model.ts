/** The traits of TokenAttribution, and its panel's data as the view reads it. */

import { asArray, type Decoded, type NdArray } from "../kit/codec.ts";
import { type Diverging, diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import type { Token } from "../session/protocol.ts";
import { distinct, type Groups, indexOfRanges, partition, type Range, type Span } from "./spans.ts";

export type Traits = {
  session: string;
  panel: string;
  /** Which method explains; the kernel recomputes when it changes. */
  method: string;
  /** What tokens are compared with, where the method compares. */
  baseline: string;
  /** Whether scores stand for tokens, words, sentences, lines, matches of the pattern, or the selection. */
  spans: string;
  selection: Range[];
  /** How many tokens of the model's own answer are explained. */
  answer: number;
};

export type Matches = { pattern: string; index: NdArray; chosen: ReadonlySet<number> };
export type Attribution = {
  method: string;
  tokens: Token[];
  scores: NdArray | null;
  scale: Diverging;
  methods: string[];
  /** The baselines that this question may be compared with. */
  baselines: string[];
  line: string;
  revision: number;
  /** The number of each token's word, sentence, line. */
  groups: Groups;
  /** What is looked for, as the kernel has it. */
  pattern: string;
  matches: Matches | null;
  matchesNote: string;
};

export type Fields = Readonly<Record<string, Decoded>>;

export function readAttribution(panel: Panel | null): Attribution | null {
  if (panel === null) return null;
  const { data } = panel;
  const scores = asArray(data.scores);
  return {
    method: text(data.method),
    tokens: tokensOf(data.tokens),
    scores,
    scale: diverging(Array.from(scores?.data ?? [])),
    methods: Array.isArray(data.methods) ? data.methods.map(String) : [],
    baselines: listOf(data.baselines).map(String),
    line: text(data.line),
    revision: panel.revisions.scores ?? -1,
    groups: Object.fromEntries(["word", "sentence", "line"].map((by) => [by, asArray(fields(data.groups)[by])])),
    pattern: text(data.pattern),
    matches: readMatches(data.matches),
    matchesNote: text(data.matches_note),
  };
}

function readMatches(value: Decoded | undefined): Matches | null {
  const { pattern, index, chosen } = fields(value);
  const array = asArray(index);
  if (array === null) return null;
  return { pattern: text(pattern), index: array, chosen: new Set(Array.from(asArray(chosen)?.data ?? [])) };
}

/** For every token the span that it belongs to, and the sum of `scores` over it. */
export function spansOf(
  { groups, matches }: Pick<Attribution, "groups" | "matches">,
  scores: ArrayLike<number>,
  by: string,
  selection: readonly Range[] = [],
): Span[] {
  if (by === "selection") return partition(scores, indexOfRanges(scores.length, selection), (key) => key >= 0);
  if (by === "pattern" && matches !== null && matches.index.data.length === scores.length)
    return partition(scores, matches.index.data, (key) => matches.chosen.has(key));
  return partition(scores, groups[by]?.data ?? null);
}

/** Tab-separated, one row per span, as a sheet or `pandas.read_clipboard` takes it. */
export function tableOf({ tokens }: Pick<Attribution, "tokens">, spans: readonly Span[], by: string): string {
  const rows = distinct(spans).map(({ positions, score }) => {
    const spelled = positions.map((position) => tokens[position]?.text ?? "").join("");
    const ids = positions.map((position) => tokens[position]?.id ?? "").join(" ");
    return [positions[0], JSON.stringify(spelled), ids, score].join("\t");
  });
  return [["position", by, "id", "score"].join("\t"), ...rows].join("\n");
}

export function text(value: Decoded | undefined): string {
  return typeof value === "string" ? value : "";
}

export function numberOf(value: Decoded | undefined): number {
  return typeof value === "number" ? value : Number.NaN;
}

/** A record of the data, empty where there is none. */
export function fields(value: Decoded | undefined): Fields {
  const plain = value !== null && typeof value === "object" && !Array.isArray(value);
  return plain ? (value as unknown as Fields) : {};
}

export function listOf(value: Decoded | undefined): readonly Decoded[] {
  return Array.isArray(value) ? value : [];
}

export function tokensOf(value: Decoded | undefined): Token[] {
  return listOf(value) as unknown as Token[];
}

/** Whether these scores belong to the prompt on screen. */
export function sameTokens(a: readonly Token[], b: readonly Token[]): boolean {
  return a.length === b.length && a.every((token, index) => token.id === b[index]?.id);
}

const TITLES: Record<string, string> = {
  gradient_x_input: "Gradient × input",
  integrated_gradients: "Integrated",
  lrp: "LRP",
};

const BASELINES: Record<string, string> = {
  auto: "as fits the method",
  mean: "mean embedding",
  zero: "zero",
  bos: "BOS",
  pad: "padding",
  unk: "unknown token",
  corrupt: "corrupt prompt",
};

/** The menu of baselines; what was given by hand is one of them. */
export function baselineOptions(names: readonly string[], chosen: string): { value: string; text: string }[] {
  const all = names.includes(chosen) || chosen === "" ? names : [...names, chosen];
  return all.map((value) => ({ value, text: Object.hasOwn(BASELINES, value) ? (BASELINES[value] as string) : value }));
}

/** Whether a method compares with a baseline. */
export function compares(method: string): boolean {
  return method === "integrated_gradients" || method === "occlusion";
}

export function methodTitle(method: string): string {
  const known = Object.hasOwn(TITLES, method) ? TITLES[method] : undefined;
  return known ?? method.charAt(0).toUpperCase() + method.slice(1).replaceAll("_", " ");
}
