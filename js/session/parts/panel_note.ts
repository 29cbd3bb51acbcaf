/** What there is to say about a panel's own result: stale, waiting for a yes, still coming, stoppable. */

import { button, el, setText, show } from "../../kit/dom.ts";
import { partIsStale } from "../derive.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

/** Watches one part of the panel's data. Work is worth a Stop button once it shows how far it is. */
export function panelNote<T extends ViewTraits>(
  { panel, panelId, snapshot, intent, watch }: PartContext<T>,
  key: string,
): HTMLElement {
  const text = el("span");
  const go = button("Compute", "iw-btn iw-btn-main");
  const stop = button("Stop", "iw-link");
  const node = el("div", "iw-honest iw-panel-note", { role: "status" }, text, go, stop);
  go.addEventListener("click", () => intent("panel", `panel:${panelId}`, { panel: panelId, action: "compute" }));
  stop.addEventListener("click", () => intent("panel", `panel:${panelId}`, { panel: panelId, action: "stop" }));
  watch(() => {
    const now = panel.value;
    const working = now?.status === "computing" || now?.status === "partial";
    const stale = now !== null && now.status !== "failed" && partIsStale(now, key, snapshot.value?.revision ?? 0);
    const said = now?.status === "failed" ? "" : (now?.message ?? "");
    setText(text, [stale && "measured before your last change", said].filter(Boolean).join(" · "));
    show(go, now?.status === "asking");
    show(stop, working && now?.progress != null && now.progress < 1);
    show(node, Boolean(text.textContent) || !go.hidden || !stop.hidden);
  });
  return node;
}
