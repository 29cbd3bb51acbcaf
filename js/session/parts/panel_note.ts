/** What there is to say about a panel's own result: stale, waiting for a yes. */

import { button, el, on, setText, show } from "../../kit/dom.ts";
import { duration } from "../../kit/format.ts";
import { OLD, partIsStale } from "../derive.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

/** Says when a part of the panel's data is old: named by its key, or as `old` sees it. Its line keeps its room when it is empty, so nothing moves with every click. */
export function panelNote<T extends ViewTraits>(
  { panel, panelId, snapshot, intent, watch }: PartContext<T>,
  old: string | (() => boolean),
): HTMLElement {
  const isStale = typeof old === "function" ? old : () => partIsStale(panel.value, old, snapshot.value?.revision ?? 0);
  const text = el("span");
  const go = button("Compute", "iw-btn iw-btn-main");
  const stop = button("Stop", "iw-btn");
  const node = el("div", "iw-honest iw-panel-note", { role: "status" }, text, go, stop);
  for (const [one, action] of [
    [go, "compute"],
    [stop, "stop"],
  ] as const) {
    on(one, "click", () => intent("panel", `panel:${panelId}`, { panel: panelId, action }));
  }
  watch(() => {
    const now = panel.value;
    const stale = now !== null && now.status !== "failed" && isStale();
    const said = now?.status === "failed" ? "" : (now?.message ?? "");
    setText(text, [stale && OLD, said].filter(Boolean).join(" · "));
    const estimate = now?.data.estimate_seconds;
    setText(go, typeof estimate === "number" ? `Compute (about ${duration(estimate)})` : "Compute");
    show(go, now?.status === "asking");
    show(stop, now?.status === "partial" && typeof estimate === "number");
  });
  return node;
}
