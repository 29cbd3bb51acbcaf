/** Arrays on the wire, as the kernel sends them. */

export type Raw = { $raw: Float32Array; shape: number[] };

export function f32(values: readonly number[], shape: number[]): Raw {
  return { $raw: Float32Array.from(values), shape };
}

/** As the kernel does it: arrays leave the JSON and travel as buffers, here at an odd offset inside a larger one. */
export function encode(value: unknown): { json: unknown; buffers: DataView[] } {
  const buffers: DataView[] = [];
  const walk = (item: unknown): unknown => {
    if (Array.isArray(item)) return item.map(walk);
    if (item === null || typeof item !== "object") return item;
    if ("$raw" in item) {
      const { $raw, shape } = item as Raw;
      const whole = new ArrayBuffer($raw.byteLength + 3);
      new Uint8Array(whole, 3).set(new Uint8Array($raw.buffer));
      buffers.push(new DataView(whole, 3));
      return { $array: buffers.length - 1, dtype: "float32", shape };
    }
    return Object.fromEntries(Object.entries(item).map(([key, inner]) => [key, walk(inner)]));
  };
  return { json: walk(value), buffers };
}
