/** A strip of dots, one per example, with their mean and its interval: how much one number hides. */

import "./dots.css";
import { el, on, reconcile, setAttributes, setText } from "./dom.ts";
import { num } from "./format.ts";

export type DotsState = { values: readonly number[]; mean: number; interval: number | null; chosen: number };
export type Dots = { node: HTMLElement; paint(state: DotsState): void };

export function dots(label: string, choose: (index: number) => void): Dots {
  const band = el("span", "iw-dots-band", { "aria-hidden": "true" });
  const middle = el("span", "iw-dots-mean", { "aria-hidden": "true" });
  const row = el("span", "iw-dots-row", { role: "group", "aria-label": label });
  const [low, high] = [el("span", "iw-num"), el("span", "iw-num")];
  const node = el("div", "iw-dots", {}, low, el("span", "iw-dots-axis", {}, band, middle, row), high);
  on(row, "click", (event) => {
    const index = (event.target as HTMLElement).closest<HTMLElement>("[data-example]")?.dataset.example;
    if (index !== undefined) choose(Number(index));
  });
  return {
    node,
    paint({ values, mean, interval, chosen }) {
      const least = Math.min(...values, mean - (interval ?? 0));
      const most = Math.max(...values, mean + (interval ?? 0));
      const at = (value: number): number => (most > least ? ((value - least) / (most - least)) * 100 : 50);
      setText(low, num(least));
      setText(high, num(most));
      middle.style.left = `${at(mean)}%`;
      band.style.left = `${at(mean - (interval ?? 0))}%`;
      band.style.width = `${at(mean + (interval ?? 0)) - at(mean - (interval ?? 0))}%`;
      const lanes = laneOf(values.map(at));
      row.style.height = `${12 * Math.max(1, 1 + Math.max(0, ...lanes))}px`;
      reconcile(
        row,
        values,
        (index) => el("button", "iw-example-dot", { type: "button", "data-example": index }),
        (dot, value, index) => {
          dot.style.left = `${at(value)}%`;
          dot.style.bottom = `${12 * (lanes[index] ?? 0)}px`;
          setAttributes(dot, {
            "aria-label": `example ${index + 1}: ${num(value)}`,
            "aria-pressed": String(index === chosen),
            title: `example ${index + 1}: ${num(value)}`,
            "data-value": value,
          });
        },
      );
    },
  };
}

/** Dots that would hide each other are stacked, six high at most. */
function laneOf(places: readonly number[]): number[] {
  const stacked = new Map<number, number>();
  return places.map((place) => {
    const column = Math.round(place / 3);
    const lane = stacked.get(column) ?? 0;
    stacked.set(column, (lane + 1) % 6);
    return lane;
  });
}
