/** The invented model and prompt: made-up numbers out of one function each, so that views which mix them up are found out. */

import type { Intervention, Receipt, State, Token, Vector } from "../session/protocol.ts";
import type { FakeOptions } from "./fake_kernel.ts";

const WORDS = [
  "<bos>",
  "When",
  " Mary",
  " and",
  " John",
  " went",
  " to",
  " the",
  " store",
  ",",
  " John",
  " gave",
  " a",
  " drink",
  " to",
];
export const SCORES = [0, -0.04, 1.61, 0.11, -0.84, 0.03, 0.05, 0, 0.18, 0.07, 1.16, 0.21, 0.03, 0.09, 0.37];
export const PLAIN_TEXT = [
  " Mary",
  ".",
  " The",
  " music",
  " was",
  " soft",
  " and",
  " the",
  " room",
  " was",
  " quiet",
  ".",
];
export const EDITED_TEXT = [
  " Mary",
  ".",
  " The",
  " music",
  " was",
  " great",
  " and",
  " the",
  " service",
  " was",
  " a",
  " joy",
  ".",
];

export function token(text: string, index: number): Token {
  return { id: 100 + index, text, kind: text.startsWith("<") ? "special" : "text" };
}

/** How strongly one prompt of the set shows what is asked. */
export function example(n: number): number {
  return 1 + 0.3 * Math.sin(n * 2.4);
}

export function vector(name: string, layer: number): Vector {
  return {
    name,
    site: `L${layer}`,
    norm: 7,
    difference: 7,
    residual_norm: 20,
    origin: -2,
    span: 7.5,
    coefficient: 0,
    on: true,
    limit: 1.5,
    mode: "add",
    positions: "content",
    source: "mean difference",
  };
}

export function ablation(site: string, mode: string): Intervention {
  return {
    key: `head:${site}`,
    kind: "ablate",
    site,
    label: `${site} off`,
    on: true,
    mode,
    positions: "all",
    coefficient: null,
    vector: null,
    code: `iw.Ablate("${site}")`,
  };
}

export function steering(one: Vector): Intervention {
  const { name, site, on, mode, positions, coefficient } = one;
  return {
    key: `steer:${name}`,
    kind: "steer",
    site,
    label: `${name} ${coefficient.toFixed(2)}`,
    on,
    mode,
    positions,
    coefficient,
    vector: name,
    code: "",
  };
}

export function receipt(one: Intervention, vectors: readonly Vector[]): Receipt {
  const steer = one.kind === "steer";
  const idle = steer && (one.coefficient === 0 || !one.on);
  const unreachable = steer && one.positions === "generated";
  const name = vectors.find((vector) => vector.name === one.vector)?.name ?? "";
  return {
    label: steer
      ? `steer ${one.site}, ${name} × ${(one.coefficient ?? 0).toFixed(2)}`
      : `ablate ${one.site}, ${one.mode}`,
    site: one.site,
    state: idle ? "idle" : unreachable ? "cannot reach" : "acted",
    reason: idle ? "" : unreachable ? "it acts on generated positions only, and the answer is read in the prompt" : "",
    fired: idle ? 0 : 1,
    positions: idle || unreachable ? 0 : 15,
    change: idle || unreachable ? 0 : steer ? Math.abs(one.coefficient ?? 0) * 0.35 : 0.34,
  };
}

export function push(name: string, x: number): number {
  return name === "sentiment" ? 3 / (1 + Math.exp(-4 * x)) - 1.5 : -2 * Math.max(0, Math.tanh((x - 0.4) * 2));
}

export function moved(probability: number, shift: number): number {
  const z = Math.log(probability / (1 - probability)) + shift;
  return 1 / (1 + Math.exp(-z));
}

export function inventEffects(layers: number, heads: number): number[][] {
  let seed = 17;
  const next = (): number => {
    seed = (seed * 16807) % 2147483647;
    return seed / 2147483647;
  };
  const rows = Array.from({ length: layers }, () => Array.from({ length: heads }, () => (next() - 0.5) * 0.3));
  for (const [row, column, value] of [
    [2, 6, 2.11],
    [2, 4, 1.2],
    [0, 2, 0.71],
    [3, 1, -1.31],
    [2, 3, 0.82],
  ] as const) {
    const line = rows[row];
    if (line !== undefined && column < heads) line[column] = value;
  }
  return rows;
}

/** What a session begins with. */
export function stateOf(options: FakeOptions): State {
  const tokens = WORDS.map(token);
  const prompt = WORDS.slice(1).join("");
  const find = (text: string): Token[] => [{ id: 7, text, kind: "text" }];
  return {
    version: options.version,
    model: {
      name: "embedded",
      layers: options.layers,
      heads: Array(options.layers).fill(options.heads),
      dtype: "float32",
      device: "cpu",
      notes: [],
    },
    question: {
      prompt,
      tokens,
      position: tokens.length - 1,
      target: find(" Mary"),
      foil: find(" John"),
      label: "logit difference",
      unit: "logits",
      examples: options.examples,
    },
    interventions: [],
    vectors: options.vectors ? [vector("sentiment", 1), vector("french", 3)] : [],
    mode: "mean",
    reference: { name: "names-corrupt", n: 64, pooled: false, hash: "3fa9" },
    answer: null,
    history: { items: [], index: 0 },
    busy: false,
    error: null,
    closed: false,
  };
}
