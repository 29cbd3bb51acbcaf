import { afterEach, expect, test, vi } from "vitest";
import { decode } from "../kit/codec.ts";
import { readRamp } from "../kit/colour.ts";
import type { Panel } from "../session/panels.ts";
import { encode } from "../tests/encode.ts";
import { madePatterns } from "../tests/patterns.ts";
import { large } from "./large.ts";
import { type Patterns, readPatterns } from "./model.ts";
import { thumbs } from "./thumbs.ts";

let resized: (() => void)[] = [];
const signal = new AbortController().signal;
const ramp = readRamp(() => "", false);

afterEach(() => vi.unstubAllGlobals());

function patterns(): Patterns {
  resized = [];
  vi.stubGlobal(
    "ResizeObserver",
    class {
      constructor(told: () => void) {
        resized.push(told);
      }
      observe(): void {}
      disconnect(): void {}
    },
  );
  const { json, buffers } = encode(madePatterns());
  const found = readPatterns({ data: decode(json, buffers), revisions: { tokens: 3 } } as unknown as Panel);
  if (found === null) throw new Error("not read");
  return found;
}

function wide(node: HTMLElement, width: number): void {
  Object.defineProperty(node, "clientWidth", { value: width, configurable: true });
}

test("a pattern that was painted while it was hidden is laid out again when it is shown, at whatever width", () => {
  const made = patterns();
  if (made.large === null) throw new Error("no pattern");
  const map = large({ hover() {}, press() {} }, signal);
  const state = { tokens: made.tokens, drawn: made.large, scale: made.scale, ramp };
  wide(map.node, 160);
  map.paint(state);
  const shown = map.node.style.gridTemplateColumns;
  wide(map.node, 0);
  map.paint(state);
  expect(map.node.style.gridTemplateColumns).not.toBe(shown);
  for (const told of resized) told();
  wide(map.node, 160);
  for (const told of resized) told();
  expect(map.node.style.gridTemplateColumns).toBe(shown);
});

test("so are the thumbnails", () => {
  const made = patterns();
  const grid = thumbs({ hover() {}, press() {} }, signal);
  const room = (): string => (grid.node.querySelector(".iw-thumbs-room") as HTMLElement).style.width;
  const state = { patterns: made, score: null, sorted: false, ramp };
  wide(grid.node, 130);
  grid.paint(state);
  const shown = room();
  wide(grid.node, 0);
  grid.paint(state);
  expect(room()).not.toBe(shown);
  wide(grid.node, 130);
  for (const told of resized) told();
  expect(room()).toBe(shown);
});
