import { expect, test } from "vitest";
import { curve, curveGeometry, HEIGHT, INSET, interpolate, isBroken } from "./curve.ts";

const data = {
  x: [-1, 0, 1],
  y: [0, 1, 4],
  low: [-1, -1, -1],
  high: [1, 1, 1],
  breaks: [1, 0, 1],
};

test("the curve is aligned with the thumb, which stops short of both ends", () => {
  const { px } = curveGeometry(data, 1, 288);
  expect([px(-1), px(0), px(1)]).toEqual([INSET, 144, 288 - INSET]);
});

test("everything drawn lies inside the picture", () => {
  const { line, band } = curveGeometry(data, 1, 288);
  for (const [, x, y] of `${line}${band}`.matchAll(/([\d.]+),([\d.]+)/g)) {
    expect(Number(x)).toBeLessThanOrEqual(288);
    expect(Number(y)).toBeLessThanOrEqual(HEIGHT);
  }
});

test("a second quantity runs from the bottom to the top on a scale of its own, and is not drawn where it is nothing", () => {
  const { second, range, py } = curveGeometry({ ...data, second: [2, 0, 0.5] }, 1, 288);
  const heights = [...second.matchAll(/,([\d.]+)/g)].map(([, y]) => Number(y));
  expect(heights).toEqual([5, HEIGHT - 5, HEIGHT - 5 - (HEIGHT - 10) / 4].map((y) => Number(y.toFixed(1))));
  expect([range, py(4)]).toEqual([[-1, 4], 5]);
  expect(curveGeometry({ ...data, second: [0, 0, 0] }, 1, 288).second).toBe("");
  expect(curveGeometry(data, 1, 288).second).toBe("");
});

test("a point that is not a number leaves a gap and spoils nothing else", () => {
  const { line, range } = curveGeometry({ ...data, y: [0, Number.NaN, 4], low: null, high: null }, 1, 288);
  expect(line.match(/M/g)).toHaveLength(2);
  expect(line).not.toContain("NaN");
  expect(range).toEqual([0, 4]);
});

test("strengths at which text breaks are shaded, halfway to their neighbours and to the edge", () => {
  const { broken, px } = curveGeometry(data, 1, 288);
  expect(broken).toEqual([
    { x: 0, width: px(-0.5), label: 12 },
    { x: px(0.5), width: 288 - px(0.5), label: HEIGHT - 5 },
  ]);
  expect(curveGeometry({ ...data, breaks: [0, 1, 1] }, 1, 288).broken).toEqual([
    { x: px(-0.5), width: 288 - px(-0.5), label: 12 },
  ]);
  expect(curveGeometry({ ...data, breaks: null }, 1, 288).broken).toEqual([]);
  expect([-1, -0.6, -0.4, 0.6, 1.2].map((x) => isBroken(data, x))).toEqual([true, true, false, true, false]);
  expect(isBroken({ ...data, breaks: null }, 1)).toBe(false);
});

test("why it is shaded stands in the tooltip", () => {
  const one = curve(new AbortController().signal);
  one.paint({ ...data, criterion: "Breaks: the loss is high." }, 1, 0, false);
  expect([...one.node.querySelectorAll("title")].map((node) => node.textContent)).toEqual(
    Array(2).fill("Breaks: the loss is high."),
  );
});

test("between two measured strengths the curve is read off straight, outside it is not read at all", () => {
  expect(interpolate(data.x, data.y, 0.5)).toBe(2.5);
  expect(interpolate(data.x, data.y, -1)).toBe(0);
  expect(interpolate(data.x, data.y, 1.1)).toBeNaN();
  expect(interpolate([], [], 0)).toBeNaN();
});

test("the dot stands on the curve, and is gone while nothing is measured", () => {
  const one = curve(new AbortController().signal);
  one.paint(data, 1, 0, false);
  const dot = one.node.querySelector(".iw-curve-dot");
  expect(dot?.getAttribute("cx")).toBe("144.0");
  expect(one.node.getAttribute("aria-label")).toContain("1.00");
  one.paint(null, 1, 0, false);
  expect(dot?.getAttribute("visibility")).toBe("hidden");
});
