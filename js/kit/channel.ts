/**
 * The sending side of a conversation with the kernel: who we are, which message is newer, what has been taken in.
 * Of two wishes about the same thing only the newer counts, so a fast control sends at most every `interval` ms,
 * always its last value, and at once when it is let go.
 */

export type Wish = { seq: number; name: string; key: string; args: Record<string, unknown>; sentAt: number | null };

export type Clock = {
  now(): number;
  after(ms: number, run: () => void): () => void;
};

/** Monotonic, so a laptop's sleep or a clock change starts no storm of timeouts. */
export const clock: Clock = {
  now: () => performance.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

export type Channel = {
  readonly client: string;
  /** The newest wish about each thing that the kernel has not confirmed yet. */
  pending(): ReadonlyMap<string, Wish>;
  /** Sends at once, or with `throttled` no more often than every `interval` ms. Returns the sequence number, null while it waits. */
  wish(
    name: string,
    key: string,
    args: Record<string, unknown>,
    options?: { throttled?: boolean; barrier?: boolean },
  ): number | null;
  /** The kernel has taken in everything of ours up to `seq`. */
  acknowledge(seq: number): void;
  /** A wish was refused: forget it, unless a newer one about the same thing has been made. */
  refuse(key: string, seq: number): void;
  /** The oldest moment at which something was sent that is still unconfirmed. */
  waitingSince(): number | null;
  drop(): void;
};

/** About 30 messages a second. */
export const INTERVAL = 34;
/** JupyterLab's server closes the connection above 10 MiB; nothing we say needs a tenth of that. */
export const MAX_BYTES = 1_000_000;

export class TooLargeError extends Error {}

export function openChannel(
  send: (message: Record<string, unknown>) => void,
  changed: () => void,
  time: Clock = clock,
): Channel {
  const client = randomId();
  const pending = new Map<string, Wish>();
  const timers = new Map<string, () => void>();
  let seq = 0;

  function deliver(wish: Wish): number {
    seq += 1;
    wish.seq = seq;
    wish.sentAt = time.now();
    send({ kind: "intent", client, seq, name: wish.name, key: wish.key, args: wish.args });
    return seq;
  }

  function deliverLater(wish: Wish): number | null {
    if (timers.has(wish.key)) return null;
    const number = deliver(wish);
    const tick = (): void => {
      const newest = pending.get(wish.key);
      if (newest !== undefined && newest.sentAt === null) {
        deliver(newest);
        timers.set(wish.key, time.after(INTERVAL, tick));
      } else timers.delete(wish.key);
    };
    timers.set(wish.key, time.after(INTERVAL, tick));
    return number;
  }

  function stopTimer(key: string): void {
    timers.get(key)?.();
    timers.delete(key);
  }

  return {
    client,
    pending: () => pending,
    wish(name, key, args, { throttled = false, barrier = false } = {}) {
      const wish: Wish = { seq: 0, name, key, args, sentAt: null };
      const size = JSON.stringify(args).length;
      if (size > MAX_BYTES) {
        throw new TooLargeError(
          `This is ${(size / 1e6).toFixed(1)} MB of text; at most ${MAX_BYTES / 1e6} MB can be sent. Shorten it, or set it from Python.`,
        );
      }
      if (barrier) {
        for (const other of timers.keys()) stopTimer(other);
        pending.clear();
      }
      pending.set(key, wish);
      if (!throttled) stopTimer(key);
      const number = throttled ? deliverLater(wish) : deliver(wish);
      changed();
      return number;
    },
    acknowledge(upTo) {
      let any = false;
      for (const [key, wish] of pending) {
        if (wish.sentAt === null || wish.seq > upTo) continue;
        pending.delete(key);
        any = true;
      }
      if (any) changed();
    },
    refuse(key, number) {
      const wish = pending.get(key);
      if (wish === undefined || wish.sentAt === null || wish.seq > number) return;
      pending.delete(key);
      changed();
    },
    waitingSince() {
      const times = [...pending.values()].flatMap((wish) => (wish.sentAt === null ? [] : [wish.sentAt]));
      return times.length ? Math.min(...times) : null;
    },
    drop() {
      for (const key of timers.keys()) stopTimer(key);
      if (pending.size === 0) return;
      pending.clear();
      changed();
    },
  };
}

/** Not crypto.randomUUID: that is missing where a server is reached over plain http. */
export function randomId(): string {
  return Math.random().toString(36).slice(2, 12) + Date.now().toString(36);
}
