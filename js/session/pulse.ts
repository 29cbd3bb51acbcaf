/**
 * Whether the kernel's process is alive. While a page is looked at the kernel says so by itself every half second, also while it runs
 * a cell; that costs it no request, so it does not look busy. JupyterLab's server only looks after its kernels every three seconds.
 */

import type { Clock } from "../kit/channel.ts";

/** Without a sign of life for this long there is none. */
const PATIENCE = 1500;
/** A kernel that was given up too early, because its machine is slow, is given more time for a while, but never more than this. */
const MOST = 5000;
const REMEMBER = 60_000;
/** A timer this late means that the page itself stood still: what came meanwhile has not been read yet. */
const LATE = 300;
/** The kernel beats for a page for 90 s after it was asked to. */
const RENEW = 60_000;

export type Pulse = {
  /** The kernel says that it lives, and will go on saying so. */
  beat(): void;
  /** Anything else came from it. */
  felt(): void;
  /** Nobody beats for us any more: the page is hidden, or the connection is lost. */
  rest(): void;
  lost(): boolean;
};

export function pulse(hooks: { lost(): void; back(): void }, time: Clock): Pulse {
  let last = time.now();
  let beating = false;
  let lost = false;
  let patience = PATIENCE;
  let forgiven = 0;
  let cancel: (() => void) | null = null;

  function watch(): void {
    cancel?.();
    cancel = null;
    if (!beating) return;
    const due = last + patience;
    cancel = time.after(due - time.now(), () => {
      if (time.now() - due > LATE) {
        last = time.now();
        watch();
      } else if (!lost) {
        lost = true;
        hooks.lost();
      }
    });
  }

  function felt(): void {
    const gap = time.now() - last;
    last += gap;
    if (lost) {
      lost = false;
      patience = Math.min(MOST, Math.max(patience, 2 * gap));
      forgiven = last + REMEMBER;
      hooks.back();
    } else if (last > forgiven) patience = PATIENCE;
    watch();
  }

  return {
    felt,
    beat() {
      beating = true;
      felt();
    },
    rest() {
      beating = false;
      watch();
    },
    lost: () => lost,
  };
}

/** Asks the kernel to beat while the page is looked at. */
export function listen(ask: (on: boolean) => void, time: Clock, abort: AbortSignal): { on(): boolean; renew(): void } {
  let cancel: (() => void) | null = null;
  const on = (): boolean => !abort.aborted && globalThis.document?.visibilityState === "visible";
  const renew = (): void => {
    cancel?.();
    cancel = on() ? time.after(RENEW, say) : null;
  };
  function say(): void {
    ask(on());
    renew();
  }
  globalThis.document?.addEventListener("visibilitychange", say, { signal: abort });
  abort.addEventListener("abort", () => cancel?.());
  return { on, renew };
}
