import { expect, test } from "vitest";
import { decode } from "../kit/codec.ts";
import type { Panel } from "../session/panels.ts";
import type { State } from "../session/protocol.ts";
import { encode, f32 } from "../tests/encode.ts";
import { largeOf, madePatterns } from "../tests/patterns.ts";
import {
  blockOf,
  cellWords,
  edgesOf,
  fromThumb,
  lineOf,
  nameOf,
  ordered,
  type Patterns,
  readPatterns,
  scoreWords,
  siteOf,
  tokenOf,
} from "./model.ts";
import { levels, stripPixels } from "./thumb_image.ts";
import { cornerOf, indexUnder, movedThumb, thumbLayout } from "./thumb_layout.ts";

function read(made = madePatterns()): Patterns {
  const { json, buffers } = encode(made);
  const data = decode(json, buffers) as Panel["data"];
  const patterns = readPatterns({ data, revisions: { tokens: 3 } } as unknown as Panel);
  if (patterns === null) throw new Error("not read");
  return patterns;
}

test("a thumbnail gives every cell back, and nothing above the diagonal", () => {
  const drawn = fromThumb(read(), "L1H2");
  expect([drawn?.at(5, 2), drawn?.at(5, 3), drawn?.at(2, 5)]).toEqual([1, 0, Number.NaN]);
});

test("signed thumbnails have their zero at 128", () => {
  const drawn = fromThumb(read(madePatterns(3, 4, 6, true)), "L0H1");
  expect([drawn?.at(3, 2), drawn?.at(3, 1)]).toEqual([1, 0]);
});

test("a head that is not there has no picture", () => {
  expect(fromThumb(read(), "L1H4")).toBeNull();
  expect(fromThumb(read(), "L9H0")).toBeNull();
});

test("every token falls into the block that begins at or before it", () => {
  for (const [count, size] of [
    [512, 20],
    [100, 64],
    [65, 64],
    [6, 6],
  ] as const) {
    for (let token = 0; token < count; token += 1) {
      const block = blockOf(token, count, size);
      expect(tokenOf(block, count, size)).toBeLessThanOrEqual(token);
      if (block + 1 < size) expect(tokenOf(block + 1, count, size)).toBeGreaterThan(token);
    }
    expect(blockOf(count - 1, count, size)).toBe(size - 1);
  }
});

