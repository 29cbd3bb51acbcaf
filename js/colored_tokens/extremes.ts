/** The largest and the smallest values of a sample as tables: a column for each place on the second axis, a few at a time. */

import { button, el, on, reconcile, setText, show } from "../kit/dom.ts";
import { num } from "../kit/format.ts";
import type { ViewContext, ViewTraits } from "../session/shell.ts";
import { extremeRows, labelOf, type Place, type Shown } from "./model.ts";

const COLUMNS = 6;
const TITLES = ["Largest", "Smallest"];

export function extremesPart(
  { watch, signal }: ViewContext<ViewTraits>,
  shown: { readonly value: Shown },
  place: { readonly value: Place },
): HTMLElement {
  const start = signal(0);
  const [back, next] = [button("‹ Before"), button("Next ›")];
  const words = el("span", "iw-honest iw-num", { "data-iw": "columns" });
  const tables = TITLES.map((title) => {
    const [head, body] = [el("tr"), el("tbody")];
    const node = el("table", "iw-extremes", {}, el("caption", "iw-muted", {}, title), el("thead", "", {}, head), body);
    return { node, head, body };
  });
  const tools = el("div", "iw-section-tools", {}, back, next, words);
  const node = el("div", "iw-extremes-part", {}, tools, ...tables.map((table) => table.node));
  on(back, "click", () => {
    start.value = Math.max(0, start.peek() - COLUMNS);
  });
  on(next, "click", () => {
    start.value += COLUMNS;
  });
  watch(() => {
    const { samples, axes } = shown.value;
    const [, second] = axes;
    const sample = samples[place.value.sample];
    const there = (sample?.extremes.length ?? 0) > 0;
    show(node, there);
    if (!there) return;
    const end = Math.min(second.size, start.value + COLUMNS);
    const columns = Array.from({ length: Math.max(0, end - start.value) }, (_, index) => start.value + index);
    back.disabled = start.value === 0;
    next.disabled = end >= second.size;
    setText(words, `${second.name} ${start.value} to ${end - 1} of ${second.size}`);
    tables.forEach(({ head, body }, which) => {
      const names = ["", ...columns.map((column) => `${second.name} ${labelOf(second, column)}`)];
      reconcile(head, names, () => el("th", "", { scope: "col" }), setText);
      const rows = extremeRows(sample, which, place.value.first, columns);
      reconcile(
        body,
        rows,
        () => el("tr"),
        (row, cells, rank) => {
          const texts = [[String(rank + 1), ""] as const, ...cells.map((c) => [c.token, num(c.value, 3)] as const)];
          reconcile(
            row,
            texts,
            (index) => el(index === 0 ? "th" : "td", "", {}, el("bdi"), el("span", "iw-muted iw-num")),
            (cell, [token, value]) => {
              const [name, size] = cell.children as unknown as [HTMLElement, HTMLElement];
              setText(name, token);
              setText(size, value === "" ? "" : ` ${value}`);
            },
          );
        },
      );
    });
  });
  return node;
}
