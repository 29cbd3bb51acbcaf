/** The traits of AttentionPatterns, and its panel's data as the view reads it. */

import type { Wish } from "../kit/channel.ts";
import { asArray, cell, type Decoded, isNdArray, type NdArray } from "../kit/codec.ts";
import { named, num } from "../kit/format.ts";
import type { Diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import type { State, Token } from "../session/protocol.ts";

export type Show = "now" | "difference" | "value-weighted";
export type Traits = { session: string; panel: string; show: Show; layer: number; head: number; still?: boolean };

export type Patterns = {
  tokens: readonly Token[];
  /** How many heads each layer has. */
  heads: readonly number[];
  show: Show;
  signed: boolean;
  limit: number;
  scale: Diverging;
  /** Cells of a thumbnail's side. */
  size: number;
  thumbs: ReadonlyMap<number, NdArray>;
  /** Above the diagonal there are values too, and the arrays hold them. */
  square: boolean;
  /** What heads are called, where they have names of their own. */
  names: ReadonlyMap<string, string>;
  large: Drawn | null;
  scores: ReadonlyMap<string, NdArray>;
  revision: number;
};

/** One head's pattern as it can be drawn: `size` cells a side, each of one token or of several. */
export type Drawn = {
  site: string;
  size: number;
  exact: boolean;
  /** How many decimals of a value are sure. */
  digits: number;
  at(row: number, column: number): number;
};
export type Edge = { site: string; dest: number; src: number };
export type HeadAt = { layer: number; head: number };

export const SCORES = ["previous-token", "duplicate-token", "induction"] as const;

export function readPatterns(panel: Panel | null): Patterns | null {
  const data = panel?.data;
  if (panel === null || data === undefined || !Array.isArray(data.tokens) || !Array.isArray(data.heads)) return null;
  const heads = data.heads.map(Number);
  const limit = typeof data.limit === "number" && data.limit > 0 ? data.limit : 1;
  const thumbs = new Map<number, NdArray>();
  heads.forEach((_, layer) => {
    const one = data[`thumbs:${layer}`];
    if (isNdArray(one)) thumbs.set(layer, one);
  });
  return {
    tokens: data.tokens as unknown as Token[],
    heads,
    show: (data.show as Show | undefined) ?? "now",
    signed: data.signed === true,
    limit,
    scale: { limit, knee: limit, max: limit, floor: 0 },
    size: Number(data.size ?? 0),
    thumbs,
    square: data.square === true,
    names: new Map(Object.entries(asRecord(data.names)).map(([site, name]) => [site, String(name)])),
    large: readLarge(data.large, data.square === true),
    scores: readScores(data.scores),
    revision: panel.revisions.tokens ?? -1,
  };
}

function asRecord(value: Decoded | undefined): { readonly [key: string]: Decoded } {
  const plain = value !== null && typeof value === "object" && !Array.isArray(value) && !isNdArray(value);
  return plain ? (value as { [key: string]: Decoded }) : {};
}

function readLarge(value: Decoded | undefined, square: boolean): Drawn | null {
  const { layer, head, size, values: raw, low, high } = asRecord(value);
  const values = asArray(raw);
  const [start, step] = typeof low === "number" && typeof high === "number" ? [low, (high - low) / 65535] : [0, 0];
  if (values === null || typeof layer !== "number" || typeof head !== "number" || typeof size !== "number") return null;
  const at = (row: number, column: number): number => {
    const index = indexOf(row, column, size, square);
    const level = index === null ? Number.NaN : (values.data[index] ?? Number.NaN);
    return typeof low === "number" ? start + level * step : level;
  };
  return { site: siteOf({ layer, head }), size, exact: true, digits: digitsOf(step), at };
}

/** Four decimals, fewer where the values came in steps that are coarser than that. */
function digitsOf(step: number): number {
  return step > 0 ? Math.max(0, Math.min(4, Math.floor(-Math.log10(step)))) : 4;
}

function readScores(value: Decoded | undefined): Map<string, NdArray> {
  const found = new Map<string, NdArray>();
  for (const [name, scores] of Object.entries(asRecord(value))) {
    const array = asArray(scores);
    if (array !== null) found.set(name, array);
  }
  return found;
}

/** Where a cell is stored: a lower triangle row by row (above the diagonal there is nothing), or the whole square. */
export function indexOf(row: number, column: number, size: number, square: boolean): number | null {
  if (square) return row * size + column;
  return column > row ? null : (row * (row + 1)) / 2 + column;
}

export function nameOf(patterns: Patterns | null, site: string): string {
  return patterns?.names.get(site) ?? site;
}

export function siteOf({ layer, head }: HeadAt): string {
  return `L${layer}H${head}`;
}

export function headAt(site: string | null): HeadAt | null {
  const parts = /^L(\d+)H(\d+)$/.exec(site ?? "");
  return parts === null ? null : { layer: Number(parts[1]), head: Number(parts[2]) };
}

/** A head from its thumbnail: at once, in 255 steps. */
export function fromThumb(patterns: Patterns, site: string): Drawn | null {
  const where = headAt(site);
  const thumbs = where === null ? undefined : patterns.thumbs.get(where.layer);
  if (where === null || thumbs === undefined || where.head >= (thumbs.shape[0] ?? 0)) return null;
  const { size, limit, signed, square } = patterns;
  const start = where.head * (thumbs.shape[1] ?? 0);
  return {
    site,
    size,
    exact: false,
    digits: 2,
    at(row, column) {
      const index = indexOf(row, column, size, square);
      const level = index === null ? Number.NaN : (thumbs.data[start + index] ?? Number.NaN);
      return signed ? ((level - 128) / 127) * limit : (level / 255) * limit;
    },
  };
}

/** The block that a token falls into when `count` tokens share `size` cells. */
export function blockOf(token: number, count: number, size: number): number {
  return size >= count ? token : Math.ceil(((token + 1) * size) / count) - 1;
}

/** The first token of a block. */
export function tokenOf(block: number, count: number, size: number): number {
  return size >= count ? block : Math.floor((block * count) / size);
}

/** Every head, by layer, or by a score from the highest down. */
export function ordered(patterns: Patterns, score: string | null): HeadAt[] {
  const all = patterns.heads.flatMap((count, layer) => Array.from({ length: count }, (_, head) => ({ layer, head })));
  if (score === null) return all;
  const by = (one: HeadAt): number => {
    const value = scoreOf(patterns, score, one);
    return Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
  };
  return all.sort((a, b) => by(b) - by(a) || a.layer - b.layer || a.head - b.head);
}

export function scoreOf(patterns: Patterns, score: string, { layer, head }: HeadAt): number {
  return cell(patterns.scores.get(score) ?? null, layer, head);
}

/** What each token gets from one token, or gives to it: a row or a column of the pattern. */
export function lineOf(drawn: Drawn, count: number, token: number, to: boolean): number[] {
  const block = blockOf(token, count, drawn.size);
  return Array.from({ length: count }, (_, index) => {
    const other = blockOf(index, count, drawn.size);
    return to ? drawn.at(other, block) : drawn.at(block, other);
  });
}

/** The edges that are cut: as the kernel has them, with our newer wishes on top. */
export function edgesOf(state: State | null, pending: ReadonlyMap<string, Wish>): Edge[] {
  const cut = new Map<string, Edge>();
  for (const one of state?.interventions ?? []) {
    const parts = /^edge:(.+):(\d+):(\d+)$/.exec(one.key);
    if (parts !== null && one.on) cut.set(one.key, { site: one.site, dest: Number(parts[2]), src: Number(parts[3]) });
  }
  for (const { name, key, args } of pending.values()) {
    if (name === "clear") cut.clear();
    else if (name === "edge" && args.off === false) cut.delete(key);
    else if (name === "edge") cut.set(key, { site: String(args.site), dest: Number(args.dest), src: Number(args.src) });
  }
  return [...cut.values()];
}

export function keyOf({ site, dest, src }: Edge): string {
  return `edge:${site}:${dest}:${src}`;
}

/** "L1H4: previous token 0.91 · duplicate token 0.02 · induction 0.10" */
export function scoreWords(patterns: Patterns, site: string): string {
  const where = headAt(site);
  if (where === null) return "";
  return SCORES.filter((name) => patterns.scores.has(name))
    .map((name) => {
      const value = scoreOf(patterns, name, where);
      return `${name.replace("-", " ")} ${Number.isNaN(value) ? "– (no token comes twice)" : num(value)}`;
    })
    .join(" · ");
}

/** "␣to (14) looks at ␣Mary (2): 0.4312" */
export function cellWords(patterns: Patterns, drawn: Drawn, row: number, column: number): string {
  const { tokens, signed, show } = patterns;
  const value = drawn.at(row, column);
  const [dest, src] = [row, column].map((block) => blockWords(tokens, block, drawn.size)) as [string, string];
  if (Number.isNaN(value)) return `${dest} cannot look ahead to ${src}`;
  const number = `${signed && value > 0 ? "+" : ""}${num(value, drawn.digits)}`;
  const what =
    show === "value-weighted"
      ? " (attention × ‖value through W_O‖)"
      : show === "difference"
        ? " against the plain run"
        : "";
  const covered = drawn.exact && drawn.size < tokens.length ? ", the largest of these" : "";
  return `${dest} looks at ${src}: ${drawn.exact ? "" : "about "}${number}${covered}${what}`;
}

function blockWords(tokens: readonly Token[], block: number, size: number): string {
  const first = tokenOf(block, tokens.length, size);
  const last = tokenOf(block + 1, tokens.length, size) - 1;
  const token = tokens[first];
  const name = token === undefined ? "?" : named(token);
  return last > first ? `${name} … (${first}–${last})` : `${name} (${first})`;
}
