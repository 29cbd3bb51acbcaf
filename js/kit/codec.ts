/**
 * Arrays on the wire: `{"$array": i, "dtype", "shape"}` stands for buffer `i` of the message.
 * Hosts hand buffers over as DataViews into larger buffers (byteOffset is not always 0), so an
 * offset is never dropped, and a misaligned one is copied first.
 */

export type NdArray = { shape: readonly number[]; data: ArrayLike<number> };
export type Decoded = null | boolean | number | string | NdArray | Decoded[] | { [key: string]: Decoded };

type Rows = { $rows: number; same: object; each: Record<string, unknown[]> };
type Spec = { $array: number; dtype: string; shape: number[]; range?: [number, number] };

const MAX_DEPTH = 32;
const TYPES = {
  float32: Float32Array,
  float16: Uint16Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  int32: Int32Array,
};

export function isNdArray(value: unknown): value is NdArray {
  return typeof value === "object" && value !== null && "shape" in value && "data" in value;
}

/** Replaces every array stand-in inside `value` by the array itself. */
export function decode(value: unknown, buffers: readonly (ArrayBuffer | ArrayBufferView)[] = [], depth = 0): Decoded {
  if (depth > MAX_DEPTH) throw new RangeError(`a message nested deeper than ${MAX_DEPTH} levels was dropped`);
  if (Array.isArray(value)) return value.map((item) => decode(item, buffers, depth + 1));
  if (value === null || typeof value !== "object") return value as Decoded;
  if (isSpec(value)) return decodeArray(value, buffers);
  if ("$rows" in value) return decode(rowsOf(value as Rows), buffers, depth);
  // fromEntries defines own properties, so a key named "__proto__" stays a key.
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item, buffers, depth + 1)]));
}

/** Many rows of the same names come name by name: once what all have, else a value for each. */
function rowsOf({ $rows, same, each }: Rows): object[] {
  const row = (index: number) => Object.entries(each).map(([name, values]) => [name, values[index]]);
  return Array.from({ length: $rows }, (_, index) => ({ ...same, ...Object.fromEntries(row(index)) }));
}

function isSpec(value: object): value is Spec {
  return "$array" in value && "dtype" in value && "shape" in value && Array.isArray(value.shape);
}

function decodeArray(spec: Spec, buffers: readonly (ArrayBuffer | ArrayBufferView)[]): NdArray {
  const source = buffers[spec.$array];
  const type = TYPES[spec.dtype as keyof typeof TYPES];
  if (source === undefined) throw new RangeError(`buffer ${spec.$array} is missing from the message`);
  if (type === undefined) throw new RangeError(`arrays of ${String(spec.dtype)} are not known`);
  const bytes = ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
  const width = type.BYTES_PER_ELEMENT;
  const size = spec.shape.reduce((product, n) => product * n, width);
  if (bytes.byteLength !== size) {
    throw new RangeError(
      `an array of ${spec.shape.join("×")} ${spec.dtype} needs ${size} bytes, not ${bytes.byteLength}`,
    );
  }
  const { buffer, byteOffset } = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const data = new type(buffer as ArrayBuffer, byteOffset, size / width);
  return {
    shape: spec.shape,
    data: rescale(spec.dtype === "float16" ? Float32Array.from(data, fromHalf) : data, spec.range),
  };
}

/** uint8 arrays that are only painted travel with the range that 0..255 stands for. */
function rescale(data: ArrayLike<number>, range: [number, number] | undefined): ArrayLike<number> {
  if (range === undefined) return data;
  const [low, high] = range;
  return Float32Array.from(data, (level) => low + (level / 255) * (high - low));
}

/** One IEEE half-precision number from its bits. */
export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A decoded value as an array: binary, or (small tables) plain JSON rows. Null when it is neither. */
export function asArray(value: Decoded | undefined): NdArray | null {
  if (value === undefined || value === null) return null;
  if (isNdArray(value)) return value;
  if (!Array.isArray(value)) return null;
  if (value.every((item) => typeof item === "number" || item === null))
    return { shape: [value.length], data: value.map(toNumber) };
  const rows = value.map((row) => asArray(row));
  const width = rows[0]?.shape[0];
  if (width === undefined || rows.some((row) => row?.shape.length !== 1 || row.shape[0] !== width)) return null;
  return { shape: [rows.length, width], data: rows.flatMap((row) => Array.from(row?.data ?? [])) };
}

function toNumber(value: unknown): number {
  return typeof value === "number" ? value : Number.NaN;
}

/** `array[row, column]`, NaN outside and where there is no array. */
export function cell(array: NdArray | null, row: number, column: number): number {
  const width = array?.shape[1] ?? 0;
  if (array === null || row < 0 || column < 0 || column >= width || row >= (array.shape[0] ?? 0)) return Number.NaN;
  return array.data[row * width + column] ?? Number.NaN;
}

/**
 * A view that owns its whole buffer, as a comm needs it: JupyterLab reserves `view.byteLength` but copies
 * `view.buffer`, so a subarray would send the wrong bytes.
 */
export function owned<T extends Uint8Array | Float32Array | Int32Array>(view: T): T {
  return view.byteLength === view.buffer.byteLength ? view : (view.slice() as T);
}
