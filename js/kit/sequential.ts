/** What has no sign: from the panel's own grey, which is zero, to full colour. */

import "./legend.css";
import { colourAt, css, type Ramp } from "./colour.ts";
import { el, setText } from "./dom.ts";
import { num } from "./format.ts";

export type SequentialLegend = { node: HTMLElement; paint(limit: number, ramp: Ramp, meaning: string): void };

const STOPS = 9;

export function sequentialLegend(): SequentialLegend {
  const high = el("span", "iw-num");
  const ramp = el("span", "iw-ramp", { "aria-hidden": "true" });
  const text = el("span");
  const node = el("div", "iw-legend", {}, el("span", "iw-num", {}, "0"), ramp, high, text);
  return {
    node,
    paint(limit, colours, meaning) {
      setText(high, num(limit));
      const stops = Array.from({ length: STOPS }, (_, index) => css(colourAt(colours, index / (STOPS - 1))));
      ramp.style.backgroundImage = `linear-gradient(90deg, ${stops.join(", ")})`;
      setText(text, meaning);
    },
  };
}
