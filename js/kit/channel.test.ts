import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { INTERVAL, openChannel, TooLargeError } from "./channel.ts";

type Sent = { seq: number; key: string; args: { value: number } };
let sent: Sent[];
const open = () =>
  openChannel(
    (message) => sent.push(message as unknown as Sent),
    () => {},
  );

beforeEach(() => {
  sent = [];
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("three hundred moves in three seconds send at most thirty a second, and the last value last", () => {
  const channel = open();
  for (let move = 0; move < 300; move += 1) {
    channel.wish("strength", "strength:a", { value: move }, { throttled: true });
    vi.advanceTimersByTime(10);
  }
  vi.advanceTimersByTime(100);
  expect(sent.length).toBeLessThanOrEqual(3000 / INTERVAL + 2);
  expect(sent.length).toBeGreaterThan(60);
  expect(sent.at(-1)?.args.value).toBe(299);
});

test("letting go sends at once, and no older value afterwards", () => {
  const channel = open();
  channel.wish("strength", "strength:a", { value: 1 }, { throttled: true });
  channel.wish("strength", "strength:a", { value: 2 }, { throttled: true });
  channel.wish("strength", "strength:a", { value: 3 });
  vi.advanceTimersByTime(1000);
  expect(sent.map((message) => message.args.value)).toEqual([1, 3]);
});

test("sequence numbers grow by one whatever the wish is about", () => {
  const channel = open();
  channel.wish("ablate", "head:L0H0", {});
  channel.wish("strength", "strength:a", {}, { throttled: true });
  channel.wish("undo", "undo", {});
  expect(sent.map((message) => message.seq)).toEqual([1, 2, 3]);
});

test("two controls are throttled each for itself", () => {
  const channel = open();
  channel.wish("strength", "strength:a", { value: 1 }, { throttled: true });
  channel.wish("strength", "strength:b", { value: 2 }, { throttled: true });
  expect(sent.map((message) => message.key)).toEqual(["strength:a", "strength:b"]);
});

test("a wish is pending until its own number is acknowledged", () => {
  const channel = open();
  channel.wish("ablate", "head:L0H0", {});
  channel.wish("ablate", "head:L0H1", {});
  channel.acknowledge(1);
  expect([...channel.pending().keys()]).toEqual(["head:L0H1"]);
  expect(channel.waitingSince()).not.toBeNull();
  channel.acknowledge(2);
  expect(channel.waitingSince()).toBeNull();
});

test("a value that still waits to be sent is not taken for acknowledged", () => {
  const channel = open();
  channel.wish("strength", "strength:a", { value: 1 }, { throttled: true });
  channel.wish("strength", "strength:a", { value: 2 }, { throttled: true });
  channel.acknowledge(1);
  expect(channel.pending().get("strength:a")?.args.value).toBe(2);
});

test("the refusal of an older wish does not take back a newer one", () => {
  const channel = open();
  channel.wish("ask", "ask", {});
  channel.wish("ask", "ask", {});
  channel.refuse("ask", 1);
  expect(channel.pending().has("ask")).toBe(true);
  channel.refuse("ask", 2);
  expect(channel.pending().has("ask")).toBe(false);
});

test("undo forgets what was half said before it", () => {
  const channel = open();
  channel.wish("strength", "strength:a", { value: 1 }, { throttled: true });
  channel.wish("strength", "strength:a", { value: 2 }, { throttled: true });
  channel.wish("undo", "undo", {}, { barrier: true });
  vi.advanceTimersByTime(1000);
  expect(sent.map((message) => message.key)).toEqual(["strength:a", "undo"]);
  expect([...channel.pending().keys()]).toEqual(["undo"]);
});

// @case E12
test("a megabyte of text is refused here, with its size, before it can break the connection", () => {
  const channel = open();
  expect(() => channel.wish("ask", "ask", { prompt: "x".repeat(2_000_000) })).toThrow(TooLargeError);
  expect(() => channel.wish("ask", "ask", { prompt: "x".repeat(2_000_000) })).toThrow("2.0 MB");
  expect(sent).toEqual([]);
});

test("two channels never share a name", () => {
  expect(open().client).not.toBe(open().client);
});
