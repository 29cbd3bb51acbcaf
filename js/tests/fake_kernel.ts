/**
 * A kernel that speaks docs/protocol.md about an invented model. Its numbers are made up but consistent: the sweep's table, the
 * metric after a click, the curve and the slider all come from one function, so a view that mixes them up is found out.
 */

import type { Answer, Intervention, State, Vector } from "../session/protocol.ts";
import { encode } from "./encode.ts";
import { attribution, card, curves, type Data, map, sweep } from "./fake_panels.ts";
import type { FakeModel } from "./host.ts";
import { ablation, example, inventEffects, moved, push, receipt, stateOf, steering, token } from "./invented.ts";

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
    this.state = stateOf(this.options);
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
        kind: "text",
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
      widget === "TokenAttribution"
        ? attribution(this)
        : widget === "HeadAblation"
          ? this.sweep()
          : curves(this, this.#running);
    const { json, buffers } = encode(data);
    this.model.receive(
      { kind: "panel", panel: id, revision: this.revision, status: "done", progress: 1, message: null, data: json },
      buffers,
    );
  }

  /** What HeadAblation shows. */
  sweep(): Data {
    return sweep(this);
  }

  #generate(panel: string, action: string, args: Args): void {
    if (action === "map") {
      const { json, buffers } = encode({ map: args.vector === null ? null : map(String(args.vector)) });
      this.model.receive(
        { kind: "panel", panel, revision: this.revision, status: "done", progress: 1, message: null, data: json },
        buffers,
      );
      return;
    }
    if (action === "card") {
      const { json, buffers } = encode({ card: card(this, args.layer, args.head) });
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
}
