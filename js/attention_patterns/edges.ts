/** Cutting edges: the cell that is meant, in exact words, and every edge that is cut, each with a way back. */

import { button, el, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, plural } from "../kit/format.ts";
import type { ViewContext } from "../session/shell.ts";
import { cellWords, type Edge, keyOf, type Traits } from "./model.ts";
import { isStill, type Shared } from "./shared.ts";

/** The exact number of the cell meant, and what can be done to it. */
export function cellLine(
  context: ViewContext<Traits>,
  { patterns, drawn, hovered, locked, edges }: Shared,
): HTMLElement {
  const { watch, intent } = context;
  const words = el("span");
  const cut = button("Cut this edge");
  const node = el("div", "iw-fixed iw-cell-line", { "aria-live": "polite", "data-iw": "fixed-cell" }, words, cut);
  let edge: Edge | null = null;
  let isCut = false;
  cut.addEventListener("click", () => {
    if (edge !== null) intent("edge", keyOf(edge), { ...edge, off: !isCut });
  });
  watch(() => {
    const [now, head] = [patterns.value, drawn.value];
    const cell = hovered.value ?? locked.value;
    node.classList.toggle("iw-fixed-on", cell !== null);
    if (cell === null || now === null || head === null) setText(words, isStill(context) ? STILL_HINT : CELL_HINT);
    else setText(words, cellWords(now, head, cell.row, cell.column));
    const kept = locked.value;
    const possible = kept !== null && head !== null && now !== null && head.size === now.tokens.length;
    edge = possible ? { site: head.site, dest: kept.row, src: kept.column } : null;
    isCut = edge !== null && edges.value.some((one) => edge !== null && keyOf(one) === keyOf(edge));
    show(cut, edge !== null && !isStill(context));
    setText(cut, isCut ? "Mend this edge" : "Cut this edge");
  });
  return node;
}

const STILL_HINT = "Hover a cell to read it; click to keep it.";
const CELL_HINT = "Hover a cell to read it; click to keep it and to cut its edge.";

/** Every edge that is cut, of whatever head, each with a way back. */
export function edgeList(context: ViewContext<Traits>, { edges, patterns }: Shared): HTMLElement {
  const { watch, intent, refusals, store } = context;
  const count = el("span", "iw-muted");
  const list = el("span", "iw-edges", { role: "list", "aria-label": "edges cut" });
  const refused = alertLine(() => {
    for (const key of refusals.peek().keys()) if (key.startsWith("edge:")) store.dismiss(key);
  });
  const node = el("div", "iw-edges", {}, count, list);
  const made = new WeakMap<Element, Edge>();
  list.addEventListener("click", (event) => {
    const target = event.target as HTMLElement;
    const edge = target.closest("button") === null ? undefined : made.get(target.closest(".iw-edge") ?? target);
    if (edge !== undefined) intent("edge", keyOf(edge), { ...edge, off: false });
  });
  watch(() => {
    const tokens = patterns.value?.tokens ?? [];
    show(node, edges.value.length > 0);
    setText(count, `${plural(edges.value.length, "edge")} cut`);
    reconcile(
      list,
      edges.value,
      () => el("span", "iw-edge", { role: "listitem" }, el("bdi"), button("mend", "iw-link")),
      (item, edge) => {
        made.set(item, edge);
        const [dest, src] = [tokens[edge.dest], tokens[edge.src]].map((token) =>
          token === undefined ? "?" : named(token),
        );
        setText(item.firstElementChild ?? item, `${edge.site} ${dest} (${edge.dest}) ← ${src} (${edge.src})`);
        setAttributes(item.lastElementChild ?? item, { "aria-label": `mend ${edge.site} ${edge.dest} ← ${edge.src}` });
      },
    );
  });
  watch(() => {
    refused.paint([...refusals.value].find(([key]) => key.startsWith("edge:"))?.[1].message ?? null);
  });
  return el("div", "", {}, node, refused.node);
}
