/** The messages of docs/protocol.md, typed. Names here and there are kept in step. */

import type { Decoded } from "../kit/codec.ts";

export type Token = { id: number; text: string; kind: "text" | "special" | "byte" };

export type Question = {
  prompt: string;
  /** Of a chat of one message by the user, its text. */
  message?: string | null;
  tokens: Token[];
  position: number;
  target: Token[];
  foil: Token[];
  label: string;
  unit: string;
  examples: number;
  /** Whether there is a prompt to resample and patch from. */
  corrupt?: boolean;
};

export type Intervention = {
  key: string;
  kind: "ablate" | "steer" | "patch" | "edit";
  site: string;
  label: string;
  on: boolean;
  mode: string;
  positions: string;
  coefficient: number | null;
  vector: string | null;
  code: string;
};

export type Vector = {
  name: string;
  site: string;
  norm: number;
  /** Of the difference that it was made from; null for a vector that comes from none. */
  difference: number | null;
  /** At the place where it acts, 0 where that was not measured. */
  residual_norm: number;
  /** What "clamp" sets the component along it to: `origin` at strength 0, `span` more at strength 1. */
  origin: number;
  span: number;
  coefficient: number;
  on: boolean;
  limit: number;
  mode: string;
  positions: string;
  source: string;
};

export type Receipt = {
  label: string;
  site: string;
  state: "acted" | "idle" | "cannot reach" | "no effect";
  reason: string;
  fired: number;
  positions: number;
  change: number;
};

export type TopToken = Token & { probability: number; plain_probability: number };

export type Answer = {
  revision: number;
  metric: number;
  plain_metric: number;
  /** Half the 95 % interval of the mean over a prompt set. */
  interval?: number | null;
  /** The metric of every example. */
  values?: number[];
  /** Of every example of a prompt set: the target's probability ("chance") and "rank", and "KL" from the plain run. */
  each?: { [reading: string]: number[] } | null;
  /** Of the plain answer to this one, in nats. */
  kl?: number;
  target_probability: number;
  rank: number;
  top: TopToken[];
  receipts: Receipt[];
  milliseconds: number;
  floor: number;
};

export type AblationMode = "mean" | "zero" | "resample";

export type State = {
  version: string;
  model: {
    name: string;
    layers: number;
    heads: number[];
    dtype: string;
    device: string;
    chat?: boolean;
    notes: string[];
  };
  question: Question | null;
  interventions: Intervention[];
  vectors: Vector[];
  mode: AblationMode;
  reference: { name: string; n: number; pooled: boolean; hash: string } | null;
  answer: Answer | null;
  history: { items: { label: string; metric: number | null }[]; index: number };
  busy: boolean;
  error: string | null;
  closed: boolean;
};

export type PanelStatus = "computing" | "partial" | "done" | "failed" | "asking" | "closed";

export type KernelMessage =
  | { kind: "state"; revision: number; acks: Record<string, number>; state: State }
  | {
      kind: "panel";
      panel: string;
      revision: number;
      status: PanelStatus;
      progress: number | null;
      message: string | null;
      data: Record<string, Decoded> | null;
    }
  | { kind: "refused"; client: string; seq: number; key: string; message: string }
  | { kind: "pong"; client: string; id: number }
  | { kind: "closed"; message: string };

/** A text or several, the ids of tokens, or none. */
export type Asked = string | string[] | number[] | null;

/** What a wish may say; every argument is absolute ("off: true"), never relative ("toggle"). */
export type Intents = {
  ablate: { site: string; off: boolean; mode: AblationMode; positions?: "all" | number[] };
  ablate_many: { sites: string[]; off: boolean; mode: AblationMode; positions?: "all" | number[] };
  edge: { site: string; dest: number; src: number; off: boolean };
  mode: { mode: AblationMode };
  strength: { name: string; value: number; final: boolean };
  vector: { name: string; on: boolean; site: string; positions: string; mode: string };
  ask: { prompt: string; target: Asked; foil: Asked; chat?: boolean };
  clear: Record<string, never>;
  undo: Record<string, never>;
  redo: Record<string, never>;
  panel: { panel: string; action: string; [setting: string]: unknown };
};

export type IntentName = keyof Intents;
