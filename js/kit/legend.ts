/** What the colours mean: symmetric limits, the ramp, what is noise, and whether outliers are compressed. */

import "./legend.css";
import { colourAt, css, type Ramp } from "./colour.ts";
import { el, setText } from "./dom.ts";
import { num } from "./format.ts";
import { type Diverging, isCompressed } from "./scale.ts";

export type Legend = { node: HTMLElement; paint(scale: Diverging, ramp: Ramp, meaning: string): void };

const STOPS = 13;

export function legend(): Legend {
  const low = el("span", "iw-num");
  const high = el("span", "iw-num");
  const ramp = el("span", "iw-ramp", { "aria-hidden": "true" });
  const text = el("span");
  const node = el("div", "iw-legend", {}, low, ramp, high, text);
  return {
    node,
    paint(scale, colours, meaning) {
      const most = num(scale.limit);
      setText(low, `−${most}`);
      setText(high, `+${most}`);
      const stops = Array.from({ length: STOPS }, (_, index) => css(colourAt(colours, (index / (STOPS - 1)) * 2 - 1)));
      ramp.style.backgroundImage = `linear-gradient(90deg, ${stops.join(", ")})`;
      setText(text, `${meaning}${noteOf(scale)}`);
    },
  };
}

function noteOf(scale: Diverging): string {
  const noise = scale.floor > 0 ? ` · noise ±${num(scale.floor, scale.floor < 0.01 ? 4 : 2)}` : "";
  return isCompressed(scale) ? `${noise} · compressed above ±${num(scale.knee)}` : noise;
}
