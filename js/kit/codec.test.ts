import { expect, test } from "vitest";
import { asArray, cell, decode, fromHalf, isNdArray, owned } from "./codec.ts";

function view(bytes: ArrayBuffer, offset: number): DataView {
  const whole = new ArrayBuffer(bytes.byteLength + offset);
  new Uint8Array(whole, offset).set(new Uint8Array(bytes));
  return new DataView(whole, offset);
}

const spec = (dtype: string, shape: number[], extra = {}) => ({ $array: 0, dtype, shape, ...extra });

test.each([0, 1, 3, 4])("a float32 array that starts %i bytes into its buffer is read from there", (offset) => {
  const decoded = decode({ scores: spec("float32", [3]) }, [
    view(new Float32Array([1.5, -2, 3]).buffer, offset),
  ]) as unknown as { scores: { data: ArrayLike<number> } };
  expect(Array.from(decoded.scores.data)).toEqual([1.5, -2, 3]);
});

test("half precision numbers decode to their exact values, subnormal, infinite and NaN too", () => {
  expect([0x3c00, 0xc000, 0x3555, 0x0001, 0x7c00, 0xfc00].map(fromHalf)).toEqual([
    1,
    -2,
    0.333251953125,
    2 ** -24,
    Infinity,
    -Infinity,
  ]);
  expect(fromHalf(0x7e00)).toBeNaN();
  const bits = new Uint16Array([0x3c00, 0xc000]);
  const decoded = decode(spec("float16", [2]), [view(bits.buffer, 1)]);
  expect(isNdArray(decoded) && Array.from(decoded.data)).toEqual([1, -2]);
  const levels = new Uint16Array([0, 513, 65535]);
  const steps = decode(spec("uint16", [3]), [view(levels.buffer, 1)]);
  expect(isNdArray(steps) && Array.from(steps.data)).toEqual([0, 513, 65535]);
});

test("bytes with a range stand for that range", () => {
  const decoded = decode(spec("uint8", [3], { range: [-1, 1] }), [view(new Uint8Array([0, 51, 255]).buffer, 0)]);
  expect(isNdArray(decoded) && Array.from(decoded.data).map((x) => Math.round(x * 10) / 10)).toEqual([-1, -0.6, 1]);
});

test("an array whose buffer is missing, too short or of an unknown type is refused in words", () => {
  expect(() => decode(spec("float32", [1]), [])).toThrow("buffer 0 is missing");
  expect(() => decode(spec("float32", [2]), [new ArrayBuffer(4)])).toThrow("needs 8 bytes, not 4");
  expect(() => decode(spec("complex64", [1]), [new ArrayBuffer(8)])).toThrow("complex64");
});

test("a message nested without end is refused instead of overflowing the stack", () => {
  let deep: unknown = 1;
  for (let index = 0; index < 5000; index += 1) deep = [deep];
  expect(() => decode(deep)).toThrow("deeper than 32");
});

test("rows that come name by name are rows again", () => {
  const each = { site: ["L0H1", "L2H3"], change: [0.5, null] };
  expect(decode({ receipts: { $rows: 2, same: { state: "acted" }, each } })).toEqual({
    receipts: [
      { state: "acted", site: "L0H1", change: 0.5 },
      { state: "acted", site: "L2H3", change: null },
    ],
  });
});

test("a key named __proto__ stays a key", () => {
  const decoded = decode(JSON.parse('{"__proto__": {"polluted": 1}}')) as object;
  expect(Object.keys(decoded)).toEqual(["__proto__"]);
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
});

test("small tables may come as plain rows, and null in them is not a number", () => {
  const table = asArray([
    [1, 2],
    [3, 4],
  ]);
  expect([cell(table, 1, 0), cell(table, 0, 1)]).toEqual([3, 2]);
  expect(asArray([1, null])?.data[1]).toBeNaN();
  expect(asArray([[1], [2, 3]])).toBeNull();
});

test("a cell outside the table is not a number", () => {
  const table = asArray([[1, 2]]);
  for (const [row, column] of [
    [-1, 0],
    [0, 2],
    [1, 0],
  ] as const)
    expect(cell(table, row, column)).toBeNaN();
  expect(cell(null, 0, 0)).toBeNaN();
});

test("what is sent owns its whole buffer", () => {
  const part = new Float32Array([1, 2, 3, 4]).subarray(1, 3);
  expect(Array.from(owned(part))).toEqual([2, 3]);
  expect(owned(part).buffer.byteLength).toBe(8);
});
