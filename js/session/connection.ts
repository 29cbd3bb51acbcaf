/**
 * Whether there is a kernel at the other end. Four sources, from the surest to the weakest: what the host knows of the kernel
 * (JupyterLab: its status and its websocket), the comm itself, the kernel's pulse, and silence after a ping.
 * A kernel that runs a cell may leave a ping unanswered for minutes: that is "busy", and never called dead while it has a pulse.
 */

import type { Clock } from "../kit/channel.ts";
import { pulse } from "./pulse.ts";

export type Status =
  | "connecting"
  | "live"
  | "busy"
  | "silent"
  | "reconnecting"
  | "restarted"
  | "dead"
  | "saved"
  | "closed";

export type Connection = {
  status: Status;
  /** One sentence for the reader; empty when there is nothing to say. */
  message: string;
  /** Whether controls may be used: a wish made now will reach the kernel. */
  usable: boolean;
};

const SENTENCES: Record<Status, string> = {
  connecting: "",
  live: "",
  busy: "The kernel is running a cell; what you change here is done as soon as it answers.",
  silent: "The kernel does not answer. If it is stuck, interrupt or restart it.",
  reconnecting: "The connection to the kernel is lost; reconnecting…",
  restarted: "The kernel was restarted, so this view is not live any more. Run its cells again.",
  dead: "The kernel has stopped. Start it and run this view's cells again.",
  saved: "This view comes from the saved notebook and is not live. Run its cells to see it.",
  closed: "This session is closed. Run the cell that opens it again.",
};

/** Nothing that is sent from here reaches anybody. */
const GONE: ReadonlySet<Status> = new Set(["restarted", "dead", "saved", "closed"]);
const USABLE: ReadonlySet<Status> = new Set(["live", "busy"]);

export function connection(status: Status, message = SENTENCES[status], usable = USABLE.has(status)): Connection {
  return { status, message, usable };
}

const NO_PULSE =
  "Nothing is heard from the kernel: it has stopped, is stuck, or cannot be reached. If it does not come back, restart it.";

/** Where the host says nothing about its kernel, silence may as well be a long cell: nothing is switched off. */
const MAYBE_BUSY = "No answer from the kernel yet: it is running a cell, or it is gone.";

/** An unconfirmed wish this old makes us ask whether anybody is there. */
const DOUBT = 600;
/** No answer for this long after asking is silence. Together well under two seconds. */
const PATIENCE = 1000;
const SAME_BREATH = 100;
/** While it stays silent, ask again this often. */
const RETRY = 5000;

export type Monitor = {
  current(): Connection;
  /** Anything at all came from the kernel. */
  heard(): void;
  pong(id: number): void;
  /** The kernel said by itself that it lives. */
  beat(): void;
  /** Whether the page is looked at: a kernel does not beat for one that is hidden. */
  seen(yes: boolean): void;
  /** JupyterLab's word on the kernel: idle, busy, restarting, autorestarting, terminating, dead, unknown. */
  kernel(status: string): void;
  /** JupyterLab's word on the websocket: connected, connecting, disconnected. */
  socket(status: string): void;
  /** ipywidgets marks its models dead when the kernel restarts; a pong proves otherwise. */
  commChanged(): void;
  /** A wish was sent and waits for its acknowledgement. */
  waiting(since: () => number | null): void;
  /** Nobody answered our greeting: ask whether anybody is there. */
  doubt(): void;
  /** The page was built from a saved notebook: there is nobody to greet. */
  saved(): void;
  closed(message?: string): void;
  stop(): void;
};

type Hooks = { ping(id: number): void; hello(): void; changed(connection: Connection): void };

export function monitor(hooks: Hooks, time: Clock): Monitor {
  let now = connection("connecting");
  let kernelStatus = "";
  /** The host itself said that the kernel we knew is gone: no message can bring it back. */
  let certain = false;
  let nextPing = 1;
  /** The ping that is not answered yet. */
  let asked: number | null = null;
  let cancel: (() => void) | null = null;
  let since: () => number | null = () => null;

  function become(status: Status, message?: string, usable?: boolean): void {
    if (now.status === "closed" && status !== "closed") return;
    const next = connection(status, message || undefined, usable);
    if (next.status === now.status && next.message === now.message) return;
    now = next;
    hooks.changed(now);
  }

  function lose(status: Status): void {
    certain = true;
    become(status);
  }

  const heart = pulse(
    {
      lost() {
        // Where the host says nothing of its kernel, a beat may have to wait for the end of a cell like everything else.
        if (gone() || now.status === "reconnecting") return;
        if (kernelStatus === "") become("silent", MAYBE_BUSY, true);
        else become("silent", NO_PULSE);
      },
      back() {
        if (now.status === "silent") become("live");
        if (since() !== null) schedule(DOUBT);
      },
    },
    time,
  );

  const gone = (): boolean => GONE.has(now.status);

  function ping(): void {
    asked = nextPing++;
    hooks.ping(asked);
  }

  function ask(): void {
    ping();
    schedule(PATIENCE);
  }

  function schedule(ms: number): void {
    cancel?.();
    cancel = time.after(ms, check);
  }

  function check(): void {
    cancel = null;
    if (gone() || heart.lost() || now.status === "reconnecting") return;
    if (asked !== null) {
      if (kernelStatus === "busy") become("busy");
      else if (kernelStatus === "idle") become("silent");
      else become("silent", MAYBE_BUSY, true);
      asked = null;
      schedule(RETRY);
      return;
    }
    const oldest = since();
    if (now.status !== "live" && now.status !== "connecting") ask();
    else if (oldest !== null) {
      const age = time.now() - oldest;
      if (age >= DOUBT) ask();
      else schedule(DOUBT - age);
    }
  }

  return {
    current: () => now,
    beat: heart.beat,
    seen(yes) {
      heart.rest();
      if (yes && !gone() && asked === null) ask();
    },
    heard() {
      heart.felt();
      if (gone()) return;
      asked = null;
      become("live");
      if (since() !== null) schedule(DOUBT);
      else cancel?.();
    },
    pong(id) {
      heart.felt();
      // Messages sent before a restart may still arrive after it; only the answer to a newer question counts.
      if (certain || now.status === "closed" || (gone() && asked !== id)) return;
      asked = null;
      become("live");
    },
    kernel(status) {
      kernelStatus = status;
      if (status === "restarting" || status === "autorestarting") lose("restarted");
      else if (status === "dead" || status === "terminating") lose("dead");
      else if (status === "idle" && now.status === "busy") ask();
    },
    socket(status) {
      if (gone()) return;
      if (status === "connected") {
        if (now.status !== "reconnecting") return;
        become("connecting");
        hooks.hello();
        ask();
      } else {
        heart.rest();
        become("reconnecting");
      }
    },
    commChanged() {
      if (gone()) return;
      become("restarted");
      // When the host says in the same breath that the kernel restarts, asking would only put an error on the new kernel's log.
      time.after(SAME_BREATH, () => {
        if (!certain && now.status !== "closed") ping();
      });
    },
    waiting(oldest) {
      since = oldest;
      if (cancel === null && !gone() && oldest() !== null) schedule(DOUBT);
    },
    doubt() {
      if (!gone() && asked === null) ask();
    },
    saved: () => become("saved"),
    closed(message) {
      // A kernel that is gone takes its comms with it; what happened first is the better news.
      if (!certain) become("closed", message);
    },
    stop() {
      heart.rest();
      cancel?.();
      cancel = null;
    },
  };
}
