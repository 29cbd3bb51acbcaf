import { expect, test } from "vitest";
import { RecentStates, receivePanel } from "./panels.ts";
import type { State } from "./protocol.ts";

const message = (revision: number, data: Record<string, number> | null, status = "done") =>
  ({ panel: "p", revision, status, data }) as never;

test("an older message after a newer one changes nothing", () => {
  const newer = receivePanel(undefined, message(5, { a: 5 }));
  expect(receivePanel(newer, message(4, { a: 4 }))).toBe(newer);
});

test("while a new table is computed the old one stays, with the revision it was measured at", () => {
  const old = receivePanel(undefined, message(1, { a: 1, b: 1 }));
  const next = receivePanel(old, message(2, null, "computing"));
  expect([next?.status, next?.data.a, next?.revisions.a]).toEqual(["computing", 1, 1]);
});

test("each part is as old as the message that last brought it", () => {
  const old = receivePanel(undefined, message(1, { a: 1, b: 1 }));
  const next = receivePanel(old, message(2, { b: 2 }, "partial"));
  expect(next?.revisions).toEqual({ a: 1, b: 2 });
});

test("only the last states are remembered", () => {
  const recent = new RecentStates(3);
  for (let revision = 1; revision <= 5; revision += 1) recent.add(revision, { version: String(revision) } as State);
  expect([1, 2, 3, 5].map((revision) => recent.get(revision)?.version)).toEqual([undefined, undefined, "3", "5"]);
});

test("a state that is remembered has let go of its answer and its history, which grow with every click", () => {
  const recent = new RecentStates();
  const state = { mode: "zero", answer: { metric: 1 }, history: { items: [{ label: "asked", metric: 1 }], index: 0 } };
  recent.add(1, state as unknown as State);
  expect(recent.get(1)).toEqual({ mode: "zero", answer: null, history: { items: [], index: 0 } });
  expect(state.history.items).toHaveLength(1);
});
