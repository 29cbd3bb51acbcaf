/**
 * The browser half of a session: one store that every view of the session shares. It mirrors the kernel's truth and adds
 * what is the page's own: wishes on their way, what is hovered and locked. Nothing of it is saved with a notebook.
 *
 * Views are other bundles, with their own copy of the signals library; they follow a signal here by `subscribe`.
 */

import { batch, type ReadonlySignal, type Signal, signal } from "@preact/signals-core";
import { type Clock, clock, openChannel, TooLargeError, type Wish } from "../kit/channel.ts";
import { decode } from "../kit/codec.ts";
import { type Connection, connection, monitor } from "./connection.ts";
import { watchKernel } from "./host_kernel.ts";
import { type Panel, type PanelMessage, RecentStates, receivePanel } from "./panels.ts";
import type { IntentName, Intents, State } from "./protocol.ts";
import { listen } from "./pulse.ts";

export type Snapshot = { revision: number; state: State };
export type Refusal = { seq: number; key: string; message: string };
/** What the pointer or the focus is on, in every view at once. */
export type Mark = { kind: "token"; index: number } | { kind: "head"; site: string } | null;
type Buffers = readonly (ArrayBuffer | ArrayBufferView)[];

export type SessionStore = {
  readonly version: string;
  readonly client: string;
  readonly state: ReadonlySignal<Snapshot | null>;
  readonly connection: ReadonlySignal<Connection>;
  readonly pending: ReadonlySignal<ReadonlyMap<string, Wish>>;
  /** The number of our newest wish that the kernel has taken in. An older one may have been lost with the connection. */
  readonly taken: ReadonlySignal<number>;
  /** The last refusal about each key, until a newer wish about it is made. */
  readonly refusals: ReadonlySignal<ReadonlyMap<string, Refusal>>;
  readonly panels: ReadonlySignal<ReadonlyMap<string, Panel>>;
  readonly hover: Signal<Mark>;
  readonly lock: Signal<Mark>;
  /** The state at one of the last revisions. */
  stateAt(revision: number): State | undefined;
  /** The number of the wish; null while it waits, or when nothing can be sent. */
  intent<N extends IntentName>(
    name: N,
    key: string,
    args: Intents[N],
    options?: { throttled?: boolean },
  ): number | null;
  dismiss(key: string): void;
  /** A view was built from a saved notebook: no kernel knows it. */
  restored(): void;
};

export type Wire = {
  send(message: unknown): void;
  on(name: string, callback: (...args: never[]) => void): void;
  widget_manager?: unknown;
};

/** After these two a half-built wish of before must not be replayed on top. */
const BARRIERS: ReadonlySet<IntentName> = new Set(["clear", "undo", "redo"]);
/** When nobody has answered our greeting, greet again after so many ms. */
const GREET_AGAIN = [1000, 2000, 4000, 8000];

/** Until the new answer comes the last one stays readable; its revision says that it is an old one. */
function withLastAnswer(now: State, old: State | undefined): State {
  if (now.answer !== null || now.question === null || !old?.answer) return now;
  return { ...now, answer: old.answer };
}

