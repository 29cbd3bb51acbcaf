/** The steps that led here, the present one marked, and how the number on screen was made. */

import { el, reconcile, setAttributes, setText } from "../../kit/dom.ts";
import { num } from "../../kit/format.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

/** More steps than this would push everything else out of the line. */
const SHOWN = 8;

export function historyBar<T extends ViewTraits>({ frame, watch, state, stable }: PartContext<T>): void {
  const steps = el("span", "iw-steps", { role: "list", "aria-label": "history" });
  const made = el("span", "iw-muted iw-num iw-made");
  frame.foot.append(el("span", "iw-muted", {}, "history"), steps, el("span", "iw-spacer"), made);
  const history = stable(() => state.value?.history ?? { items: [], index: 0 });
  watch(() => {
    const { items, index } = history.value;
    const first = Math.max(0, Math.min(index - SHOWN + 2, items.length - SHOWN));
    const shown = items.slice(first, first + SHOWN).map((item, at) => ({ ...item, here: first + at === index }));
    reconcile(
      steps,
      shown,
      () => el("span", "iw-step", { role: "listitem" }, el("b", "iw-num"), el("span")),
      (node, item) => {
        const metric = node.children[0] as HTMLElement;
        setText(metric, item.metric === null ? "" : num(item.metric));
        metric.hidden = item.metric === null;
        setText(node.children[1] as Element, item.label);
        setAttributes(node, { "aria-current": item.here ? "step" : null });
      },
    );
    // The present step stays in sight when the line is too short for all. Not here: to ask where it is lays the whole page out.
    requestAnimationFrame(() => {
      const here = steps.querySelector<HTMLElement>("[aria-current]");
      if (here !== null) steps.scrollLeft = here.offsetLeft + here.offsetWidth + 12 - steps.clientWidth;
    });
  });
  watch(() => {
    const ms = state.value?.answer?.milliseconds;
    setText(made, ms === undefined ? "" : `exact · ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);
  });
}
