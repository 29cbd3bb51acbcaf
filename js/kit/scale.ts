/** Where a value falls: pure functions from numbers to positions in [-1, 1] or [0, 1]. */

export type Diverging = {
  /** Values of this size are painted in full colour. */
  limit: number;
  /** Above this size the scale is compressed; equal to `limit` when it is not. */
  knee: number;
  /** The largest size there is. */
  max: number;
  /** Below this size a value is noise, and painted neutral. */
  floor: number;
};

/** The share of the ramp that belongs to what lies above the knee. */
const TAIL = 0.15;
/** An outlier is a value this many times larger than the next part of the crowd. */
const OUTLIER = 3;

/**
 * A symmetric scale about zero. A few values far above all others would leave the rest colourless: then the
 * ramp is linear up to the crowd and compressed beyond, and `isCompressed` lets the legend say so.
 */
export function diverging(values: ArrayLike<number>, floor = 0): Diverging {
  const sizes = Float64Array.from(values).filter(Number.isFinite).map(Math.abs).sort();
  const max = sizes.at(-1) ?? 0;
  const crowd = sizes[Math.floor((sizes.length - 1) * 0.95)] ?? max;
  const limit = max > 0 ? max : 1;
  const compressed = sizes.length >= 20 && crowd > floor && max > OUTLIER * crowd;
  return { limit, knee: compressed ? crowd : limit, max, floor };
}

export function isCompressed(scale: Diverging): boolean {
  return scale.knee < scale.limit;
}

/** Position of a value on the ramp, -1 … 1; NaN stays NaN ("not yet"). */
export function place(scale: Diverging, value: number): number {
  const size = Math.abs(value);
  if (Number.isNaN(size)) return Number.NaN;
  if (size < scale.floor) return 0;
  const sign = Math.sign(value);
  if (!isCompressed(scale)) return sign * Math.min(1, size / scale.limit);
  if (size <= scale.knee) return (sign * (1 - TAIL) * size) / scale.knee;
  const beyond = Math.log(Math.min(size, scale.limit) / scale.knee) / Math.log(scale.limit / scale.knee);
  return sign * (1 - TAIL + TAIL * beyond);
}

const TINY = 1e-7;

/** The log-odds of a probability, kept finite. */
export function logit(probability: number): number {
  const p = Math.min(1 - TINY, Math.max(TINY, Number.isFinite(probability) ? probability : TINY));
  return Math.log(p / (1 - p));
}

/** An axis in log-odds that holds all given probabilities with air at both ends. */
export function logitDomain(probabilities: readonly number[]): [number, number] {
  const values = probabilities.filter(Number.isFinite).map(logit);
  if (values.length === 0) return [-7, 3];
  const low = Math.min(...values);
  const high = Math.max(...values);
  const air = Math.max(0.6, (high - low) * 0.08);
  return [low - air, high + air];
}

export function fraction([low, high]: readonly [number, number], value: number): number {
  if (high === low) return 0.5;
  return Math.min(1, Math.max(0, (value - low) / (high - low)));
}

const ROUND = [1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999];
const FINE = [0.0002, 0.0005, 0.002, 0.005, 0.02, 0.03, 0.05, 0.07, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.95, 0.98, 0.995];

/** The share of an axis that a tick's label takes on the narrowest one. */
const LABEL = 0.16;

/**
 * The round probabilities that fall on a log-odds axis, for its ticks; on a short axis less round ones too. Of those
 * whose labels would run into each other the nearest to a half stay.
 */
export function logitTicks(domain: readonly [number, number]): number[] {
  const within = (all: readonly number[]): number[] => all.filter((p) => logit(p) > domain[0] && logit(p) < domain[1]);
  const round = within(ROUND);
  const kept: number[] = [];
  const at = (p: number): number => fraction(domain, logit(p));
  const chosen = round.length >= 2 ? round : within([...ROUND, ...FINE]);
  for (const p of chosen.sort((a, b) => Math.abs(logit(a)) - Math.abs(logit(b)))) {
    if (kept.every((other) => Math.abs(at(p) - at(other)) >= LABEL)) kept.push(p);
  }
  return kept.sort((a, b) => a - b);
}

/** A step of 1, 2 or 5 times a power of ten, about a hundredth of the limit. */
export function niceStep(limit: number): number {
  if (!(limit > 0) || !Number.isFinite(limit)) return 0.01;
  const raw = limit / 100;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5].find((multiple) => multiple * power >= raw * 0.999) ?? 10) * power;
  return Number(step.toPrecision(1));
}

export function digitsOf(step: number): number {
  return Math.max(0, Math.min(8, -Math.floor(Math.log10(step))));
}
