/**
 * A kernel that speaks docs/protocol.md about an invented model. Its numbers are made up but consistent: the sweep's table, the
 * metric after a click, the curve and the slider all come from one function, so a view that mixes them up is found out.
 */

import type { Answer, Intervention, Receipt, State, Token, Vector } from "../session/protocol.ts";
import type { FakeModel } from "./host.ts";

export type FakeOptions = {
  layers: number;
  heads: number;
  delay: number;
  version: string;
  vectors: boolean;
  plain: boolean;
  /** How many prompts the question is asked on. */
  examples: number;
};
// biome-ignore lint/suspicious/noExplicitAny: what arrives is whatever the browser sent
type Args = Record<string, any>;
type Intent = { kind: string; client: string; seq: number; id: number; name: string; key: string; args: Args };

const DEFAULTS: FakeOptions = {
  layers: 4,
  heads: 8,
  delay: 0,
  version: "test",
  vectors: true,
  plain: false,
  examples: 1,
};
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
const SCORES = [0, -0.04, 1.61, 0.11, -0.84, 0.03, 0.05, 0, 0.18, 0.07, 1.16, 0.21, 0.03, 0.09, 0.37];
const PLAIN_TEXT = [" Mary", ".", " The", " music", " was", " soft", " and", " the", " room", " was", " quiet", "."];
const EDITED_TEXT = [
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

function token(text: string, index: number): Token {
  return { id: 100 + index, text, kind: text.startsWith("<") ? "special" : "text" };
}

export class FakeKernel {
  readonly model: FakeModel;
  readonly options: FakeOptions;
  revision = 1;
  alive = true;
  readonly handled: Intent[] = [];
  readonly state: State;
  readonly effects: number[][];
  readonly #acks: Record<string, number> = {};
  readonly #views = new Map<string, string>();
  readonly #undo: string[] = [];
  #redo: string[] = [];
  #running = false;

  constructor(model: FakeModel, options: Partial<FakeOptions> = {}) {
    this.model = model;
    this.options = { ...DEFAULTS, ...options };
    this.effects = inventEffects(this.options.layers, this.options.heads);
    this.state = this.#initial();
    model.onSend = (message) => this.#later(() => this.receive(message as Intent));
    this.#answer();
  }

  /** A view of this kind shows panel `id`. */
  panel(id: string, widget: string): void {
    this.#views.set(id, widget);
  }

  #later(run: () => void): void {
    if (this.options.delay > 0) setTimeout(run, this.options.delay);
    else run();
  }

  receive(message: Intent): void {
    if (!this.alive) return;
    if (message.kind === "ping") this.model.receive({ kind: "pong", client: message.client, id: message.id });
    else if (message.kind === "hello") this.publish();
    else if (message.kind === "intent") this.#intent(message);
  }

  #intent(intent: Intent): void {
    this.handled.push(intent);
    this.#acks[intent.client] = intent.seq;
    const refused = this.#do(intent);
    if (refused !== null) {
      this.model.receive({
        kind: "refused",
        client: intent.client,
        seq: intent.seq,
        key: intent.key,
        message: refused,
      });
      this.#sendState();
      return;
    }
    if (intent.name === "panel") return;
    this.revision += 1;
    this.#answer();
    this.publish();
  }

  #do({ name, args }: Intent): string | null {
    const before = JSON.stringify(this.state.interventions);
    if (name === "ablate") this.#ablate([args.site], args.off, args.mode, args.positions);
    else if (name === "ablate_many") this.#ablate(args.sites, args.off, args.mode, args.positions);
    else if (name === "mode") this.#setMode(args.mode);
    else if (name === "strength") {
      const refused = this.#strength(args.name, args.value);
      if (refused !== null) return refused;
    } else if (name === "vector") this.#settings(args);
    else if (name === "ask") return this.#ask(args.prompt, args.target);
    else if (name === "clear") this.state.interventions = [];
    else if (name === "undo" || name === "redo") this.#step(name);
    else if (name === "panel") this.#generate(args.panel, args.action, args);
    if (name !== "undo" && name !== "redo" && name !== "panel") this.#remember(before);
    return null;
  }

  #remember(before: string): void {
    if (before === JSON.stringify(this.state.interventions)) return;
    this.#undo.push(before);
    this.#redo = [];
  }

  #step(direction: "undo" | "redo"): void {
    const [from, to] = direction === "undo" ? [this.#undo, this.#redo] : [this.#redo, this.#undo];
    const there = from.pop();
    if (there === undefined) return;
    to.push(JSON.stringify(this.state.interventions));
    this.state.interventions = JSON.parse(there);
    this.#syncVectors();
  }

  #syncVectors(): void {
    for (const vector of this.state.vectors) {
      vector.coefficient = this.state.interventions.find((one) => one.vector === vector.name)?.coefficient ?? 0;
    }
  }

  #ablate(sites: string[], off: boolean, mode: string, positions: unknown = "all"): void {
    const kept = this.state.interventions.filter((one) => !sites.includes(one.site) || one.kind !== "ablate");
    const added = off ? sites.map((site) => ({ ...ablation(site, mode), positions: String(positions) })) : [];
    this.state.interventions = [...kept, ...added];
  }

  #setMode(mode: State["mode"]): void {
    this.state.mode = mode;
    for (const one of this.state.interventions) if (one.kind === "ablate") one.mode = mode;
  }

  #strength(name: string, value: number): string | null {
    const vector = this.state.vectors.find((one) => one.name === name);
    if (vector === undefined) return `There is no vector named ${name}: pass it in vectors={…}.`;
    if (!Number.isFinite(value) || Math.abs(value) > 100) {
      return `A strength of ${value} cannot be used: it must be a finite number of at most 100. Type a smaller one.`;
    }
    vector.coefficient = value;
    this.#steer(vector);
    return null;
  }

  #steer(vector: Vector): void {
    const rest = this.state.interventions.filter((one) => one.vector !== vector.name);
    this.state.interventions = [...rest, steering(vector)];
  }

  #settings(args: Args): void {
    const vector = this.state.vectors.find((one) => one.name === args.name);
    if (vector === undefined) return;
    Object.assign(vector, { site: args.site, on: args.on, positions: args.positions, mode: args.mode });
    this.#steer(vector);
  }

  #ask(prompt: string, target: unknown): string | null {
    if (prompt.trim() === "") return "The prompt is empty: type some text first.";
    if (typeof target === "string" && target.trim().includes(" ")) {
      return `The target “${target}” is 2 tokens (“ gave”, “ it”): give one token, or the first of them.`;
    }
    const words = ["<bos>", ...prompt.split(/(?= )/)];
    if (this.state.question === null) return null;
    this.state.question.prompt = prompt;
    this.state.question.tokens = words.map(token);
    this.state.question.position = words.length - 1;
    if (typeof target === "string") this.state.question.target = [token(target, 50)];
    this.state.interventions = [];
    this.#syncVectors();
    return null;
  }

  /** The made-up model: what the metric is under these interventions. */
  metric(interventions: readonly Intervention[] = this.state.interventions): number {
    const lost = interventions
      .filter((one) => one.kind === "ablate" && one.on)
      .reduce((sum, one) => sum + this.effect(one.site), 0);
    const pushed = interventions
      .filter((one) => one.kind === "steer" && one.on)
      .reduce((sum, one) => sum + push(one.vector ?? "", one.coefficient ?? 0), 0);
    return 4.11 - lost + pushed;
  }

  effect(site: string): number {
    const [, row, column] = /^L(\d+)H(\d+)$/.exec(site) ?? [];
    if (row === undefined) return [0.05, 0.42, 1.9, 1.1][Number(/\d+/.exec(site)?.[0])] ?? 0.1;
    return this.effects[Number(row)]?.[Number(column)] ?? 0;
  }

  #answer(): void {
    const { interventions, vectors } = this.state;
    const metric = this.metric();
    const shift = (metric - 4.11) * 0.25;
    const top: [string, number][] = [
      [" Mary", 0.91],
      [" the", 0.02],
      [" John", 0.015],
      [" her", 0.012],
      [" him", 0.006],
    ];
    const answer: Answer = {
      revision: this.revision,
      metric,
      plain_metric: 4.11,
      target_probability: moved(0.91, shift),
      rank: metric > 0 ? 1 : 2,
      top: top.map(([text, p], index) => ({
        id: index,
        text,
        plain_probability: p,
        probability: moved(p, index === 0 ? shift : -shift),
      })),
      receipts: interventions.map((one) => receipt(one, vectors)),
      milliseconds: 9.3,
      floor: 0.01,
      kl: Math.abs(metric - 4.11) * 0.1,
      interval: this.options.examples > 1 ? 0.42 : null,
      values: Array.from({ length: this.options.examples }, (_, n) => metric * example(n)),
    };
    this.state.answer = this.state.question === null ? null : answer;
    const label = interventions.length === 0 ? "asked" : (interventions.at(-1)?.label ?? "");
    const { items } = this.state.history;
    this.state.history = { items: [...items.slice(0, this.#undo.length), { label, metric }], index: this.#undo.length };
    for (const _ of this.#redo) this.state.history.items.push({ label: "…", metric: null });
  }

  publish(): void {
    this.#sendState();
    for (const [id, widget] of this.#views) this.sendPanel(id, widget);
  }

  #sendState(): void {
    this.model.receive({ kind: "state", revision: this.revision, acks: this.#acks, state: this.state });
  }

  sendPanel(id: string, widget: string): void {
    const data =
      widget === "TokenAttribution" ? this.attribution() : widget === "HeadAblation" ? this.sweep() : this.curves();
    const { json, buffers } = encode(data);
    this.model.receive(
      { kind: "panel", panel: id, revision: this.revision, status: "done", progress: 1, message: null, data: json },
      buffers,
    );
  }

  attribution(): Record<string, unknown> {
    const tokens = this.state.question?.tokens ?? [];
    const scale = this.metric() / 4.11;
    return {
      method: "integrated_gradients",
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

  sweep(): Record<string, unknown> {
    const { layers, heads } = this.options;
    const now = this.metric();
    const flat = this.effects.flat();
    return {
      mode: this.state.mode,
      baseline: now,
      floor: 0.01,
      effects: f32(flat, [layers, heads]),
      mlp: f32(
        Array.from({ length: layers }, (_, layer) => this.effect(`L${layer}.mlp`)),
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
        Array.from({ length: layers }, (_, layer) => this.effect(`L${layer}.mlp`) * 0.8),
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
      ...(this.options.examples > 1
        ? {
            each: f32(
              Array.from({ length: this.options.examples }, (_, n) => flat.map((effect) => effect * example(n))).flat(),
              [this.options.examples, layers, heads],
            ),
          }
        : {}),
    };
  }

  /** A head's card: its direct effect, spread over the sources. */
  card(layer: number, head: number): Record<string, unknown> {
    const count = this.state.question?.tokens.length ?? 0;
    const direct = this.effect(`L${layer}H${head}`) * 0.9;
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

  curves(): Record<string, unknown> {
    const strengths = Array.from({ length: 21 }, (_, index) => (index - 10) * 0.15);
    const rest = this.state.interventions;
    const vectors = Object.fromEntries(
      this.state.vectors.map((vector) => {
        const others = rest.filter((one) => one.vector !== vector.name);
        const metric = strengths.map((x) => this.metric(others) + push(vector.name, x));
        const random = (sign: number): number[] =>
          strengths.map((x) => this.metric(others) + sign * (0.15 + x * x * 0.2));
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
    return { vectors, continuation: this.continuation() };
  }

  continuation(): Record<string, unknown> {
    const written = (words: string[]): unknown[] =>
      words.map((text, id) => ({ id: text.length * 100 + id, text, probability: 0.2 + (id % 5) / 7 }));
    return {
      plain: written(PLAIN_TEXT),
      edited: written(this.#running ? EDITED_TEXT.slice(0, 8) : EDITED_TEXT),
      divergence: 5,
      running: this.#running,
      note: "greedy",
    };
  }

  map(name: string): Record<string, unknown> {
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

  #generate(panel: string, action: string, args: Args): void {
    if (action === "map") {
      const { json, buffers } = encode({ map: args.vector === null ? null : this.map(String(args.vector)) });
      this.model.receive(
        { kind: "panel", panel, revision: this.revision, status: "done", progress: 1, message: null, data: json },
        buffers,
      );
      return;
    }
    if (action === "card") {
      const { json, buffers } = encode({ card: this.card(args.layer, args.head) });
      this.model.receive(
        { kind: "panel", panel, revision: this.revision, status: "done", progress: 1, message: null, data: json },
        buffers,
      );
      this.#sendState();
      return;
    }
    if (action !== "generate" && action !== "stop") return;
    this.#running = action === "generate";
    this.sendPanel(panel, this.#views.get(panel) ?? "SteeringSliders");
    this.#sendState();
  }

  #initial(): State {
    const tokens = WORDS.map(token);
    const prompt = WORDS.slice(1).join("");
    const find = (text: string): Token[] => [{ id: 7, text, kind: "text" }];
    return {
      version: this.options.version,
      model: {
        name: "embedded",
        layers: this.options.layers,
        heads: Array(this.options.layers).fill(this.options.heads),
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
        examples: this.options.examples,
      },
      interventions: [],
      vectors: this.options.vectors ? [vector("sentiment", 1), vector("french", 3)] : [],
      mode: "mean",
      reference: { name: "names-corrupt", n: 64, pooled: false, hash: "3fa9" },
      answer: null,
      history: { items: [], index: 0 },
      busy: false,
      error: null,
      closed: false,
    };
  }
}

/** How strongly one prompt of the set shows what is asked. */
function example(n: number): number {
  return 1 + 0.3 * Math.sin(n * 2.4);
}

function vector(name: string, layer: number): Vector {
  return {
    name,
    site: `L${layer}`,
    norm: 7,
    residual_norm: 20,
    coefficient: 0,
    on: true,
    limit: 1.5,
    mode: "add",
    positions: "content",
    source: "mean difference",
  };
}

function ablation(site: string, mode: string): Intervention {
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

function steering(one: Vector): Intervention {
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

function receipt(one: Intervention, vectors: readonly Vector[]): Receipt {
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

function push(name: string, x: number): number {
  return name === "sentiment" ? 3 / (1 + Math.exp(-4 * x)) - 1.5 : -2 * Math.max(0, Math.tanh((x - 0.4) * 2));
}

function moved(probability: number, shift: number): number {
  const z = Math.log(probability / (1 - probability)) + shift;
  return 1 / (1 + Math.exp(-z));
}

function inventEffects(layers: number, heads: number): number[][] {
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

type Raw = { $raw: Float32Array; shape: number[] };

export function f32(values: readonly number[], shape: number[]): Raw {
  return { $raw: Float32Array.from(values), shape };
}

/** As the kernel does it: arrays leave the JSON and travel as buffers, here at an odd offset inside a larger one. */
export function encode(value: unknown): { json: unknown; buffers: DataView[] } {
  const buffers: DataView[] = [];
  const walk = (item: unknown): unknown => {
    if (Array.isArray(item)) return item.map(walk);
    if (item === null || typeof item !== "object") return item;
    if ("$raw" in item) {
      const { $raw, shape } = item as Raw;
      const whole = new ArrayBuffer($raw.byteLength + 3);
      new Uint8Array(whole, 3).set(new Uint8Array($raw.buffer));
      buffers.push(new DataView(whole, 3));
      return { $array: buffers.length - 1, dtype: "float32", shape };
    }
    return Object.fromEntries(Object.entries(item).map(([key, inner]) => [key, walk(inner)]));
  };
  return { json: walk(value), buffers };
}