export function createStore(wire: Wire, abort: AbortSignal, time: Clock = clock): SessionStore {
  const state = signal<Snapshot | null>(null);
  const live = signal<Connection>(connection("connecting"));
  const pending = signal<ReadonlyMap<string, Wish>>(new Map());
  const taken = signal(0);
  const refusals = signal<ReadonlyMap<string, Refusal>>(new Map());
  const panels = signal<ReadonlyMap<string, Panel>>(new Map());
  const recent = new RecentStates();

  const send = (message: Record<string, unknown>): void => {
    try {
      wire.send(message);
    } catch {
      watch.commChanged(); // a disposed kernel throws; only a pong may prove us wrong
    }
  };
  const channel = openChannel(
    send,
    () => {
      pending.value = new Map(channel.pending());
      watch.waiting(() => channel.waitingSince());
    },
    time,
  );
  const listening = listen(
    (on) => {
      watch.seen(on);
      if (live.peek().usable) send({ kind: "listening", client: channel.client, on });
    },
    time,
    abort,
  );
  const hello = (): void => {
    send({ kind: "hello", client: channel.client, version: __IW_VERSION__, listening: listening.on() });
    listening.renew();
  };
  const watch = monitor(
    {
      hello,
      ping: (id) => send({ kind: "ping", client: channel.client, id }),
      changed(next) {
        batch(() => {
          live.value = next;
          if (!next.usable) channel.drop();
          else if (state.peek() === null) hello();
        });
      },
    },
    time,
  );

  function onState(message: { revision: number; acks?: Record<string, number>; state: State }): void {
    const old = state.peek();
    batch(() => {
      const ack = message.acks?.[channel.client];
      if (old === null || message.revision >= old.revision) {
        recent.add(message.revision, message.state);
        state.value = { revision: message.revision, state: withLastAnswer(message.state, old?.state) };
        if (message.state.closed) watch.closed();
      }
      if (typeof ack !== "number") return;
      channel.acknowledge(ack);
      taken.value = ack;
    });
  }

  /** Damaged arrays cost the message, not the view: what was there before stays, with the reason beside it. */
  function readPanel(message: PanelMessage, buffers: Buffers): PanelMessage {
    try {
      return { ...message, data: decode(message.data ?? null, buffers) as PanelMessage["data"] & object };
    } catch (error) {
      return {
        ...message,
        status: "failed",
        message: `The result could not be read: ${(error as Error).message}.`,
        data: null,
      };
    }
  }

  function onPanel(message: PanelMessage): void {
    const next = new Map(panels.peek());
    const panel = message.status === "closed" ? undefined : receivePanel(next.get(message.panel), message);
    if (panel === undefined) next.delete(message.panel);
    else next.set(message.panel, panel);
    panels.value = next;
  }

  function refuse(one: Refusal): void {
    refusals.value = new Map(refusals.peek()).set(one.key, one);
  }

  function onRefused(message: Refusal & { client: string }): void {
    if (message.client !== channel.client) return;
    const newer = channel.pending().get(message.key);
    if (newer !== undefined && newer.seq > message.seq) return;
    batch(() => {
      channel.refuse(message.key, message.seq);
      refuse(message);
    });
  }

  function receive(raw: unknown, buffers: Buffers): void {
    const message = raw as Record<string, unknown> | null;
    if (message === null || typeof message !== "object") return;
    const { kind } = message;
    if (kind === "pong") {
      if (message.client === channel.client) watch.pong(Number(message.id));
      return;
    }
    if (kind === "beat") {
      watch.beat();
      return;
    }
    if (kind === "state") onState(message as never);
    else if (kind === "panel") onPanel(readPanel(message as never, buffers));
    else if (kind === "refused") onRefused(message as never);
    else if (kind === "closed") watch.closed(String(message.message ?? ""));
    watch.heard();
  }

  wire.on("msg:custom", (message: unknown, buffers?: Buffers) => receive(message, buffers ?? []));
  wire.on("comm_live_update", () => watch.commChanged());
  wire.on("comm:close", () => watch.closed());
  watchKernel(wire, { kernel: watch.kernel, socket: watch.socket, changed: watch.commChanged }, abort);
  // A tab that is shut says goodbye, so that the kernel does not go on computing for nobody; one that comes back greets again.
  const bye = (): void => send({ kind: "bye", client: channel.client });
  globalThis.addEventListener?.("pagehide", bye, { signal: abort });
  globalThis.addEventListener?.("pageshow", (event) => event.persisted && hello(), { signal: abort });
  abort.addEventListener("abort", () => {
    bye();
    watch.closed();
    watch.stop();
    channel.drop();
  });

  const greet = (attempt: number): void => {
    if (abort.aborted || state.peek() !== null || ["closed", "saved"].includes(live.peek().status)) return;
    hello();
    const wait = GREET_AGAIN[attempt];
    if (wait !== undefined) time.after(wait, () => greet(attempt + 1));
    else watch.doubt();
  };
  greet(0);

  function dismiss(key: string): void {
    if (!refusals.peek().has(key)) return;
    const next = new Map(refusals.peek());
    next.delete(key);
    refusals.value = next;
  }

  return {
    version: __IW_VERSION__,
    client: channel.client,
    state,
    connection: live,
    pending,
    taken,
    refusals,
    panels,
    hover: signal<Mark>(null),
    lock: signal<Mark>(null),
    stateAt: (revision) => recent.get(revision),
    dismiss,
    restored: () => {
      if (state.peek() === null) watch.saved();
    },
    intent(name, key, args, { throttled = false } = {}) {
      if (!live.peek().usable) return null;
      dismiss(key);
      try {
        return channel.wish(name, key, args, { throttled, barrier: BARRIERS.has(name) });
      } catch (error) {
        if (!(error instanceof TooLargeError)) throw error;
        refuse({ seq: -1, key, message: error.message });
        return null;
      }
    },
  };
}
