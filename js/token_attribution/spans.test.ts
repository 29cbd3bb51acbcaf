import { expect, test } from "vitest";
import { distinct, indexOfRanges, joins, partition, readRanges, withRange } from "./spans.ts";

const scores = [1, 2, 4, 8, 16];

test("whatever the spans, their sum is the sum of the scores", () => {
  for (const index of [null, [0, 0, 1, 1, 2], [3, 1, 1, 1, 0], indexOfRanges(5, [[1, 3]])]) {
    const spans = distinct(partition(scores, index));
    expect(spans.reduce((sum, { score }) => sum + score, 0)).toBe(31);
    expect(spans.flatMap(({ positions }) => positions).toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4]);
  }
});

test("between the ranges every token stays by itself, and is not what was asked for", () => {
  const spans = partition(scores, indexOfRanges(5, [[1, 3]]), (key) => key >= 0);
  expect(distinct(spans).map(({ positions, chosen }) => [positions, chosen])).toEqual([
    [[0], false],
    [[1, 2], true],
    [[3], false],
    [[4], false],
  ]);
  expect([0, 1, 2, 3].map((position) => joins(spans, position))).toEqual([false, false, true, false]);
});

test("a range grows with the hand, gives way to one that touches it, and goes when it is made again", () => {
  const one = withRange([], 4, 2);
  expect(one).toEqual([[2, 5]]);
  expect(withRange(one, 2, 5)).toEqual([[2, 6]]);
  expect(withRange(one, 0, 1)).toEqual([
    [0, 2],
    [2, 5],
  ]);
  expect(withRange(one, 2, 4)).toEqual([]);
});

test("a range beyond the prompt changes nothing that is there", () => {
  expect(indexOfRanges(3, [[2, 9]])).toEqual([-1, -2, 0]);
});

test("what is no list of pairs is no selection", () => {
  expect(readRanges("token")).toEqual([]);
  expect(readRanges([[0, 2], [1], null])).toEqual([[0, 2]]);
});
