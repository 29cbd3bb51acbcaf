/** What the screen shows, derived from the kernel's state and the wishes still on their way. Pure. */

import type { Wish } from "../kit/channel.ts";
import { plural } from "../kit/format.ts";
import type { Panel } from "./panels.ts";
import type { AblationMode, Intervention, State, Vector } from "./protocol.ts";
import type { Snapshot } from "./store.ts";

type Pending = ReadonlyMap<string, Wish>;

/** Every head and MLP that is switched off: as the kernel has it, with our newer wishes on top in the order they were made. */
export function sitesOff(state: State, pending: Pending): Set<string> {
  const off = new Set<string>();
  for (const one of state.interventions) {
    if (one.kind === "ablate" && one.mode !== "edge" && one.on)
      for (const site of spread(one.site, state.model.heads)) off.add(site);
  }
  for (const wish of inOrder(pending)) {
    if (wish.name === "ablate") mark(off, [String(wish.args.site)], wish.args.off);
    else if (wish.name === "ablate_many") mark(off, wish.args.sites as string[], wish.args.off);
    else if (wish.name === "clear") off.clear();
  }
  return off;
}

function mark(set: Set<string>, sites: readonly string[], off: unknown): void {
  for (const site of sites) off === true ? set.add(site) : set.delete(site);
}

function spread(site: string, heads: readonly number[]): string[] {
  const layer = /^L(\d+)\.heads$/.exec(site)?.[1];
  if (layer === undefined) return [site];
  return Array.from({ length: heads[Number(layer)] ?? 0 }, (_, head) => `L${layer}H${head}`);
}

function inOrder(pending: Pending): Wish[] {
  return [...pending.values()].sort(
    (a, b) => (a.seq || Number.POSITIVE_INFINITY) - (b.seq || Number.POSITIVE_INFINITY),
  );
}

export function modeOf(state: State, pending: Pending): AblationMode {
  return (pending.get("mode")?.args.mode as AblationMode | undefined) ?? state.mode;
}

/** A vector as the hand has it: its coefficient and settings with our newer wishes on top. */
export function vectorNow(vector: Vector, pending: Pending): Vector {
  const settings = pending.get(`vector:${vector.name}`)?.args ?? {};
  const strength = pending.get(`strength:${vector.name}`)?.args.value;
  const cleared = pending.has("clear") ? { coefficient: 0 } : {};
  return {
    ...vector,
    ...cleared,
    ...pick(settings),
    ...(typeof strength === "number" ? { coefficient: strength } : {}),
  };
}

const SETTINGS: Record<string, string> = { on: "boolean", positions: "string", mode: "string", site: "string" };

function pick(args: Record<string, unknown>): Partial<Vector> {
  return Object.fromEntries(Object.entries(args).filter(([name, value]) => typeof value === SETTINGS[name]));
}

export const OLD = "measured before your last change";

/** Whether the number on screen still belongs to an older state. */
export function answerIsStale(snapshot: Snapshot | null): boolean {
  const answer = snapshot?.state.answer;
  return snapshot !== null && answer != null && answer.revision < snapshot.revision;
}

/** Whether anything asked for is still being worked on. */
export function isBusy(snapshot: Snapshot | null, pending: Pending, panel: Panel | null): boolean {
  if (snapshot === null) return true;
  const { state } = snapshot;
  if (state.closed) return false;
  const working = panel?.status === "computing" || panel?.status === "partial";
  const lagging = state.error === null && state.question !== null && (state.answer === null || answerIsStale(snapshot));
  return pending.size > 0 || state.busy || working || lagging;
}

export function partIsStale(panel: Panel | null, key: string, revision: number): boolean {
  const measured = panel?.revisions[key];
  return measured !== undefined && measured < revision;
}

/** Whether the run on screen differs from the plain one. */
export function isEdited(state: State): boolean {
  return state.interventions.some((one) => one.on && one.coefficient !== 0);
}

/** All circumstances a vector's curve depends on: everything but the vector's own coefficient. */
export function circumstances(state: State, vector: string): string {
  const { question, mode, interventions, vectors } = state;
  const others = interventions.filter((one) => one.vector !== vector).map(withoutLabel);
  const own = vectors.find((one) => one.name === vector);
  return JSON.stringify([
    question?.prompt,
    question?.target,
    question?.foil,
    question?.position,
    mode,
    others,
    own && [own.site, own.mode, own.positions],
  ]);
}

function withoutLabel({ key, kind, site, on, mode, positions, coefficient }: Intervention): unknown[] {
  return [key, kind, site, on, mode, positions, coefficient];
}

/** "3 heads off · sentiment +0.60": what is different from the plain model, in one line. */
export function summary(
  state: State,
  off: ReadonlySet<string>,
  vectors: readonly Vector[],
  signed: (value: number) => string,
): string {
  const mlps = [...off].filter((site) => site.endsWith(".mlp")).length;
  const heads = [...off].filter((site) => /H\d+$/.test(site)).length;
  const rest = state.interventions.filter(
    (one) => one.on && one.kind !== "steer" && !(one.kind === "ablate" && one.mode !== "edge" && covered(one.site)),
  );
  return [
    heads > 0 && `${plural(heads, "head")} off`,
    mlps > 0 && `${plural(mlps, "MLP")} off`,
    ...vectors.filter((one) => one.on && one.coefficient !== 0).map((one) => `${one.name} ${signed(one.coefficient)}`),
    ...rest.map((one) => one.label),
  ]
    .filter(Boolean)
    .join(" · ");
}

function covered(site: string): boolean {
  return /^L\d+(H\d+|\.mlp|\.heads)$/.test(site);
}
