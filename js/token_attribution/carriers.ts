/** Which heads carried a token straight to the answer; a click switches one off, here and in every linked grid. */

import { asArray } from "../kit/codec.ts";
import { button, el, on, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { named, plural, signed } from "../kit/format.ts";
import { modeOf, partIsStale } from "../session/derive.ts";
import type { Panel } from "../session/panels.ts";
import { fields, numberOf, text } from "./model.ts";
import type { Shared } from "./shared.ts";

export type Carrier = { site: string; value: number };
export type Carried = { heads: Carrier[]; rest: number; others: number; layers: number[]; note: string };
const LAYERS = 12;

/** The heads that carried most from a token, and what all others carried together. */
export function carriedFrom(panel: Panel | null, token: number): Carried | null {
  const data = fields(panel?.data.carriers);
  const [layers, heads, values, sums] = [data.layers, data.heads, data.values, data.sums].map(asArray);
  if (layers == null || heads == null || values == null || sums == null)
    return text(data.note) === "" ? null : { heads: [], rest: 0, others: 0, layers: [], note: text(data.note) };
  const count = values.shape[1] ?? 0;
  const found = Array.from({ length: count }, (_, n) => ({
    site: `L${layers.data[token * count + n]}H${heads.data[token * count + n]}`,
    value: values.data[token * count + n] ?? Number.NaN,
  }));
  const rest = (sums.data[token] ?? 0) - found.reduce((sum, { value }) => sum + value, 0);
  const table = asArray(data.layer_sums);
  const width = table?.shape[1] ?? 0;
  const by = Array.from({ length: width }, (_, layer) => table?.data[token * width + layer] ?? Number.NaN);
  return { heads: found, rest, others: numberOf(data.count) - count, layers: by, note: text(data.note) };
}

/** "L0 +0.02 · L1 +0.57": what each layer's heads carried together; of many layers those that carried most. */
export function layerWords(sums: readonly number[]): string {
  const most = sums
    .map((value, layer) => ({ value, layer }))
    .toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .slice(0, LAYERS)
    .toSorted((a, b) => a.layer - b.layer)
    .map(({ value, layer }) => `L${layer} ${signed(value)}`);
  return most.length === 0 ? "" : `By layer ${most.join(" · ")}${sums.length > LAYERS ? " · the others less" : ""}`;
}

export function carriersPart({ context, result, token }: Shared): HTMLElement {
  const { panel, watch, off, state, pending, intent, point, snapshot } = context;
  const list = el("span", "iw-alternatives", { role: "group", "aria-label": "heads that carried it" });
  const before = el("span", "iw-muted");
  const after = el("span", "iw-muted");
  const layers = el("span", "iw-muted iw-num", { "data-iw": "layers" });
  const node = el("div", "iw-carriers", { "data-iw": "carriers" }, before, list, after, layers);
  const siteOf = (event: Event): string | undefined =>
    (event.target as HTMLElement).closest<HTMLElement>("[data-site]")?.dataset.site;
  on(list, "click", (event) => {
    const [site, now] = [siteOf(event), state.peek()];
    if (site === undefined || now === null) return;
    const mode = modeOf(now, pending.peek());
    intent("ablate", `head:${site}`, { site, off: !off.peek().has(site), mode, positions: "all" });
  });
  for (const kind of ["pointerover", "focusin"] as const)
    on(list, kind, (event) => {
      const site = siteOf(event);
      point(site === undefined ? null : { kind: "head", site });
    });
  for (const kind of ["pointerleave", "focusout"] as const) on(list, kind, () => point(null));

  watch(() => {
    const at = token.value;
    const carried = at === null ? null : carriedFrom(panel.value, at);
    const name = at === null ? undefined : result.value?.tokens[at];
    show(node, panel.value?.data.carriers !== undefined);
    if (carried === null || name === undefined) {
      setText(before, "Choose a token to see which heads carried it straight to the answer.");
      setText(after, "");
      setText(layers, "");
      list.replaceChildren();
      return;
    }
    node.classList.toggle("iw-stale", partIsStale(panel.value, "carriers", snapshot.value?.revision ?? 0));
    setText(before, carried.heads.length === 0 ? carried.note : `${named(name)} was carried straight by `);
    setAttributes(node, { title: carried.note });
    reconcile(
      list,
      carried.heads,
      () => button("", "iw-alternative iw-carrier"),
      (one, { site, value }) => {
        setText(one, `${site} ${signed(value)}`);
        setAttributes(one, {
          "data-site": site,
          "data-value": value,
          "aria-label": site,
          "aria-pressed": String(off.value.has(site)),
          title: off.value.has(site) ? "switched off; a click switches it on" : "a click switches it off",
        });
      },
    );
    setText(layers, layerWords(carried.layers));
    setText(after, carried.others > 0 ? ` ${plural(carried.others, "other head")} ${signed(carried.rest)}` : "");
  });
  return node;
}
