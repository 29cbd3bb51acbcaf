/** What the cells show: one of several numbers per head, out of the panel's table, and on which scale. */

import { asArray, cell, type NdArray } from "../kit/codec.ts";
import { columnsOf, type Position, type Shape } from "../kit/grid_geometry.ts";
import { type Diverging, diverging } from "../kit/scale.ts";
import { record, type Table } from "./model.ts";

export const COLOURS = ["total effect", "direct effect", "previous-token", "duplicate-token", "induction", "copying"];
export const READS = ["metric", "probability", "rank", "KL"];

export type Choice = {
  colour: string;
  read: string;
  /** Which example of a prompt set; −1 is the mean. */
  example: number;
};

export type Cells = {
  heads: NdArray | null;
  mlps: NdArray | null;
  /** What stands in for heads that the sweep has not come to: direct effects, drawn hollow. */
  meanwhile: { heads: NdArray | null; mlps: NdArray | null } | null;
  scale: Diverging;
  mlpScale: Diverging;
  /** Whether a sign has a meaning; attention scores have none. */
  meaning: string;
  revision: number;
};

const MEANINGS: Record<string, string> = {
  metric: "lost without it",
  probability: "probability of the target lost without it",
  rank: "ranks that the target falls without it",
  KL: "KL from the answer now, in nats",
};

/** The numbers of a choice. */
export function cellsOf(table: Table | null, { colour, read, example }: Choice): Cells | null {
  if (table === null) return null;
  const { data, revisions } = table;
  if (colour === "direct effect")
    return built(asArray(data.direct), asArray(data.direct_mlp), "direct effect", 0, revisions.direct);
  if (colour !== "total effect") {
    const scores = (data.scores ?? {}) as Record<string, never>;
    const meaning = colour === "copying" ? "copying ↔ suppressing" : `${colour} score`;
    return built(
      asArray(scores[colour]),
      null,
      colour === "copying" ? "copies what it attends to" : meaning,
      0,
      revisions.scores,
    );
  }
  const name = { metric: "effects", probability: "chance_effects", rank: "rank_effects", KL: "kl" }[read] ?? "effects";
  const fresh = revisions.each === revisions.effects;
  const key = read === "probability" ? "chance" : read;
  const [one, oneMlp] = [key === "metric" ? data.each : record(data.each_read)[key], record(data.each_mlp)[key]].map(
    (all) => (fresh ? exampleOf(asArray(all), example) : null),
  );
  const cells = built(
    one ?? asArray(data[name]),
    oneMlp ?? (one == null ? asArray(data[read === "metric" ? "mlp" : `mlp_${name}`]) : null),
    MEANINGS[read] ?? "",
    read === "metric" ? table.floor : 0,
    revisions.effects,
  );
  if (read !== "metric") return cells;
  if (table.meanwhile !== "direct") return cells;
  const meanwhile = { heads: asArray(data.direct), mlps: asArray(data.direct_mlp) };
  return {
    ...cells,
    meanwhile,
    scale: diverging([...numbers(cells.heads), ...numbers(meanwhile.heads)], table.floor),
    mlpScale: diverging([...numbers(cells.mlps), ...numbers(meanwhile.mlps)], table.floor),
  };
}

function built(heads: NdArray | null, mlps: NdArray | null, meaning: string, floor: number, revision = -1): Cells {
  const there = heads !== null && heads.data.length > 0 ? heads : null;
  const scale = diverging(there?.data ?? [], floor);
  return {
    heads: there,
    mlps,
    meanwhile: null,
    scale,
    mlpScale: diverging(mlps?.data ?? [], floor),
    meaning,
    revision,
  };
}

function numbers(array: NdArray | null): number[] {
  return Array.from(array?.data ?? []);
}

function exampleOf(each: NdArray | null, example: number): NdArray | null {
  const [count = 0, ...shape] = each?.shape ?? [];
  if (each === null || example < 0 || example >= count) return null;
  const size = shape.reduce((product, n) => product * n, 1);
  return { shape, data: Array.from(each.data).slice(example * size, (example + 1) * size) };
}

/** A site's number; where the new table has none yet, the one of before, marked stale, or what stands in for it. */
export function numberOf(
  now: Cells | null,
  before: Cells | null,
  shape: Shape,
  where: Position,
): { value: number; stale: boolean; hollow: boolean } {
  const value = at(now?.heads, now?.mlps, shape, where);
  if (!Number.isNaN(value)) return { value, stale: false, hollow: false };
  if (now?.meanwhile != null) {
    const direct = at(now.meanwhile.heads, now.meanwhile.mlps, shape, where);
    return { value: direct, stale: false, hollow: !Number.isNaN(direct) };
  }
  return { value: at(before?.heads, before?.mlps, shape, where), stale: true, hollow: false };
}

type Maybe = NdArray | null | undefined;

function at(heads: Maybe, mlps: Maybe, shape: Shape, { row, column }: Position): number {
  if (column === columnsOf(shape)) return mlps?.data[row] ?? Number.NaN;
  return heads == null ? Number.NaN : cell(heads, row, column);
}
