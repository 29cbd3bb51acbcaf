/** The traits of HeadAblation, and its sweep's table as the view reads it. */

import { asArray, cell, type Decoded, type NdArray } from "../kit/codec.ts";
import { named, num, plural } from "../kit/format.ts";
import { columnsOf, type Position, positionOf, type Shape } from "../kit/grid_geometry.ts";
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
  /** From how many prompts a resample ablation is measured, at most. */
  draws: number;
};

export type Table = {
  mode: string;
  baseline: number;
  floor: number;
  effects: NdArray | null;
  mlp: NdArray | null;
  reference: string;
  revision: number;
  /** "direct" while a long sweep has empty cells. */
  meanwhile: string;
  positions: readonly number[];
  /** What taking its edits away gives, for every site that is edited. */
  restored: ReadonlyMap<string, number>;
  /** How many draws of a resample ablation an effect is the mean of. */
  draws: number;
  data: Panel["data"];
  revisions: Panel["revisions"];
};

export function readTable(panel: Panel | null): Table | null {
  if (panel === null) return null;
  const { data, revisions } = panel;
  const effects = asArray(data.effects);
  const text = (value: Decoded | undefined): string => (typeof value === "string" ? value : "");
  return {
    mode: text(data.mode),
    baseline: number(data.baseline, Number.NaN),
    floor: number(data.floor, 0),
    effects,
    mlp: asArray(data.mlp),
    reference: text(data.reference),
    revision: revisions.effects ?? -1,
    meanwhile: text(data.meanwhile),
    positions: Array.isArray(data.positions) ? data.positions.map(Number) : [],
    restored: new Map(list(data.restored).map(([layer, head, metric]) => [siteAt(layer, head), metric ?? Number.NaN])),
    draws: revisions.draws === revisions.effects ? number(data.draws, 1) : 1,
    data,
    revisions,
  };
}

function list(value: Decoded | undefined): number[][] {
  return Array.isArray(value) ? value.map((one) => (Array.isArray(one) ? one.map(Number) : [])) : [];
}

function siteAt(layer = 0, head = 0): string {
  return head < 0 ? `L${layer}.mlp` : `L${layer}H${head}`;
}

function number(value: Decoded | undefined, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}

/** "rank 2 of 32": a head's place by the size of its effect. Counted when it is read: a table comes often, a pointer rests on one. */
function rankOf(effects: NdArray | null, row: number, column: number): string {
  const sizes = Float64Array.from(effects?.data ?? [])
    .filter(Number.isFinite)
    .map(Math.abs);
  const own = effects === null ? Number.NaN : Math.abs(cell(effects, row, column));
  return Number.isFinite(own) ? `rank ${1 + sizes.filter((size) => size > own).length} of ${sizes.length}` : "";
}

export function shapeOf(heads: readonly number[]): Shape {
  return { heads, mlp: heads.length > 0 };
}

/** Words with some of them strong: [text, strong]. */
export type Words = [string, boolean][];

/**
 * What the answer would be with this site off (or, when it is off, back on), from the table alone: no kernel is asked.
 * "L2H6 off: 2.97 → 0.86 · direct 1.90 · rank 1 of 32 · ␣Mary still ahead"
 */
export function preview(site: string, off: boolean, table: Table | null, state: State, example = -1): Words {
  const shape = shapeOf(state.model.heads);
  const position = positionOf(shape, site);
  if (table === null || position === null)
    return [
      [site, true],
      [": not measured yet", false],
    ];
  const isMlp = position.column === columnsOf(shape);
  const pick = (heads: Decoded | undefined, mlps: Decoded | undefined): number =>
    isMlp ? (asArray(mlps)?.data[position.row] ?? Number.NaN) : cell(asArray(heads), position.row, position.column);
  const { data } = table;
  const direct = pick(data.direct, data.direct_mlp);
  const all = everyExample(table, position.row, position.column, isMlp);
  const one = all[example];
  const effect = one ?? pick(data.effects, data.mlp);
  if (Number.isNaN(effect)) {
    return [
      [site, true],
      [": not measured yet", false],
      [Number.isFinite(direct) ? ` · direct effect ${num(direct)}` : "", false],
    ];
  }
  const now = Number.isFinite(table.baseline) ? table.baseline : (state.answer?.metric ?? Number.NaN);
  const from = one === undefined ? now : (state.answer?.values?.[example] ?? now);
  // Of one example the table has no metrics, only effects.
  const known = one !== undefined ? Number.NaN : off ? table.restored.get(site) : pick(data.metrics, data.mlp_metrics);
  const to = Number.isFinite(known) ? (known as number) : off ? from + effect : from - effect;
  const words: Words = [
    [site, true],
    [off ? " back on: " : " off: ", false],
    [`${num(from)} → ${num(to)}`, true],
  ];
  const [kl, rank] = [pick(data.kl, data.mlp_kl), pick(data.ranks, data.mlp_ranks)];
  const spread = pick(data.spread, data.mlp_spread);
  const parts = [
    one === undefined ? "" : `example ${example + 1}`,
    one === undefined && all.length > 1 ? `mean effect ${num(effect)} ± ${num(meanOf(all).interval)} (95 %)` : "",
    table.draws > 1
      ? `mean of ${table.draws} draws ${num(effect)}${Number.isFinite(spread) ? ` ± ${num(spread)}` : ""}`
      : "",
    Number.isFinite(direct) ? `direct ${num(direct)}` : "",
    isMlp ? "" : rankOf(table.effects, position.row, position.column),
    Number.isFinite(kl) ? `KL ${num(kl)}` : "",
    all.length === 0 && rank > 1 && !off ? fallen(position, rank, table, state) : "",
    Math.abs(effect) < table.floor ? `below the noise (±${num(table.floor, 4)})` : "",
    ahead(state.question, to),
  ];
  for (const part of parts) if (part) words.push([` · ${part}`, false]);
  return words;
}

/** A site's effect in every example of a prompt set; empty for one prompt, and where only the mean was sent. */
function everyExample({ data, revisions }: Table, row: number, column: number, isMlp: boolean): number[] {
  const all = asArray(isMlp ? record(data.each_mlp).metric : data.each);
  if (all === null || revisions.each !== revisions.effects) return [];
  const size = all.data.length / (all.shape[0] || 1);
  const at = isMlp ? row : row * (all.shape[2] ?? 0) + column;
  return Array.from({ length: all.shape[0] ?? 0 }, (_, example) => all.data[example * size + at] ?? Number.NaN);
}

/** A mean, and half its 95 % interval. */
export function meanOf(values: readonly number[]): { mean: number; interval: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, interval: 1.96 * Math.sqrt(squares / (values.length - 1) / values.length) };
}

export function record(value: Decoded | undefined): { readonly [key: string]: Decoded } {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !("shape" in value) ? value : {};
}

function fallen({ row, column }: Position, rank: number, table: Table, state: State): string {
  const best = topOf(table.data.top ?? null, row, column);
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
  if (colour === "direct effect") return [note(table, "direct_note"), "cells and the rest add up to the answer"];
  if (colour !== "total effect") return [note(table, "scores_note")];
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
  const drawn = table !== null && table.draws > 1 ? `mean of ${table.draws} draws, a click takes the first` : "";
  const hollow = table?.meanwhile === "direct" ? "hollow: direct effects, until the sweep has come to them" : "";
  return [how, drawn, where, "exact", hollow, "cells do not add up to the answer"];
}

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
