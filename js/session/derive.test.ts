import { expect, test } from "vitest";
import type { Wish } from "../kit/channel.ts";
import { signed } from "../kit/format.ts";
import { FakeKernel } from "../tests/fake_kernel.ts";
import { FakeModel } from "../tests/host.ts";
import { circumstances, isBusy, modeOf, sitesOff, summary, vectorNow } from "./derive.ts";
import type { State } from "./protocol.ts";

const state = (): State => structuredClone(new FakeKernel(new FakeModel()).state);
const wish = (seq: number, name: string, key: string, args: Record<string, unknown>): [string, Wish] => [
  key,
  { seq, name, key, args, sentAt: 0 },
];
const ablation = (site: string, on = true) => ({
  key: site,
  kind: "ablate" as const,
  site,
  label: `${site} off`,
  on,
  mode: "mean",
  positions: "all",
  coefficient: null,
  vector: null,
  code: "",
});

test("what the kernel has off is off, and an intervention switched off counts as on", () => {
  const now = { ...state(), interventions: [ablation("L1H3"), ablation("L2H0", false)] };
  expect([...sitesOff(now, new Map())]).toEqual(["L1H3"]);
});

test("all heads of a layer are each of its heads", () => {
  const now = { ...state(), interventions: [ablation("L1.heads")] };
  expect(sitesOff(now, new Map()).size).toBe(8);
});

test("a wish on its way is shown before the kernel has confirmed it, the newest last", () => {
  const now = { ...state(), interventions: [ablation("L1H3")] };
  const pending = new Map([
    wish(3, "ablate", "head:L1H3", { site: "L1H3", off: true }),
    wish(2, "ablate_many", "heads:L1", { sites: ["L1H3", "L1H4"], off: false }),
  ]);
  expect([...sitesOff(now, pending)]).toEqual(["L1H3"]);
});

test("the mode and a vector follow the hand", () => {
  const now = state();
  const pending = new Map([
    wish(1, "mode", "mode", { mode: "zero" }),
    wish(2, "strength", "strength:sentiment", { value: 0.7 }),
    wish(3, "vector", "vector:sentiment", { on: false, mode: "clamp" }),
  ]);
  expect(modeOf(now, pending)).toBe("zero");
  const vector = now.vectors[0];
  expect(vector && vectorNow(vector, pending)).toMatchObject({
    coefficient: 0.7,
    on: false,
    mode: "clamp",
    site: "L1",
  });
});

test("a view is busy while a wish, a run or a table is outstanding, and no longer", () => {
  const now = state();
  const snapshot = { revision: 1, state: now };
  expect(isBusy(null, new Map(), null)).toBe(true);
  expect(isBusy(snapshot, new Map(), null)).toBe(false);
  expect(isBusy({ revision: 2, state: now }, new Map(), null)).toBe(true);
  expect(isBusy({ revision: 2, state: { ...now, error: "It failed." } }, new Map(), null)).toBe(false);
  expect(isBusy(snapshot, new Map([wish(1, "undo", "undo", {})]), null)).toBe(true);
  expect(isBusy(snapshot, new Map(), { status: "partial" } as never)).toBe(true);
});

test("the circumstances of a vector's curve leave out its own strength and nothing else", () => {
  const now = state();
  const steer = (vector: string, coefficient: number) => ({
    ...ablation("L1"),
    kind: "steer" as const,
    vector,
    coefficient,
    key: vector,
  });
  const at = (...interventions: State["interventions"]): string =>
    circumstances({ ...now, interventions }, "sentiment");
  expect(at(steer("sentiment", 1))).toBe(at(steer("sentiment", 2)));
  expect(at(steer("sentiment", 1))).toBe(at());
  expect(at(steer("french", 1))).not.toBe(at());
  expect(at(ablation("L1H3"))).not.toBe(at());
});

test("one line says what differs from the plain model", () => {
  const now = {
    ...state(),
    interventions: [
      ablation("L1H3"),
      ablation("L2.mlp"),
      { ...ablation("L3"), kind: "patch" as const, label: "L3 from corrupt" },
    ],
  };
  const vectors = now.vectors.map((vector) => ({ ...vector, coefficient: vector.name === "sentiment" ? 0.6 : 0 }));
  expect(summary(now, new Set(["L1H3", "L2.mlp"]), vectors, signed)).toBe(
    "1 head off · 1 MLP off · sentiment +0.60 · L3 from corrupt",
  );
  expect(summary(state(), new Set(), [], signed)).toBe("");
});
