/** What the parts of the view share: the patterns, the head drawn large, the cell meant, the edges that are cut. */

import type { HeatCell } from "../kit/heatmap.ts";
import type { ViewContext } from "../session/shell.ts";
import {
  type Drawn,
  type Edge,
  edgesOf,
  fromThumb,
  headAt,
  type Patterns,
  readPatterns,
  type Traits,
} from "./model.ts";

export type Shared = {
  patterns: { readonly value: Patterns | null; peek(): Patterns | null };
  stale: { readonly value: boolean };
  drawn: { readonly value: Drawn | null; peek(): Drawn | null };
  edges: { readonly value: readonly Edge[] };
  hovered: { value: HeatCell | null };
  locked: { value: HeatCell | null; peek(): HeatCell | null };
};

/** Patterns without a model behind them: there is nothing to ask, and nothing to switch. */
export function isStill({ model }: ViewContext<Traits>): boolean {
  return model.get("still") === true;
}

export function share({
  panel,
  snapshot,
  state,
  pending,
  hover,
  lock,
  derive,
  stable,
  signal,
}: ViewContext<Traits>): Shared {
  const patterns = derive(() => readPatterns(panel.value));
  const site = (mark: { kind: string; site?: string } | null): string | null =>
    mark?.kind === "head" ? (mark.site ?? null) : null;
  return {
    patterns,
    stale: derive(() => (patterns.value?.revision ?? 0) < (snapshot.value?.revision ?? 0)),
    drawn: derive(() => {
      const now = patterns.value;
      const wanted = site(lock.value) ?? site(hover.value);
      if (now === null || wanted === null || wanted === now.large?.site) return now?.large ?? null;
      return fromThumb(now, wanted) ?? now.large;
    }),
    edges: stable(() => edgesOf(state.value, pending.value)),
    hovered: signal<HeatCell | null>(null),
    locked: signal<HeatCell | null>(null),
  };
}

/** A head locked anywhere is wished for in full; what was locked of another head's pattern is let go. */
export function followLock(context: ViewContext<Traits>, { patterns, locked }: Shared): void {
  let wished: string | null = null;
  context.watch(() => {
    const mark = context.lock.value;
    const site = mark?.kind === "head" ? mark.site : null;
    if (site === wished) return;
    wished = site;
    locked.value = null;
    const where = headAt(site);
    if (where === null || patterns.peek()?.large?.site === site) return;
    context.intent("panel", `panel:${context.panelId}`, { panel: context.panelId, action: "head", ...where });
  });
}
