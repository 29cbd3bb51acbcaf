/** Made-up attention: head h of layer l looks h + l tokens back, and its scores say so. */

import { f32 } from "./encode.ts";

const WORDS = ["<bos>", "When", " Mary", " and", "\n", " went"];

export function madePatterns(layers = 3, heads = 4, size = WORDS.length, signed = false): Record<string, unknown> {
  const cells = (size * (size + 1)) / 2;
  const triangle = (layer: number, head: number, full: number, zero: number): number[] => {
    const out: number[] = [];
    for (let row = 0; row < size; row += 1)
      for (let column = 0; column <= row; column += 1)
        out.push(column === Math.max(0, row - layer - head) ? full : zero);
    return out;
  };
  const thumbs = Object.fromEntries(
    Array.from({ length: layers }, (_, layer) => [
      `thumbs:${layer}`,
      f32(Array.from({ length: heads }, (_, head) => triangle(layer, head, 255, signed ? 128 : 0)).flat(), [
        heads,
        cells,
      ]),
    ]),
  );
  const score = (of: (layer: number, head: number) => number) =>
    f32(
      Array.from({ length: layers * heads }, (_, index) => of(Math.floor(index / heads), index % heads)),
      [layers, heads],
    );
  const tokens = Array.from({ length: size }, (_, index) => ({
    id: 100 + index,
    text: WORDS[index % WORDS.length],
    kind: index % WORDS.length === 0 ? "special" : "text",
  }));
  return {
    tokens,
    layers,
    heads: Array(layers).fill(heads),
    show: signed ? "difference" : "now",
    limit: 1,
    signed,
    size,
    scores: {
      "previous-token": score((layer, head) => (layer + head === 1 ? 0.9 : 0.1)),
      "duplicate-token": score(() => Number.NaN),
      induction: score((layer, head) => (layer === 2 && head === 3 ? 0.75 : 0.01 * head)),
    },
    large: largeOf(1, 2, triangle(1, 2, 0.8125, 0.015625), size),
    ...thumbs,
  };
}

export function largeOf(layer: number, head: number, values: number[], size: number): Record<string, unknown> {
  return { layer, head, size, values: f32(values, [values.length]) };
}
