import { expect, test } from "vitest";
import { readRamp } from "./colour.ts";
import { cellUnder, heatmap, lookupTable, pixels } from "./heatmap.ts";
import { diverging } from "./scale.ts";

const ramp = readRamp(() => "", false);
const values = [
  [-1, 0],
  [1, Number.NaN],
];
const matrix = { rows: 2, columns: 2, at: (row: number, column: number) => values[row]?.[column] ?? Number.NaN };

test("each cell is one pixel in its colour, and what is not measured is transparent", () => {
  const bytes = pixels(matrix, diverging([1]), lookupTable(ramp));
  expect([...bytes.slice(0, 4)]).toEqual([84, 39, 136, 255]);
  expect([...bytes.slice(4, 8)]).toEqual([244, 244, 246, 255]);
  expect([...bytes.slice(8, 12)]).toEqual([179, 88, 6, 255]);
  expect(bytes[15]).toBe(0);
});

test("the cell under a point is found, and nothing outside", () => {
  expect(cellUnder(matrix, 100, 100, 75, 20)).toEqual({ row: 0, column: 1 });
  expect(cellUnder(matrix, 100, 100, 100, 20)).toBeNull();
  expect(cellUnder(matrix, 100, 100, -1, 20)).toBeNull();
});

test("arrow keys hover the neighbours and Enter presses", () => {
  const seen: unknown[] = [];
  const one = heatmap(
    "test",
    { hover: (cell) => seen.push(cell), press: (cell) => seen.push(["press", cell]) },
    new AbortController().signal,
  );
  one.paint(matrix, diverging([1]), ramp);
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown", "Enter"])
    one.node.dispatchEvent(new KeyboardEvent("keydown", { key }));
  expect(seen).toEqual([
    { row: 0, column: 1 },
    { row: 0, column: 1 },
    { row: 1, column: 1 },
    ["press", { row: 1, column: 1 }],
  ]);
});
