/** What the made-up kernel shows in each view: consistent with its answer, whatever is switched off or pushed. */

import { f32 } from "./encode.ts";
import type { FakeKernel } from "./fake_kernel.ts";
import { EDITED_TEXT, example, PLAIN_TEXT, push, SCORES } from "./invented.ts";

export type Data = Record<string, unknown>;

export function attribution(kernel: FakeKernel): Data {
  const tokens = kernel.state.question?.tokens ?? [];
  const scale = kernel.metric() / 4.11;
  return {
    method: "integrated_gradients",
    baselines: ["auto", "mean", "zero", "corrupt"],
    methods: ["gradient", "integrated_gradients", "occlusion", "direct"],
    tokens,
    scores: f32(
      tokens.map((_, index) => (SCORES[index] ?? 0.05) * scale),
      [tokens.length],
    ),
    groups: {
      word: f32(
        tokens.map((_, index) => Math.floor(index / 2)),
        [tokens.length],
      ),
      sentence: f32(
        tokens.map(() => 0),
        [tokens.length],
      ),
    },
    line: "explains the edited run · baseline mean embedding (0.24) · sums to 2.73 ± 2e−4 (arithmetic) · deleting its top 3 costs 2.5, random 3 costs 0.7 (evidence)",
  };
}

export function sweep(kernel: FakeKernel): Data {
  const { layers, heads } = kernel.options;
  const now = kernel.metric();
  const flat = kernel.effects.flat();
  return {
    mode: kernel.state.mode,
    baseline: now,
    floor: 0.01,
    effects: f32(flat, [layers, heads]),
    mlp: f32(
      Array.from({ length: layers }, (_, layer) => kernel.effect(`L${layer}.mlp`)),
      [layers],
    ),
    metrics: f32(
      flat.map((effect) => now - effect),
      [layers, heads],
    ),
    kl: f32(
      flat.map((effect) => effect * effect * 0.3),
      [layers, heads],
    ),
    ranks: f32(
      flat.map((effect) => (now - effect > 0 ? 1 : 3)),
      [layers, heads],
    ),
    direct: f32(
      flat.map((effect) => effect * 0.9),
      [layers, heads],
    ),
    reference: "names-corrupt (64, by position)",
    positions: [],
    meanwhile: "",
    direct_mlp: f32(
      Array.from({ length: layers }, (_, layer) => kernel.effect(`L${layer}.mlp`) * 0.8),
      [layers],
    ),
    chance_effects: f32(
      flat.map((effect) => effect / 10),
      [layers, heads],
    ),
    scores: {
      induction: f32(
        flat.map((effect) => Math.min(1, Math.abs(effect) / 2.2)),
        [layers, heads],
      ),
    },
    ...(kernel.options.examples > 1
      ? {
          each: f32(
            Array.from({ length: kernel.options.examples }, (_, n) => flat.map((effect) => effect * example(n))).flat(),
            [kernel.options.examples, layers, heads],
          ),
        }
      : {}),
  };
}

/** A head's card: its direct effect, spread over the sources. */
export function card(kernel: FakeKernel, layer: number, head: number): Data {
  const count = kernel.state.question?.tokens.length ?? 0;
  const direct = kernel.effect(`L${layer}H${head}`) * 0.9;
  const share = Array.from({ length: count }, (_, index) => (index === 2 ? 0.8 : 0.2 / (count - 1)));
  const written = (text: string, logit: number): unknown => ({ id: 7, text, kind: "text", logit });
  return {
    layer,
    head,
    attention: f32(share, [count]),
    carried: f32(
      share.map(() => direct),
      [count],
    ),
    contribution: f32(
      share.map((one, index) => one * direct * (index === 4 ? -1 : 1)),
      [count],
    ),
    direct,
    copying: 0.31,
    promotes: [written(" Mary", 2.31), written(" Maria", 1.2), written("\n", 0.8)],
    suppresses: [written(" John", -1.61)],
    siblings: head % 2 === 0 ? [`L${layer}H${head + 1}`] : [],
    edited: false,
    error: "",
  };
}

export function curves(kernel: FakeKernel, running: boolean): Data {
  const strengths = Array.from({ length: 21 }, (_, index) => (index - 10) * 0.15);
  const rest = kernel.state.interventions;
  const vectors = Object.fromEntries(
    kernel.state.vectors.map((vector) => {
      const others = rest.filter((one) => one.vector !== vector.name);
      const metric = strengths.map((x) => kernel.metric(others) + push(vector.name, x));
      const random = (sign: number): number[] =>
        strengths.map((x) => kernel.metric(others) + sign * (0.15 + x * x * 0.2));
      return [
        vector.name,
        {
          strengths: f32(strengths, [21]),
          metric: f32(metric, [21]),
          kl: f32(
            strengths.map((x) => x * x * 0.4),
            [21],
          ),
          random_low: f32(random(-1), [21]),
          random_high: f32(random(1), [21]),
          breaks: f32(
            strengths.map((x) => Number(Math.abs(x) > 1.2)),
            [21],
          ),
          loss: f32(
            strengths.map((x) => 2 + x * x),
            [21],
          ),
          repeats: f32(
            strengths.map((x) => (Math.abs(x) > 1.2 ? 0.4 : 0)),
            [21],
          ),
          criterion: "Breaks: 16 tokens whose loss under the plain model is outside 1.90 to 3.40 nats.",
          label: "logit difference",
          reason: "",
          randoms: 8,
          site: vector.site,
          residual: null,
          old: false,
        },
      ];
    }),
  );
  return { vectors, continuation: continuation(running) };
}

export function continuation(running: boolean): Data {
  const written = (words: string[]): unknown[] =>
    words.map((text, id) => ({ id: text.length * 100 + id, text, probability: 0.2 + (id % 5) / 7 }));
  return {
    plain: written(PLAIN_TEXT),
    edited: written(running ? EDITED_TEXT.slice(0, 8) : EDITED_TEXT),
    divergence: 5,
    running: running,
    note: "greedy",
  };
}

export function map(name: string): Data {
  const strengths = [-1, 0, 1];
  const metric = [0, 1, 2, 3].flatMap((layer) => strengths.map((x) => 2 + (layer - 1) * x));
  return {
    vector: name,
    layers: [0, 1, 2, 3],
    strengths: f32(strengths, [3]),
    metric: f32(metric, [4, 3]),
    kl: f32(
      metric.map(() => 0.1),
      [4, 3],
    ),
    baseline: 2,
    label: "logit difference",
    done: true,
  };
}
