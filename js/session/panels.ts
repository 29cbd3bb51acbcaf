/** What each view was last told: newest revision wins, a table stays readable while its successor is computed. */

import type { Decoded } from "../kit/codec.ts";
import type { PanelStatus, State } from "./protocol.ts";

export type Panel = {
  panel: string;
  /** The state that the newest message belongs to. */
  revision: number;
  status: PanelStatus;
  progress: number | null;
  message: string;
  data: Readonly<Record<string, Decoded>>;
  /** The revision each part of `data` was measured at; parts of an older one are stale. */
  revisions: Readonly<Record<string, number>>;
};

export type PanelMessage = {
  panel: string;
  revision: number;
  status: PanelStatus;
  progress?: number | null;
  message?: string | null;
  data?: Record<string, Decoded> | null;
};

/** The panel after a message. A message of an older revision than one already seen changes nothing. */
export function receivePanel(old: Panel | undefined, message: PanelMessage): Panel {
  if (old !== undefined && message.revision < old.revision) return old;
  const data = message.data ?? {};
  const fresh = Object.fromEntries(Object.keys(data).map((key) => [key, message.revision]));
  return {
    panel: message.panel,
    revision: message.revision,
    status: message.status,
    progress: message.progress ?? null,
    message: message.message ?? "",
    data: { ...old?.data, ...data },
    revisions: { ...old?.revisions, ...fresh },
  };
}

const NO_HISTORY = { items: [], index: 0 };

/**
 * The states of the last revisions, to know under which circumstances an older table was measured. Their answers and histories,
 * which are no circumstance, are left out: a history of 200 steps in each of 64 states is a megabyte.
 */
export class RecentStates {
  readonly #states = new Map<number, State>();
  readonly #keep: number;

  constructor(keep = 64) {
    this.#keep = keep;
  }

  add(revision: number, state: State): void {
    this.#states.delete(revision);
    this.#states.set(revision, { ...state, answer: null, history: NO_HISTORY });
    for (const oldest of this.#states.keys()) {
      if (this.#states.size <= this.#keep) return;
      this.#states.delete(oldest);
    }
  }

  get(revision: number): State | undefined {
    return this.#states.get(revision);
  }
}
