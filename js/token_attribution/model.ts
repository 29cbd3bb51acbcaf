/** The traits of TokenAttribution, and its panel's data as the view reads it. */

import { asArray, type Decoded, type NdArray } from "../kit/codec.ts";
import { num } from "../kit/format.ts";
import { type Diverging, diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import type { Token } from "../session/protocol.ts";

export type Traits = {
  session: string;
  panel: string;
  /** Which method explains; the kernel recomputes when it changes. */
  method: string;
  /** Whether scores stand for tokens, words, sentences or lines. */
  spans: string;
};

export type Attribution = {
  method: string;
  tokens: Token[];
  scores: NdArray | null;
  scale: Diverging;
  methods: string[];
  line: string;
  revision: number;
  /** The number of each token's word, sentence, line. */
  groups: Readonly<Record<string, NdArray | null>>;
};

export const SPANS = ["token", "word", "sentence", "line"];

export function readAttribution(panel: Panel | null): Attribution | null {
  if (panel === null) return null;
  const { data } = panel;
  const scores = asArray(data.scores);
  return {
    method: text(data.method),
    tokens: Array.isArray(data.tokens) ? (data.tokens as unknown as Token[]) : [],
    scores,
    scale: diverging(Array.from(scores?.data ?? [])),
    methods: Array.isArray(data.methods) ? data.methods.map(String) : [],
    line: text(data.line) || composeLine(data),
    revision: panel.revisions.scores ?? -1,
    groups: groupsOf(data.groups),
  };
}

function groupsOf(data: Decoded | undefined): Record<string, NdArray | null> {
  if (data === null || data === undefined || typeof data !== "object" || Array.isArray(data)) return {};
  return Object.fromEntries(SPANS.map((by) => [by, asArray((data as Record<string, Decoded>)[by])]));
}

/** Tokens that are read as one, and the exact sum of their scores. */
export type Span = { positions: number[]; score: number };

/** For every token the span that it belongs to; by token each is its own. */
export function spansOf({ scores, groups }: Attribution, by: string): Span[] {
  const index = groups[by]?.data;
  const found = new Map<number, Span>();
  return Array.from(scores?.data ?? [], (score, position) => {
    const key = index?.[position] ?? position;
    const span = found.get(key) ?? { positions: [], score: 0 };
    found.set(key, span);
    span.positions.push(position);
    span.score += score;
    return span;
  });
}

/** Tab-separated, one row per span, as a sheet or `pandas.read_clipboard` takes it. */
export function tableOf(attribution: Attribution, by: string): string {
  const rows = [...new Set(spansOf(attribution, by))].map(({ positions, score }) => {
    const text = positions.map((position) => attribution.tokens[position]?.text ?? "").join("");
    const ids = positions.map((position) => attribution.tokens[position]?.id ?? "").join(" ");
    return [positions[0], JSON.stringify(text), ids, score].join("\t");
  });
  return [["position", by, "id", "score"].join("\t"), ...rows].join("\n");
}

/** The honest line, when the kernel sends only its parts. */
function composeLine(data: Readonly<Record<string, Decoded>>): string {
  const baseline = data.baseline as { name?: unknown; metric?: unknown } | null | undefined;
  const [total, error] = [data.total, data.error];
  return [
    data.explains !== undefined && `explains the ${text(data.explains)}`,
    baseline?.name !== undefined &&
      `baseline ${String(baseline.name)}${typeof baseline.metric === "number" ? ` (${num(baseline.metric)})` : ""}`,
    typeof total === "number" &&
      `sums to ${num(total)}${typeof error === "number" ? ` ± ${num(Math.abs(error))} (arithmetic)` : ""}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function text(value: Decoded | undefined): string {
  return typeof value === "string" ? value : "";
}

/** Whether these scores belong to the prompt on screen. */
export function sameTokens(a: readonly Token[], b: readonly Token[]): boolean {
  return a.length === b.length && a.every((token, index) => token.id === b[index]?.id);
}

const TITLES: Record<string, string> = {
  gradient: "Gradient",
  gradient_x_input: "Gradient × input",
  input_x_gradient: "Gradient",
  integrated_gradients: "Integrated",
  occlusion: "Occlusion",
  direct: "Direct",
  direct_logit_attribution: "Direct",
  lrp: "LRP",
};

export function methodTitle(method: string): string {
  const known = Object.hasOwn(TITLES, method) ? TITLES[method] : undefined;
  return known ?? method.charAt(0).toUpperCase() + method.slice(1).replaceAll("_", " ");
}
