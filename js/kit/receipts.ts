/** What was done, line by line: only an edit that was asked to act and did not is red. */

import "./receipts.css";
import { el, reconcile, setText } from "./dom.ts";
import { percent, plural } from "./format.ts";

export type ReceiptLine = {
  label: string;
  site: string;
  state: string;
  reason: string;
  fired: number;
  positions: number;
  change: number;
};
export type Receipts = { node: HTMLElement; paint(lines: readonly ReceiptLine[]): void };

export function receipts(): Receipts {
  const list = el("div", "iw-receipts", { role: "list", "aria-label": "receipts" });
  const none = el("div", "iw-muted", {}, "Nothing is switched off or pushed: this is the plain model.");
  const node = el("div", "", {}, list, none);
  return {
    node,
    paint(lines) {
      none.hidden = lines.length > 0;
      reconcile(list, lines, makeLine, paintLine);
    },
  };
}

function makeLine(): HTMLElement {
  const words = el("span", "iw-receipt-words", {}, el("span"), el("b", "iw-num"), el("span"));
  return el(
    "div",
    "iw-receipt",
    { role: "listitem", "data-iw": "receipt" },
    el("i", "iw-dot", { "aria-hidden": "true" }),
    words,
    el("span", "iw-receipt-figure iw-num"),
    el("span", "iw-receipt-reason"),
  );
}

function paintLine(node: HTMLElement, line: ReceiptLine): void {
  node.dataset.state = line.state;
  const [, words, figure, reason] = node.children as unknown as HTMLElement[] as [
    HTMLElement,
    HTMLElement,
    HTMLElement,
    HTMLElement,
  ];
  for (const [index, text] of split(line.label, line.site).entries()) setText(words.children[index] as Element, text);
  setText(figure, figureOf(line));
  setText(reason, line.state === "acted" ? "" : line.reason);
  reason.hidden = line.state === "acted" || line.reason === "";
}

function figureOf(line: ReceiptLine): string {
  if (line.state !== "acted") return line.state;
  const change = Number.isFinite(line.change) ? ` · ${percent(line.change)} %` : "";
  return `${plural(line.positions, "pos", "pos")}${change}`;
}

/** The label with its site set apart, so that it can be set in bold. */
function split(label: string, site: string): [string, string, string] {
  const at = site === "" ? -1 : label.indexOf(site);
  return at < 0 ? [label, "", ""] : [label.slice(0, at), site, label.slice(at + site.length)];
}
