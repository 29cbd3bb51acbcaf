/** The traits of HeadAblation, and its sweep's table as the view reads it. */

import { asArray, cell, type Decoded, type NdArray } from "../kit/codec.ts";
import { named, num, plural } from "../kit/format.ts";
import { columnsOf, positionOf, type Shape } from "../kit/grid_geometry.ts";
import { type Diverging, diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import type { Question, State } from "../session/protocol.ts";
import type { Mark } from "../session/store.ts";

export type Traits = {
  session: string;
  panel: string;
  /** What the cells show. */
  colour: string;
  /** Of which number the total effect is. */
  read: string;
  /** Where heads are switched off; empty is everywhere. */
  positions: number[];
};

export type Table = {
  mode: string;
  baseline: number;
  floor: number;
  effects: NdArray | null;
  mlp: NdArray | null;
  metrics: NdArray | null;
  mlpMetrics: NdArray | null;
  kl: NdArray | null;
  ranks: NdArray | null;
  direct: NdArray | null;
  top: Decoded;
  reference: string;
  revision: number;
  scale: Diverging;
  mlpScale: Diverging;
  order: ReadonlyMap<number, number>;
  /** "direct" while a long sweep has empty cells. */
  meanwhile: string;
  positions: readonly number[];
  data: Panel["data"];
  revisions: Panel["revisions"];
};

export function readTable(panel: Panel | null): Table | null {
  if (panel === null) return null;
  const { data } = panel;
  const floor = number(data.floor, 0);
  const [effects, mlp] = [asArray(data.effects), asArray(data.mlp)];
  return {
    mode: typeof data.mode === "string" ? data.mode : "",
    baseline: number(data.baseline, Number.NaN),
    floor,
    effects,
    mlp,
    metrics: asArray(data.metrics),
    mlpMetrics: asArray(data.mlp_metrics),
    kl: asArray(data.kl),
    ranks: asArray(data.ranks),
    direct: asArray(data.direct),
    top: data.top ?? null,
    reference: typeof data.reference === "string" ? data.reference : "",
    revision: panel.revisions.effects ?? -1,
    scale: diverging(Array.from(effects?.data ?? []), floor),
    mlpScale: diverging(Array.from(mlp?.data ?? []), floor),
    order: ranking(effects),
    meanwhile: typeof data.meanwhile === "string" ? data.meanwhile : "",
    positions: Array.isArray(data.positions) ? data.positions.map(Number) : [],
    data,
    revisions: panel.revisions,
  };
}

function number(value: Decoded | undefined, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}

/** Place of every head by the size of its effect, 1 = largest. */
function ranking(effects: NdArray | null): ReadonlyMap<number, number> {
  const list = Array.from(effects?.data ?? [], (effect, index) => ({ index, size: Math.abs(effect) })).filter(
    ({ size }) => Number.isFinite(size),
  );
  list.sort((a, b) => b.size - a.size);
  return new Map(list.map(({ index }, place) => [index, place + 1]));
}

export function shapeOf(heads: readonly number[]): Shape {
  return { heads, mlp: heads.length > 0 };
}

function lookup(table: Table | null, shape: Shape, site: string): number {
  const position = positionOf(shape, site);
  if (table === null || position === null) return Number.NaN;
  if (position.column === columnsOf(shape)) return table.mlp?.data[position.row] ?? Number.NaN;
  return cell(table.effects, position.row, position.column);
}

/** Words with some of them strong: [text, strong]. */
export type Words = [string, boolean][];

/**
 * What the answer would be with this site off (or, when it is off, back on), from the table alone: no kernel is asked.
 * "L2H6 off: 2.97 → 0.86 · direct 1.90 · rank 1 of 32 · ␣Mary still ahead"
 */
export function preview(site: string, off: boolean, table: Table | null, state: State): Words {
  const shape = shapeOf(state.model.heads);
  const position = positionOf(shape, site);
  const effect = lookup(table, shape, site);
  if (table === null || position === null || Number.isNaN(effect)) {
    const direct = position === null || table === null ? Number.NaN : cell(table.direct, position.row, position.column);
    return [
      [site, true],
      [": not measured yet", false],
      [Number.isFinite(direct) ? ` · direct effect ${num(direct)}` : "", false],
    ];
  }
  const from = Number.isFinite(table.baseline) ? table.baseline : (state.answer?.metric ?? Number.NaN);
  const isMlp = position.column === columnsOf(shape);
  const measured = isMlp ? table.mlpMetrics?.data[position.row] : cell(table.metrics, position.row, position.column);
  const without = measured !== undefined && Number.isFinite(measured) ? measured : from - effect;
  const to = off ? from + effect : without;
  const words: Words = [
    [site, true],
    [off ? " back on: " : " off: ", false],
    [`${num(from)} → ${num(to)}`, true],
  ];
  const parts = isMlp ? [] : headParts(position.row, position.column, table, state, off);
  if (Math.abs(effect) < table.floor) parts.push(`below the noise (±${num(table.floor, 4)})`);
  const verdict = ahead(state.question, to);
  for (const part of [...parts, verdict]) if (part) words.push([` · ${part}`, false]);
  return words;
}

function headParts(row: number, column: number, table: Table, state: State, off: boolean): string[] {
  const direct = cell(table.direct, row, column);
  const kl = cell(table.kl, row, column);
  const place = table.order.get(row * (table.effects?.shape[1] ?? 0) + column);
  const rank = cell(table.ranks, row, column);
  return [
    Number.isFinite(direct) ? `direct ${num(direct)}` : "",
    place === undefined ? "" : `rank ${place} of ${table.order.size}`,
    Number.isFinite(kl) && !off ? `KL ${num(kl)}` : "",
    Number.isFinite(rank) && rank > 1 && !off ? fallen(row, column, rank, table, state) : "",
  ].filter(Boolean);
}

function fallen(row: number, column: number, rank: number, table: Table, state: State): string {
  const best = topOf(table.top, row, column);
  const target = state.question?.target[0];
  if (target === undefined) return best ? `then ${best} is first` : "";
  return `${named(target)} ${best ? `behind ${best}, ` : ""}now ${ordinal(rank)}`;
}

function topOf(top: Decoded, row: number, column: number): string {
  const list = Array.isArray(top) ? top[row] : undefined;
  const one = Array.isArray(list) ? list[column] : undefined;
  const first = Array.isArray(one) ? one[0] : one;
  return typeof first === "string" ? named({ text: first }) : "";
}

function ordinal(rank: number): string {
  const suffix = { 1: "st", 2: "nd", 3: "rd" }[rank % 100 > 10 && rank % 100 < 14 ? 0 : rank % 10] ?? "th";
  return `${rank}${suffix}`;
}

function ahead(question: Question | null, metric: number): string {
  const [target, foil] = [question?.target[0], question?.foil[0]];
  if (target === undefined || foil === undefined || !Number.isFinite(metric)) return "";
  return metric > 0 ? `${named(target)} still ahead` : `${named(foil)} ahead`;
}

/** "mean over names-corrupt (64, by position) · exact · cells do not add up to the answer" */
export function honestParts(table: Table | null, state: State, colour = "total effect"): string[] {
  if (colour === "direct effect")
    return [note(table, "direct_note") || DIRECT, "cells and the rest add up to the answer"];
  if (colour !== "total effect") return [note(table, "scores_note") || (SCORES[colour] ?? "")];
  const set = table?.reference || referenceName(state);
  const mode = table?.mode || state.mode;
  const how =
    mode === "zero"
      ? "zero: a head's output replaced by zeros"
      : mode === "resample"
        ? `resample from ${set}`
        : `${mode}${set ? ` over ${set}` : ""}`;
  const where =
    table !== null && table.positions.length > 0 ? `at ${plural(table.positions.length, "chosen token")}` : "";
  const hollow = table?.meanwhile === "direct" ? "hollow: direct effects, until the sweep has come to them" : "";
  return [how, where, "exact", hollow, "cells do not add up to the answer"];
}

const DIRECT = "direct: its write through the final norm of this run, along target − foil, in one forward";
const SCORES: Record<string, string> = {
  "previous-token": "mean attention from each position to the one before (Olsson et al. 2022)",
  "duplicate-token": "mean attention to earlier occurrences of the same token; empty where none comes twice",
  induction: "mean attention to what followed an earlier occurrence (Olsson et al. 2022); empty where none comes twice",
  copying:
    "Σ attention · what the source's value does to its own token's logit, over the mean logit; purple suppresses",
};

function note(table: Table | null, key: string): string {
  const said = table?.data[key];
  return typeof said === "string" ? said : "";
}

function referenceName({ reference }: State): string {
  if (reference === null) return "";
  return `${reference.name} (${reference.n}, ${reference.pooled ? "pooled" : "by position"})`;
}

/** The head or MLP that a mark is on. */
export function siteOf(mark: Mark): string | null {
  return mark?.kind === "head" ? mark.site : null;
}

export function headOf(site: string): { layer: number; head: number } | null {
  const [, layer, head] = /^L(\d+)H(\d+)$/.exec(site) ?? [];
  return layer === undefined ? null : { layer: Number(layer), head: Number(head) };
}
