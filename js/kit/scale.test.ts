import { expect, test } from "vitest";
import {
  digitsOf,
  diverging,
  fraction,
  isCompressed,
  logit,
  logitDomain,
  logitTicks,
  niceStep,
  place,
} from "./scale.ts";

test("limits are symmetric and zero is neutral", () => {
  const scale = diverging([-1, 0.5, 2]);
  expect([place(scale, 2), place(scale, -2), place(scale, 0), place(scale, 1)]).toEqual([1, -1, 0, 0.5]);
});

test("what is below the noise is neutral", () => {
  const scale = diverging([-1, 1], 0.1);
  expect(place(scale, 0.09)).toBe(0);
  expect(place(scale, 0.2)).toBeCloseTo(0.2);
});

test("what is not measured yet has no place", () => {
  expect(place(diverging([1, Number.NaN]), Number.NaN)).toBeNaN();
});

test("without outliers nothing is compressed", () => {
  expect(isCompressed(diverging(Array.from({ length: 32 }, (_, i) => i)))).toBe(false);
});

test("one value far above the crowd is compressed, and order and sign survive", () => {
  const values = [...Array.from({ length: 63 }, (_, i) => 0.1 + i * 0.01), 50];
  const scale = diverging(values);
  expect(isCompressed(scale)).toBe(true);
  const placed = values.map((value) => place(scale, value));
  for (let index = 1; index < placed.length; index += 1) expect(placed[index]).toBeGreaterThan(placed[index - 1] ?? 0);
  expect(place(scale, 50)).toBeCloseTo(1);
  expect(place(scale, -50)).toBeCloseTo(-1);
  expect(place(scale, 0.5)).toBeGreaterThan(0.5);
});

test("no values at all give a scale that still paints", () => {
  expect(place(diverging([]), 0)).toBe(0);
});

test("a probability of zero or one stays on the axis", () => {
  expect(Number.isFinite(logit(0)) && Number.isFinite(logit(1)) && Number.isFinite(logit(Number.NaN))).toBe(true);
  expect(logit(0.5)).toBeCloseTo(0);
});

test("the log-odds axis holds every probability and its ticks are round", () => {
  const domain = logitDomain([0.91, 0.006, 0.02]);
  for (const p of [0.91, 0.006]) expect(fraction(domain, logit(p))).toBeGreaterThan(0);
  expect(logitTicks(domain)).toEqual([0.01, 0.1, 0.5, 0.9]);
});

test.each([
  [1.5, 0.02],
  [3, 0.05],
  [1, 0.01],
  [0.37, 0.005],
  [80, 1],
  [0, 0.01],
  [Number.NaN, 0.01],
])("a slider up to %d steps by %d", (limit, step) => {
  expect(niceStep(limit)).toBe(step);
});

test("the digits of a step are those it needs", () => {
  expect([1, 0.5, 0.02, 0.005].map(digitsOf)).toEqual([0, 1, 2, 3]);
});

test("an axis between 3 and 5 percent still has ticks", () => {
  expect(logitTicks(logitDomain([0.036, 0.041])).length).toBeGreaterThanOrEqual(2);
});

test.each([[[1, 1e-9]], [[0.999, 0.0004]], [[0.036, 0.041]], [[0.5, 0.02]]])(
  "the labels of the ticks of %j do not run into each other",
  (probabilities) => {
    const domain = logitDomain(probabilities);
    const places = logitTicks(domain).map((p) => fraction(domain, logit(p)));
    expect(places.length).toBeGreaterThanOrEqual(2);
    for (let n = 1; n < places.length; n += 1) expect(places[n]).toBeGreaterThanOrEqual((places[n - 1] ?? 0) + 0.16);
  },
);
