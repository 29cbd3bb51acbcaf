/** One of a few: a row of buttons of which one is pressed. */

import "./segment.css";
import { button, el, on, reconcile, setText } from "./dom.ts";

export type Option = { value: string; text: string };
export type Segment = { node: HTMLElement; paint(options: readonly Option[], chosen: string): void };

export function segment(label: string, choose: (value: string) => void): Segment {
  const node = el("div", "iw-segment", { role: "group", "aria-label": label });
  on(node, "click", (event) => {
    const value = (event.target as HTMLElement).closest<HTMLElement>("[data-value]")?.dataset.value;
    if (value !== undefined) choose(value);
  });
  return {
    node,
    paint(options, chosen) {
      reconcile(
        node,
        options,
        () => button("", "iw-segment-part"),
        (part, option) => {
          setText(part, option.text);
          part.dataset.value = option.value;
          part.setAttribute("aria-pressed", String(option.value === chosen));
        },
      );
      node.hidden = options.length === 0;
    },
  };
}
