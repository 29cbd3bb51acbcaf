/** The traits of SelfRepair, and its account as the view reads it. */

import { asArray, cell, type Decoded, type NdArray } from "../kit/codec.ts";
import { num, percent, signed } from "../kit/format.ts";
import { columnsOf, positionOf, type Shape } from "../kit/grid_geometry.ts";
import { type Diverging, diverging } from "../kit/scale.ts";
import type { Panel } from "../session/panels.ts";
import type { ViewTraits } from "../session/shell.ts";

export type Traits = ViewTraits;

export type Step = { label: string; direct: number; total: number; repaired: number };
export type Account = {
  ablated: string[];
  mode: string;
  reference: string;
  before: number;
  after: number;
  direct: number;
  total: number;
  repaired: number;
  norm: number;
  other: number;
  heads: NdArray | null;
  mlps: NdArray | null;
  suppression: NdArray | null;
  scale: Diverging;
  mlpScale: Diverging;
  suppressionScale: Diverging;
  words: string;
  log: Step[];
  candidates: string[];
};

export function readAccount(panel: Panel | null): Account | null {
  if (panel === null || !Array.isArray(panel.data.ablated)) return null;
  const { data } = panel;
  const [heads, mlps, suppression] = [data.heads, data.mlps, data.suppression].map((one) => asArray(one)) as [
    NdArray | null,
    NdArray | null,
    NdArray | null,
  ];
  return {
    ablated: (data.ablated as Decoded[]).map(String),
    mode: text(data.mode),
    reference: text(data.reference),
    before: number(data.before),
    after: number(data.after),
    direct: number(data.direct),
    total: number(data.total),
    repaired: number(data.repaired),
    norm: number(data.norm),
    other: number(data.other),
    heads,
    mlps,
    suppression,
    scale: diverging(Array.from(heads?.data ?? [])),
    mlpScale: diverging(Array.from(mlps?.data ?? [])),
    suppressionScale: diverging(Array.from(suppression?.data ?? [])),
    words: text(data.words),
    log: Array.isArray(data.log) ? (data.log as unknown as Step[]) : [],
    candidates: Array.isArray(data.candidates) ? data.candidates.map(String) : [],
  };
}

function text(value: Decoded | undefined): string {
  return typeof value === "string" ? value : "";
}

function number(value: Decoded | undefined): number {
  return typeof value === "number" ? value : Number.NaN;
}

/** A head's or an MLP's change of direct effect; or a head's copy-suppression score. */
export function partOf(account: Account | null, shape: Shape, site: string, suppression = false): number {
  const at = positionOf(shape, site);
  if (account === null || at === null) return Number.NaN;
  if (at.column === columnsOf(shape)) return suppression ? Number.NaN : (account.mlps?.data[at.row] ?? Number.NaN);
  return cell(suppression ? account.suppression : account.heads, at.row, at.column);
}

export type Bar = { name: string; from: number; to: number; kind: "whole" | "part"; value: number };

/** From what was lost directly, through what made up for it, to what was lost in all: each bar begins where the last one ended. */
export function waterfall(account: Account): Bar[] {
  const bars: Bar[] = [{ name: "lost directly", from: 0, to: account.direct, kind: "whole", value: account.direct }];
  let at = account.direct;
  const parts: [string, number][] = [
    ["heads", sum(account.heads)],
    ["MLPs", sum(account.mlps)],
    ["final norm’s scale", account.norm],
    ["the rest", account.other],
  ];
  for (const [name, value] of parts) {
    if (name === "the rest" && Math.abs(value) < 5e-4) continue;
    bars.push({ name, from: at, to: at - value, kind: "part", value });
    at -= value;
  }
  bars.push({ name: "lost in all", from: 0, to: account.total, kind: "whole", value: account.total });
  return bars;
}

export function sum(values: NdArray | null): number {
  return Array.from(values?.data ?? [])
    .filter(Number.isFinite)
    .reduce((total, value) => total + value, 0);
}

/** "L2H3: +1.34 restores, 12 % of what was lost · copy suppression 0.46" */
export function siteWords(account: Account, shape: Shape, site: string): string {
  if (account.ablated.includes(site)) return `${site} is ablated; click to switch it on again`;
  const change = partOf(account, shape, site);
  const suppression = partOf(account, shape, site, true);
  if (Number.isNaN(change)) return `${site}: not measured`;
  const share =
    Math.abs(account.direct) > 1e-9 ? `, ${percent(Math.abs(change / account.direct))} % of what was lost` : "";
  const what = Math.abs(change) < 5e-4 ? "as before" : change > 0 ? `restores${share}` : `erodes${share}`;
  return [
    `${site}: ${signed(change, 3)} ${what}`,
    account.candidates.includes(site) && "a backup",
    Number.isFinite(suppression) && `copy suppression ${num(suppression)}`,
  ]
    .filter(Boolean)
    .join(" · ");
}