test("heads are sorted by a score from the highest, those without one last", () => {
  const patterns = read();
  expect(ordered(patterns, "induction").slice(0, 2).map(siteOf)).toEqual(["L2H3", "L0H3"]);
  expect(ordered(patterns, null).map(siteOf).slice(0, 5)).toEqual(["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]);
  expect(ordered(patterns, "duplicate-token")).toHaveLength(12);
});

test("what a token looks at is its row, who looks at it is its column", () => {
  const drawn = read().large;
  if (drawn === null) throw new Error("no pattern");
  expect(lineOf(drawn, 6, 4, false)).toEqual([0.015625, 0.8125, 0.015625, 0.015625, 0.015625, Number.NaN]);
  expect(lineOf(drawn, 6, 1, true)).toEqual([Number.NaN, 0.015625, 0.015625, 0.015625, 0.8125, 0.015625]);
});

test("a cell is read out with its tokens named, line breaks and special tokens too", () => {
  const patterns = read();
  if (patterns.large === null) throw new Error("no pattern");
  expect(cellWords(patterns, patterns.large, 4, 1)).toBe("↵ (4) looks at When (1): 0.8125");
  expect(cellWords(patterns, patterns.large, 3, 0)).toBe("␣and (3) looks at ⟨bos⟩ (0): 0.8125");
  expect(cellWords(patterns, patterns.large, 1, 4)).toContain("cannot look ahead");
});

test("a score that no repeated token supports is not called zero", () => {
  expect(scoreWords(read(), "L0H1")).toBe(
    "previous token 0.90 · duplicate token – (no token comes twice) · induction 0.01",
  );
});

test("a square pattern keeps what looks ahead, and heads may have names of their own", () => {
  const patterns = read({
    ...madePatterns(1, 2, 2),
    square: true,
    names: { L0H0: "Head 0", L0H1: "zwei" },
    scores: {},
    "thumbs:0": f32([255, 51, 0, 255, 0, 102, 255, 0], [2, 4]),
    large: largeOf(0, 0, [1, 0.2, 0, 1], 2),
  });
  expect(fromThumb(patterns, "L0H1")?.at(0, 1)).toBeCloseTo(0.4, 6);
  expect(patterns.large?.at(0, 1)).toBeCloseTo(0.2, 6);
  expect([nameOf(patterns, "L0H1"), nameOf(patterns, "L5H5")]).toEqual(["zwei", "L5H5"]);
  expect(scoreWords(patterns, "L0H1")).toBe("");
});

test("edges are the kernel's, with newer wishes on top", () => {
  const state = { interventions: [{ key: "edge:L1H2:4:1", site: "L1H2", on: true }] } as unknown as State;
  const wish = (key: string, off: boolean) =>
    [key, { name: "edge", key, seq: 1, sentAt: 0, args: { site: "L0H0", dest: 3, src: 2, off } }] as const;
  expect(edgesOf(state, new Map())).toEqual([{ site: "L1H2", dest: 4, src: 1 }]);
  expect(edgesOf(state, new Map([wish("edge:L0H0:3:2", true)]))).toHaveLength(2);
  expect(edgesOf(state, new Map([wish("edge:L1H2:4:1", false)]))).toEqual([]);
});

test("every thumbnail is found under its own middle, by layer and sorted, with a layer without heads", () => {
  const patterns = { ...read(), heads: [4, 0, 4] };
  for (const flow of [false, true]) {
    const layout = thumbLayout(patterns.heads, 500, true, flow);
    const order = ordered(patterns, flow ? "induction" : null);
    order.forEach((_, index) => {
      const { x, y } = cornerOf(layout, order, index);
      expect(indexUnder(layout, order, x + layout.cell / 2, y + layout.cell / 2)).toBe(index);
      expect(x + layout.cell).toBeLessThanOrEqual(layout.width);
      expect(y + layout.cell + layout.bar).toBeLessThanOrEqual(layout.height);
    });
  }
});

test("arrow keys skip a layer without heads and stop at the ends", () => {
  const order = ordered({ ...read(), heads: [2, 0, 2] }, null);
  const layout = thumbLayout([2, 0, 2], 500, false, false);
  expect(movedThumb(layout, order, 0, "ArrowDown")).toBe(2);
  expect(movedThumb(layout, order, 0, "ArrowUp")).toBe(0);
  expect(movedThumb(layout, order, 0, "End")).toBe(3);
  expect(movedThumb(layout, order, 0, "x")).toBeNull();
});

test("pixels: full attention has the ramp's last colour, above the diagonal there is none", () => {
  const ramp = [
    [0, 0, 0],
    [100, 100, 100],
    [200, 100, 0],
  ] as const;
  const patterns = read();
  const thumbs = patterns.thumbs.get(1);
  if (thumbs === undefined) throw new Error("no thumbnails");
  const out = stripPixels(thumbs, 6, levels(ramp, false));
  const pixel = (head: number, row: number, column: number): number[] => {
    const at = (row * 4 * 6 + head * 6 + column) * 4;
    return [...out.slice(at, at + 4)];
  };
  expect(pixel(2, 5, 2)).toEqual([200, 100, 0, 255]);
  expect(pixel(2, 5, 3)).toEqual([100, 100, 100, 255]);
  expect(pixel(2, 2, 5)).toEqual([0, 0, 0, 0]);
});

test("a long pattern comes in steps, and shows no digit that it does not know", () => {
  const made = (low: number, high: number, values: number[]): Patterns =>
    read({
      ...madePatterns(),
      large: { layer: 0, head: 0, size: 2, low, high, values: u16(values) },
    });
  const fine = made(0, 1, [65535, 26214, 39321]);
  expect(fine.large?.at(1, 0)).toBeCloseTo(0.4, 5);
  if (fine.large === null) throw new Error("no pattern");
  expect(cellWords(fine, fine.large, 1, 0)).toContain("0.4000, the largest of these");
  const coarse = made(-500, 500, [0, 65535, 0]);
  if (coarse.large === null) throw new Error("no pattern");
  expect(cellWords(coarse, coarse.large, 1, 0)).toContain(": 500.0,");
  expect(made(0.5, 0.5, [0, 0, 0]).large?.at(1, 0)).toBe(0.5);
});

function u16(values: number[]): unknown {
  return { shape: [values.length], data: values, dtype: "uint16" };
}
