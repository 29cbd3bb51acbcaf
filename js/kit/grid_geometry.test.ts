import { expect, test } from "vitest";
import {
  allHeads,
  boxOf,
  layoutOf,
  MIN_CELL,
  moved,
  positionAt,
  positionOf,
  rectangle,
  type Shape,
  siteAt,
  sitesOfHeader,
  sizeOf,
} from "./grid_geometry.ts";

const shape: Shape = { heads: [8, 8, 0, 8], mlp: true };
const uneven: Shape = { heads: [2, 4], mlp: false };

test("every cell is found again by the middle of its own box", () => {
  const layout = layoutOf(shape, 400);
  for (const site of [...allHeads(shape), "L0.mlp", "L3.mlp"]) {
    const position = positionOf(shape, site);
    if (position === null) throw new Error(site);
    const box = boxOf(layout, position);
    expect(positionAt(layout, box.x + box.width / 2, box.y + box.height / 2)).toEqual(position);
  }
});

test("the corner, the aside before the MLPs and the outside are nothing", () => {
  const layout = layoutOf(shape, 400);
  expect(positionAt(layout, 3, 3)).toBeNull();
  expect(positionAt(layout, layout.header + 8 * (layout.cell + layout.gap) + 3, 40)).toBeNull();
  expect(positionAt(layout, 10_000, 40)).toBeNull();
  expect(positionAt(layout, 60, 10_000)).toBeNull();
});

test("cells are as large as fit, never above 30 and never below 12 pixels", () => {
  expect(layoutOf(shape, 1000).cell).toBe(30);
  expect(layoutOf({ heads: Array(48).fill(64), mlp: true }, 700).cell).toBe(MIN_CELL);
  expect(sizeOf(layoutOf(shape, 350)).width).toBeLessThanOrEqual(350);
});

test("a layer without heads is a hole, not an error", () => {
  expect(siteAt(shape, { row: 2, column: 0 })).toBeNull();
  expect(siteAt(shape, { row: 2, column: 8 })).toBe("L2.mlp");
  expect(positionOf(shape, "L2H0")).toBeNull();
  expect(positionOf(shape, "nonsense")).toBeNull();
});

test("arrow keys go past holes and stop at the ends", () => {
  expect(moved(shape, { row: 1, column: 3 }, "ArrowDown")).toEqual({ row: 3, column: 3 });
  expect(moved(shape, { row: 3, column: 3 }, "ArrowDown")).toEqual({ row: 3, column: 3 });
  expect(moved(shape, { row: 0, column: 0 }, "ArrowLeft")).toEqual({ row: 0, column: -1 });
  expect(moved(shape, { row: 0, column: 0 }, "ArrowUp")).toEqual({ row: -1, column: 0 });
  expect(moved(shape, { row: 0, column: 0 }, "x")).toBeNull();
});

test("Home, End and the page keys go to the ends of row and column", () => {
  expect(moved(shape, { row: 1, column: 3 }, "Home")).toEqual({ row: 1, column: 0 });
  expect(moved(shape, { row: 1, column: 3 }, "End")).toEqual({ row: 1, column: 8 });
  expect(moved(shape, { row: 1, column: 3 }, "End", true)).toEqual({ row: 3, column: 8 });
  expect(moved(shape, { row: 1, column: 3 }, "PageDown")).toEqual({ row: 3, column: 3 });
  expect(moved(uneven, { row: 1, column: 3 }, "PageUp")).toEqual({ row: 1, column: 3 });
});

test("a header stands for its layer's heads, for one head of every layer, or for the MLPs", () => {
  expect(sitesOfHeader(shape, { row: 1, column: -1 })).toHaveLength(8);
  expect(sitesOfHeader(shape, { row: 1, column: -1 })).not.toContain("L1.mlp");
  expect(sitesOfHeader(shape, { row: -1, column: 3 })).toEqual(["L0H3", "L1H3", "L3H3"]);
  expect(sitesOfHeader(shape, { row: -1, column: 8 })).toEqual(["L0.mlp", "L1.mlp", "L2.mlp", "L3.mlp"]);
  expect(sitesOfHeader(uneven, { row: -1, column: 3 })).toEqual(["L1H3"]);
});

test("a rectangle holds heads only, in whichever direction it was drawn", () => {
  expect(rectangle(shape, { row: 1, column: 7 }, { row: 0, column: 6 })).toEqual(["L0H6", "L0H7", "L1H6", "L1H7"]);
  expect(rectangle(shape, { row: 0, column: 7 }, { row: 0, column: 8 })).toEqual(["L0H7"]);
  expect(rectangle(shape, { row: 0, column: 8 }, { row: 1, column: 8 })).toEqual(["L0.mlp", "L1.mlp"]);
});
