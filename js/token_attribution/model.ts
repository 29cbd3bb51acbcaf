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
};

export type Attribution = {
  method: string;
  tokens: Token[];
  scores: NdArray | null;
  scale: Diverging;
  methods: string[];
  line: string;
  revision: number;
};

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
  };
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
  gradient_x_input: "Gradient",
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
