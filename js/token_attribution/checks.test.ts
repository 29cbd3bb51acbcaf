import { expect, test } from "vitest";
import { curveGeometry } from "../kit/curve.ts";
import { diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import { answerTable, matrixOf, readAnswer, seenFrom, type WholeAnswer } from "./answer_model.ts";
import { barsOf, valueUnder } from "./bars.ts";
import { carriedFrom, layerWords } from "./carriers.ts";
import { areaWords, changesAt, curveOf, type Deletion, goneAt, readDeletion, stepWords } from "./deletion_model.ts";
import { checkWords } from "./methods.ts";
import { baselineOptions, compares } from "./model.ts";

const array = (data: number[], shape = [data.length]) => ({ shape, data: Float32Array.from(data) });
const token = (text: string, id = 0) => ({ id, text, kind: "text" as const });
const panelOf = (data: Record<string, unknown>): Panel =>
  ({ panel: "p", revision: 1, status: "done", progress: 1, message: "", data, revisions: {} }) as unknown as Panel;

const TEST = {
  method: "occlusion",
  order: array([2, 0, 1]),
  counts: array([0, 1, 3]),
  tokens: [token(" a", 7), token(" b", 8)],
  probabilities: array([0.9, 0.1, 0.4, 0.6, 0.2, 0.8], [3, 2]),
  deletion: { own: array([4, 1, 0]), low: null, high: null, area: 1.5, random_area: 2.5, random_spread: 0.25 },
  insertion: { own: array([0, 3, 4]), low: null, high: null, area: 2.5, random_area: null, random_spread: null },
  baseline: "mean embedding",
  orders: 20,
  wait: null,
  note: "",
};
const deletion = readDeletion(panelOf({ deletion: TEST })) as Deletion;

test("a threshold replaces the first of the ranking, and its answer is the one that was measured there", () => {
  expect([0, 1, 2].map((step) => goneAt(deletion, step))).toEqual([[], [2], [2, 0, 1]]);
  expect(changesAt(deletion, 1).map(({ id, before, after }) => [id, before, after])).toEqual([
    [8, expect.closeTo(0.1), expect.closeTo(0.6)],
    [7, expect.closeTo(0.9), expect.closeTo(0.4)],
  ]);
  expect(stepWords(deletion, 1)).toBe("top 1 of 3 tokens replaced: 4.00 → 1.00 · only it kept: 3.00");
  expect(stepWords(deletion, 0)).toBe("nothing is replaced: 4.00");
});

test("where whole words are replaced, a threshold counts words and takes all their tokens", () => {
  const words = readDeletion(
    panelOf({ deletion: { ...TEST, counts: array([0, 2, 3]), units: array([0, 1, 2]), unit: "word" } }),
  ) as Deletion;
  expect(goneAt(words, 1)).toEqual([2, 0]);
  expect(stepWords(words, 1)).toBe("top 1 of 2 words replaced: 4.00 → 1.00 · only it kept: 3.00");
});

test("areas stand against random order only where that was measured", () => {
  expect(areaWords(deletion.deletion)).toBe("area 1.50, random orders 2.50 ± 0.25");
  expect(areaWords(deletion.insertion)).toBe("area 2.50");
});

test("the curve's ends stand over the ends of the slider's travel", () => {
  const geometry = curveGeometry(curveOf(deletion.deletion), 1, 216);
  expect([geometry.px(-1), geometry.px(0), geometry.px(1)]).toEqual([8, 108, 208]);
});

test("no test, no curves", () => {
  expect(readDeletion(panelOf({ deletion: { note: "why not" } }))).toBeNull();
});

const answer = readAnswer(
  panelOf({
    answer: {
      method: "occlusion",
      inputs: [token("x", 1), token("y", 2), token("A", 3)],
      outputs: [token("A", 3), token("B", 4)],
      n_prompt: 2,
      scores: array([1, 2, 0, 3, 4, 5], [2, 3]),
      metrics: array([-0.1, -0.2]),
      tops: [],
      line: "",
    },
    instead: { output: 1, id: 9, text: "C", kind: "text", method: "occlusion", scores: array([7, 8, 9]), metric: -3 },
  }),
) as WholeAnswer;

test("from an output one sees what pushed it and what it pushed; from an input what it moved", () => {
  expect(seenFrom(answer, 2, false)).toEqual([1, 2, Number.NaN, 5]);
  expect(seenFrom(answer, 3, false)).toEqual([3, 4, 5, Number.NaN]);
  expect(seenFrom(answer, 0, false)).toEqual([Number.NaN, Number.NaN, 1, 3]);
});

test("another token in an output's place has its own row", () => {
  expect(seenFrom(answer, 3, true)).toEqual([7, 8, 9, Number.NaN]);
  expect(seenFrom(answer, 2, true)).toEqual([1, 2, Number.NaN, 5]);
});

test("an output has no number for itself and what comes after it", () => {
  const { rows, columns, at } = matrixOf(answer);
  expect([rows, columns]).toEqual([2, 3]);
  expect([at(0, 1), at(0, 2), at(1, 2)]).toEqual([2, Number.NaN, 5]);
  expect(answerTable(answer).split("\n")[1]).toBe(`"A"\t${Math.fround(-0.1)}\t1\t2\t`);
});

test("the heads that carried a token and all others add up to its sum", () => {
  const carriers = {
    layers: array([1, 0, 2, 3], [2, 2]),
    heads: array([4, 5, 6, 7], [2, 2]),
    values: array([2, -1, 0.5, 0.25], [2, 2]),
    sums: array([1.5, 1]),
    layer_sums: array([0.5, 1, 0, 0, 0.25, 0.75], [2, 3]),
    count: 32,
    note: "direct",
  };
  const carried = carriedFrom(panelOf({ carriers }), 1);
  expect(carried?.heads.map(({ site }) => site)).toEqual(["L2H6", "L3H7"]);
  expect((carried?.rest ?? 0) + (carried?.heads ?? []).reduce((sum, { value }) => sum + value, 0)).toBeCloseTo(1);
  expect(carried?.others).toBe(30);
  expect(layerWords(carried?.layers ?? [])).toBe("By layer L0 +0.00 · L1 +0.25 · L2 +0.75");
  const many = Array.from({ length: 14 }, (_, layer) => (layer === 7 ? -9 : layer));
  expect(layerWords(many)).toBe(
    `By layer ${[2, 3, 4, 5, 6].map((n) => `L${n} +${n}.00`).join(" · ")} · L7 −9.00 · ${[8, 9, 10, 11, 12, 13].map((n) => `L${n} +${n}.00`).join(" · ")} · the others less`,
  );
  expect(layerWords([])).toBe("");
  expect(carriedFrom(panelOf({ carriers: { note: "off, because" } }), 0)?.note).toBe("off, because");
});

test("beside each method stands what its own first tokens were worth, and nothing where that was not measured", () => {
  const checks = array([3, 2.5, -0.5, 1, 0.25, 0, Number.NaN, Number.NaN, Number.NaN], [3, 3]);
  expect([0, 1, 2, 3].map((row) => checkWords({ checks }, row))).toEqual([
    "top 3 cost 2.50, random −0.50",
    "top 1 costs 0.25, random 0.00",
    "",
    "",
  ]);
  expect(checkWords({ checks: null }, 0)).toBe("");
});

test("the menu of baselines holds what this question can be compared with, and what was given by hand", () => {
  expect(baselineOptions(["auto", "zero"], "zero").map(({ text }) => text)).toEqual(["as fits the method", "zero"]);
  expect(baselineOptions(["auto"], "a b").at(-1)).toEqual({ value: "a b", text: "a b" });
  expect(baselineOptions(["auto", "constructor"], "auto").at(-1)?.text).toBe("constructor");
  expect(["integrated_gradients", "occlusion", "lrp", "direct", "gradient_x_input"].filter(compares)).toEqual([
    "integrated_gradients",
    "occlusion",
  ]);
});

test("bars stand up for the target and hang down against it, the largest in full", () => {
  const values = [2, -1, 0];
  const [up, down, none] = barsOf(values, diverging(values), 90);
  expect(up?.y).toBeLessThan(17);
  expect(up?.height).toBe(16);
  expect(down).toMatchObject({ y: 17, height: 8, position: -0.5 });
  expect(none?.height).toBe(0);
});

test("of more values than pixels the largest is seen", () => {
  const values = Array.from({ length: 2000 }, (_, index) => (index === 1234 ? -5 : 0.1));
  const drawn = barsOf(values, diverging(values), 300);
  expect(drawn.length).toBe(300);
  expect(drawn.filter(({ position }) => position < -0.9).length).toBe(1);
  expect(valueUnder(2000, 300, 150)).toBe(1000);
  expect(valueUnder(10, 300, 301)).toBeNull();
});
