import { expect, test } from "vitest";
import { handClock } from "../tests/hand_clock.ts";
import { type Connection, monitor } from "./connection.ts";

function make() {
  const { time, advance } = handClock();
  const seen: Connection[] = [];
  const pings: number[] = [];
  let hellos = 0;
  const watch = monitor(
    { ping: (id) => pings.push(id), hello: () => (hellos += 1), changed: (next) => seen.push(next) },
    time,
  );
  return { watch, advance, seen, pings, hellos: () => hellos, now: () => watch.current() };
}

test("the first word from the kernel makes a view live", () => {
  const { watch, now } = make();
  expect(now().usable).toBe(false);
  watch.heard();
  expect(now()).toEqual({ status: "live", message: "", usable: true });
});

test.each(["restarting", "autorestarting"])("a kernel that is %s is said at once, and controls are off", (status) => {
  const { watch, now } = make();
  watch.heard();
  watch.kernel(status);
  expect([now().status, now().usable]).toEqual(["restarted", false]);
  expect(now().message).toContain("Run its cells again");
});

test("messages still on their way from before a restart do not bring a view back", () => {
  const { watch, now } = make();
  watch.heard();
  watch.kernel("restarting");
  watch.heard();
  watch.kernel("idle");
  watch.pong(1);
  expect(now().status).toBe("restarted");
});

test("a comm that dies in the same breath as its kernel is not asked", () => {
  const { watch, advance, pings } = make();
  watch.heard();
  watch.commChanged();
  watch.kernel("restarting");
  advance(5000);
  expect(pings).toEqual([]);
});

test("a comm that ipywidgets marks dead is believed until the kernel answers", () => {
  const { watch, now, pings, advance } = make();
  watch.heard();
  watch.commChanged();
  expect(now().usable).toBe(false);
  advance(200);
  watch.pong(pings[0] ?? -1);
  expect(now().status).toBe("live");
});

test("silence from an idle kernel is noticed within two seconds", () => {
  const { watch, advance, now } = make();
  watch.heard();
  watch.kernel("idle");
  watch.waiting(() => 0);
  advance(1700);
  expect([now().status, now().usable]).toEqual(["silent", false]);
});

test("a kernel that runs a cell is busy, never dead, and controls stay on", () => {
  const { watch, advance, now } = make();
  watch.heard();
  watch.kernel("busy");
  watch.waiting(() => 0);
  advance(60_000);
  expect([now().status, now().usable]).toEqual(["busy", true]);
  watch.heard();
  expect(now().status).toBe("live");
});

test("where the host says nothing of its kernel, silence switches nothing off", () => {
  const { watch, advance, now } = make();
  watch.heard();
  watch.waiting(() => 0);
  advance(5000);
  expect(now().usable).toBe(true);
  expect(now().message).toContain("running a cell, or it is gone");
});

test("while nothing is asked, nobody is pinged", () => {
  const { watch, advance, pings } = make();
  watch.heard();
  advance(600_000);
  expect(pings).toEqual([]);
});

test("a silent kernel is asked again only every few seconds", () => {
  const { watch, advance, pings } = make();
  watch.heard();
  watch.kernel("busy");
  watch.waiting(() => 0);
  advance(60_000);
  expect(pings.length).toBeLessThan(15);
  expect(pings.length).toBeGreaterThan(3);
});

test("a lost websocket is reconnecting, and coming back greets the kernel again", () => {
  const { watch, now, hellos } = make();
  watch.heard();
  watch.socket("connecting");
  expect([now().status, now().usable]).toEqual(["reconnecting", false]);
  watch.socket("connected");
  expect(hellos()).toBe(1);
  watch.heard();
  expect(now().status).toBe("live");
});

test("a session that is closed stays closed", () => {
  const { watch, now } = make();
  watch.heard();
  watch.closed("session.close() was called.");
  watch.heard();
  watch.pong(1);
  watch.kernel("idle");
  expect(now()).toEqual({ status: "closed", message: "session.close() was called.", usable: false });
});

test("a kernel that stopped is not renamed when its comms close with it", () => {
  const { watch, now } = make();
  watch.heard();
  watch.kernel("dead");
  watch.closed();
  expect(now().message).toContain("The kernel has stopped");
});
