/** Next tokens, before and after: two marks on one log-odds axis, both numbers printed. */

import "./dumbbell.css";
import { el, reconcile, setAttributes, setText, show } from "./dom.ts";
import { named, percent } from "./format.ts";
import { fraction, logit, logitDomain, logitTicks } from "./scale.ts";

export type Change = { id: number; text: string; kind?: string; before: number; after: number };
export type Dumbbell = { node: HTMLElement; paint(changes: readonly Change[], edited: boolean): void };

export function dumbbell(label: string, plain = "as it is", changed = "edited"): Dumbbell {
  const rows = el("div", "iw-dumbbell-rows", { role: "list", "aria-label": label });
  const axis = el("div", "iw-dumbbell-axis", { "aria-hidden": "true" });
  const before = key("iw-dumbbell-before", plain);
  const after = key("iw-dumbbell-after", changed);
  const keys = el(
    "div",
    "iw-legend",
    {},
    before,
    after,
    el("span", "iw-spacer"),
    el("span", "", {}, "log-odds axis, %"),
  );
  const plot = el("div", "iw-dumbbell-plot", {}, rows, el("div", "iw-dumbbell-line", {}, el("span"), axis));
  const node = el("div", "iw-dumbbell", {}, plot, keys);
  return {
    node,
    paint(changes, edited) {
      const domain = logitDomain(changes.flatMap((change) => [change.before, change.after]));
      reconcile(rows, changes, makeRow, (row, change) => paintRow(row, change, domain, edited));
      reconcile(
        axis,
        logitTicks(domain),
        () => el("span", "iw-dumbbell-tick iw-num"),
        (tick, probability) => {
          tick.style.left = `${fraction(domain, logit(probability)) * 100}%`;
          setText(tick, tickText(probability));
        },
      );
      show(before, edited);
      setText(after.lastElementChild ?? after, edited ? changed : plain);
    },
  };
}

function tickText(probability: number): string {
  return Number((probability * 100).toPrecision(4)).toString();
}

function key(mark: string, text: string): HTMLElement {
  return el("span", "iw-dumbbell-key", {}, el("i", mark), el("span", "", {}, text));
}

function makeRow(): HTMLElement {
  const track = el(
    "span",
    "iw-dumbbell-track",
    { "aria-hidden": "true" },
    el("i", "iw-dumbbell-bar"),
    el("i", "iw-dumbbell-before"),
    el("i", "iw-dumbbell-after"),
  );
  return el(
    "div",
    "iw-dumbbell-row",
    { role: "listitem" },
    el("bdi", "iw-dumbbell-name"),
    track,
    el("span", "iw-dumbbell-numbers iw-num"),
  );
}

function paintRow(row: HTMLElement, change: Change, domain: readonly [number, number], edited: boolean): void {
  const [name, track, numbers] = row.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
  const [bar, before, after] = track.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
  const from = fraction(domain, logit(change.before)) * 100;
  const to = fraction(domain, logit(change.after)) * 100;
  setText(name, named(change));
  before.style.left = `${from}%`;
  after.style.left = `${to}%`;
  bar.style.left = `${Math.min(from, to)}%`;
  bar.style.width = `${Math.abs(from - to)}%`;
  show(before, edited);
  setText(numbers, edited ? `${percent(change.before)} → ${percent(change.after)} %` : `${percent(change.after)} %`);
  setAttributes(row, {
    "data-token-id": change.id,
    "data-probability": change.after,
    "data-plain-probability": change.before,
  });
}
