/** A layer's thumbnails as one picture, one pixel per cell, side by side; drawn once, scaled by the browser ever after. */

import type { NdArray } from "../kit/codec.ts";
import type { Ramp } from "../kit/colour.ts";
import { lookupTable } from "../kit/heatmap.ts";

/** The colour of each of the 256 levels: signed levels have zero at 128, others at 0. */
export function levels(ramp: Ramp, signed: boolean): Uint8ClampedArray {
  const table = lookupTable(ramp);
  const last = table.length / 4 - 1;
  const out = new Uint8ClampedArray(256 * 4);
  for (let level = 0; level < 256; level += 1) {
    const position = signed ? Math.max(-1, Math.min(1, (level - 128) / 127)) : level / 255;
    const at = Math.round(((position + 1) / 2) * last) * 4;
    out.set(table.subarray(at, at + 4), level * 4);
  }
  return out;
}

/** RGBA of `[size, heads * size]`; above the diagonal transparent. */
export function stripPixels(thumbs: NdArray, size: number, colours: Uint8ClampedArray): Uint8ClampedArray<ArrayBuffer> {
  const heads = thumbs.shape[0] ?? 0;
  const out = new Uint8ClampedArray(heads * size * size * 4);
  const square = thumbs.shape[1] === size * size && size > 1;
  const source = new Uint32Array(colours.buffer, colours.byteOffset, 256);
  const target = new Uint32Array(out.buffer);
  let from = 0;
  for (let head = 0; head < heads; head += 1) {
    for (let row = 0; row < size; row += 1) {
      const start = row * heads * size + head * size;
      for (let column = 0; column < (square ? size : row + 1); column += 1) {
        target[start + column] = source[thumbs.data[from] ?? 0] ?? 0;
        from += 1;
      }
    }
  }
  return out;
}

export function strip(thumbs: NdArray, size: number, colours: Uint8ClampedArray): HTMLCanvasElement | null {
  const heads = thumbs.shape[0] ?? 0;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, heads * size);
  canvas.height = Math.max(1, size);
  const context = canvas.getContext("2d");
  if (context === null || heads * size === 0) return null;
  context.putImageData(new ImageData(stripPixels(thumbs, size, colours), heads * size, size), 0, 0);
  return canvas;
}
