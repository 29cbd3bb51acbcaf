/** The layer × strength map of one vector: what the answer would be, and a click sets the slider there. */

import { button, el, reconcile, setText, show } from "../kit/dom.ts";
import { num, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { type HeatCell, heatmap } from "../kit/heatmap.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import { OLD, partIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { cellWords, readMap, type StrengthMap, type Traits } from "./model.ts";

const MOST_NAMES = 16;

export function mapPart(context: ViewContext<Traits>): HTMLElement {
  const { panel, panelId, intent, watch, theme, snapshot, vectors, derive, signal, abort } = context;
  const part = section("Layer × strength", "the same vector elsewhere");
  const map = derive(() => readMap(panel.value));
  const hovered = signal<HeatCell | null>(null);
  const close = button("Close", "iw-link");
  const layers = el("div", "iw-map-layers iw-num", { "aria-hidden": "true" });
  const axis = el("div", "iw-map-axis iw-num", { "aria-hidden": "true" });
  const line = el("div", "iw-fixed", { "aria-live": "polite" });
  const key = legend();
  const about = honest();
  const picture = heatmap(
    "answer by layer (rows) and strength (columns)",
    {
      hover(cell) {
        hovered.value = cell;
      },
      press: set,
    },
    abort,
  );
  part.aside.append(close);
  part.body.append(el("div", "iw-map", {}, layers, picture.node, el("span"), axis), line, key.node, about.node);
  close.addEventListener("click", () =>
    intent("panel", `panel:${panelId}`, { panel: panelId, action: "map", vector: null }),
  );

  function set({ row, column }: HeatCell): void {
    const now = map.peek();
    const vector = vectors.peek().find((one) => one.name === now?.vector);
    const [layer, value] = [now?.layers[row], now?.strengths[column]];
    if (vector === undefined || layer === undefined || value === undefined) return;
    const { name, on, positions, mode } = vector;
    intent("vector", `vector:${name}`, { name, site: `L${layer}`, on, positions, mode });
    intent("strength", `strength:${name}`, { name, value: Number(value.toFixed(6)), final: true });
  }

  watch(() => {
    const now = map.value;
    show(part.node, now !== null);
    if (now === null) return;
    const columns = now.strengths.length;
    const change = (row: number, column: number): number =>
      (now.metric[row * columns + column] ?? Number.NaN) - now.baseline;
    const scale = diverging(Array.from(now.metric, (value) => value - now.baseline));
    picture.node.style.height = `${now.layers.length * Math.max(6, Math.min(24, 384 / now.layers.length))}px`;
    picture.paint({ rows: now.layers.length, columns, at: change }, scale, theme.value.ramp);
    names(layers, axis, now);
    const stale = partIsStale(panel.value, "map", snapshot.value?.revision ?? 0);
    part.node.classList.toggle("iw-map-old", stale);
    key.paint(scale, theme.value.ramp, `${now.label}: away from the target ↔ toward it`);
    about.paint([
      `${now.vector}, exact`,
      `neutral = ${num(now.baseline)}, without it`,
      !now.done && "filling in",
      stale && OLD,
    ]);
  });
  watch(() => {
    const now = map.value;
    const cell = hovered.value;
    picture.mark(cell);
    line.classList.toggle("iw-fixed-on", cell !== null);
    if (now === null) return;
    setText(
      line,
      cell === null ? "Hover a cell to read it; click it to steer there." : cellWords(now, cell.row, cell.column),
    );
  });
  return part.node;
}

/** The layers' names, and the ends and the middle of the strengths. */
function names(layers: HTMLElement, axis: HTMLElement, map: StrengthMap): void {
  const every = Math.ceil(map.layers.length / MOST_NAMES);
  const label = (layer: number, index: number): string => (index % every === 0 ? `L${layer}` : "");
  reconcile(layers, map.layers.map(label), () => el("span"), setText);
  const last = map.strengths.length - 1;
  const ends = [0, Math.round(last / 2), last].map((index) => signed(map.strengths[index] ?? 0, 1));
  reconcile(axis, ends, () => el("span"), setText);
}
