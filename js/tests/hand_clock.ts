import type { Clock } from "../kit/channel.ts";

/** A clock that is moved by hand. */
export function handClock() {
  let now = 0;
  const timers: { at: number; run: () => void }[] = [];
  const time: Clock = {
    now: () => now,
    after(ms, run) {
      const timer = { at: now + ms, run };
      timers.push(timer);
      return () => timers.splice(timers.indexOf(timer) >>> 0, timers.includes(timer) ? 1 : 0);
    },
  };
  function advance(ms: number): void {
    const end = now + ms;
    for (;;) {
      const due = timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      timers.splice(timers.indexOf(due), 1);
      now = Math.max(now, due.at);
      due.run();
    }
    now = end;
  }
  /** The page stands still for so long, and then does at once what was due. */
  function stall(ms: number): void {
    now += ms;
    advance(0);
  }
  return { time, advance, stall };
}
