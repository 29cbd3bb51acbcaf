/** What a click, a header, a drag and the selection's buttons wish for. */

import { button, el, on, setText, show } from "../kit/dom.ts";
import { plural } from "../kit/format.ts";
import { allHeads } from "../kit/grid_geometry.ts";
import { modeOf } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { shapeOf, type Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

/** Every wish names its set, so that two rows switched quickly are two wishes. */
export function ablations(
  { state, pending, point, lock, intent }: ViewContext<Traits>,
  settings: Settings,
  select: (sites: string[]) => void,
) {
  const where = (): "all" | number[] => {
    const chosen = settings.positions.peek();
    return chosen.length > 0 ? [...chosen] : "all";
  };
  return {
    toggle(sites: string[], off: boolean): void {
      const now = state.peek();
      if (now === null) return;
      const mode = modeOf(now, pending.peek());
      const [site] = sites;
      if (sites.length === 1 && site !== undefined) {
        lock.value = { kind: "head", site };
        intent("ablate", `head:${site}`, { site, off, mode, positions: where() });
      } else intent("ablate_many", `heads:${nameOfSet(sites)}`, { sites, off, mode, positions: where() });
    },
    hover(site: string | null): void {
      point(site === null ? null : { kind: "head", site });
    },
    select,
  };
}

/** "L1", "*H3", "*.mlp", or from the first to the last. */
export function nameOfSet(sites: readonly string[]): string {
  const layers = new Set(sites.map((site) => /^L\d+/.exec(site)?.[0]));
  const columns = new Set(sites.map((site) => site.replace(/^L\d+/, "")));
  if (columns.size === 1) return `*${[...columns][0]}`;
  if (layers.size === 1) return [...layers][0] ?? "";
  return `${sites[0]}-${sites.at(-1)}`;
}

export function selectionBar(
  context: ViewContext<Traits>,
  selected: { value: readonly string[] },
  toggle: (sites: string[], off: boolean) => void,
): HTMLElement {
  const { state, off, watch } = context;
  const text = el("span");
  const actions: [string, () => void][] = [
    ["Switch off", () => many(selected.value, true)],
    ["Switch on", () => many(selected.value, false)],
    ["Keep only these", keepOnly],
  ];
  const done = button("Done", "iw-link");
  const node = el("div", "iw-selection", { role: "group", "aria-label": "selection" }, text);
  for (const [name, run] of actions) {
    const one = button(name);
    on(one, "click", run);
    node.append(one);
  }
  node.append(done);
  on(done, "click", () => {
    selected.value = [];
  });

  function many(sites: readonly string[], isOff: boolean): void {
    if (sites.length > 0) toggle([...sites], isOff);
  }

  function keepOnly(): void {
    const now = state.peek();
    if (now === null) return;
    const keep = new Set(selected.value);
    const dark = [...keep].filter((site) => off.peek().has(site));
    toggle(
      allHeads(shapeOf(now.model.heads)).filter((site) => !keep.has(site)),
      true,
    );
    for (const site of dark) toggle([site], false);
  }

  watch(() => {
    show(node, selected.value.length > 0);
    setText(text, `${plural(selected.value.length, "head")} selected`);
  });
  return node;
}
