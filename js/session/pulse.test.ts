import { expect, test } from "vitest";
import { handClock } from "../tests/hand_clock.ts";
import { type Connection, monitor } from "./connection.ts";
import { pulse } from "./pulse.ts";

function make() {
  const { time, advance, stall } = handClock();
  const said: string[] = [];
  const heart = pulse({ lost: () => said.push("lost"), back: () => said.push("back") }, time);
  return { heart, advance, stall, said };
}

function watched(kernel: string) {
  const { time, advance } = handClock();
  const seen: Connection[] = [];
  const watch = monitor({ ping: () => {}, hello: () => {}, changed: (next) => seen.push(next) }, time);
  watch.heard();
  if (kernel) watch.kernel(kernel);
  watch.beat();
  return { watch, advance, now: () => watch.current() };
}

test("a kernel that has never beaten is not missed", () => {
  const { heart, advance, said } = make();
  heart.felt();
  advance(60_000);
  expect(said).toEqual([]);
});

test("without a beat for a second and a half the pulse is lost, once, and the next sign brings it back", () => {
  const { heart, advance, said } = make();
  heart.beat();
  advance(1400);
  expect(said).toEqual([]);
  advance(200);
  expect(said).toEqual(["lost"]);
  advance(60_000);
  expect(said).toEqual(["lost"]);
  heart.felt();
  expect(said).toEqual(["lost", "back"]);
});

test("a slow kernel that came back is given longer for a minute", () => {
  const { heart, advance, said } = make();
  heart.beat();
  advance(2000);
  heart.beat();
  said.length = 0;
  advance(2000);
  heart.beat();
  expect(said).toEqual([]);
  for (let i = 0; i < 130; i++) {
    advance(500);
    heart.beat();
  }
  advance(1600);
  expect(said).toEqual(["lost"]);
});

test("a page that stood still itself calls nobody dead", () => {
  const { heart, stall, advance, said } = make();
  heart.beat();
  stall(20_000);
  expect(said).toEqual([]);
  advance(1600);
  expect(said).toEqual(["lost"]);
});

test("nobody is missed while nobody is asked to beat", () => {
  const { heart, advance, said } = make();
  heart.beat();
  heart.rest();
  advance(60_000);
  expect(said).toEqual([]);
});

test.each(["idle", "busy"])(
  "a kernel without a pulse is said and its controls are off, also when it was %s",
  (status) => {
    const { watch, advance, now } = watched(status);
    advance(1900);
    expect([now().status, now().usable]).toEqual(["silent", false]);
    expect(now().message).toContain("Nothing is heard");
    watch.beat();
    expect([now().status, now().usable]).toEqual(["live", true]);
  },
);

test("where the host says nothing of its kernel, a lost pulse switches nothing off", () => {
  const { advance, now } = watched("");
  advance(1900);
  expect([now().status, now().usable]).toEqual(["silent", true]);
});

test("a beat does not hide that a wish is not answered", () => {
  const { watch, advance, now } = watched("busy");
  watch.waiting(() => 0);
  for (let i = 0; i < 10; i++) {
    advance(400);
    watch.beat();
  }
  expect(now().status).toBe("busy");
});

test("what the host says of a kernel that is gone stays said", () => {
  const { watch, advance, now } = watched("idle");
  advance(1600);
  watch.kernel("autorestarting");
  watch.beat();
  advance(5000);
  expect([now().status, now().usable]).toEqual(["restarted", false]);
});

test("a hidden page expects no beat", () => {
  const { watch, advance, now } = watched("idle");
  watch.seen(false);
  advance(600_000);
  expect(now().status).toBe("live");
});
