/** A prompt of thousands of tokens, broken into lines here instead of by the browser: only those in sight are in the page. */

import { el } from "./dom.ts";

/** More tokens than this are shown line by line. */
export const LONG = 400;
/** A line with the room under it, as in tokens.css. */
export const LINE = 39;
const AIR = 5;

/** Where each line begins: tokens stand side by side until there is no room for the next one. */
export function breakLines(widths: readonly number[], room: number): number[] {
  const starts = [0];
  let used = 0;
  widths.forEach((width, index) => {
    if (used > 0 && used + width > room) {
      starts.push(index);
      used = 0;
    }
    used += width;
  });
  return starts;
}

/** The line that a token is in. */
export function lineOf(starts: readonly number[], index: number): number {
  let [low, high] = [0, starts.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((starts[middle] ?? 0) <= index) low = middle;
    else high = middle - 1;
  }
  return low;
}

export type Lines = {
  /** Breaks these texts (small ones in a smaller face) anew where they, the face or the room are others. */
  lay(texts: readonly string[], small: (index: number) => boolean): void;
  /** Paints the tokens of every line in sight, also of those that were there before. */
  paint(): void;
  /** Paints the lines that have come into sight. */
  follow(): void;
  /** Scrolls as far as it takes to have a token in the page. */
  reveal(index: number): void;
  clear(): void;
};

/** `token` makes a token's node, or paints the old one. */
export function tokenLines(
  node: HTMLElement,
  token: (index: number, old: Element | undefined) => HTMLElement,
  abort: AbortSignal,
): Lines {
  const sheet = el("div", "iw-token-lines", { role: "presentation" });
  const drawn = new Map<number, HTMLElement>();
  let starts = [0];
  let count = 0;
  let last: readonly unknown[] = [];
  // A host that moves the view sets it back to its top, and no scroll is heard: the lines themselves go out of sight.
  const sight =
    typeof IntersectionObserver === "undefined"
      ? null
      : new IntersectionObserver(() => paint("missing"), { root: node });
  abort.addEventListener("abort", () => sight?.disconnect());

  function paint(only?: "missing"): void {
    const top = Math.max(0, Math.floor(node.scrollTop / LINE) - AIR);
    const bottom = Math.min(starts.length, Math.ceil((node.scrollTop + (node.clientHeight || 260)) / LINE) + AIR);
    for (const [number, line] of drawn) {
      if (number >= top && number < bottom) continue;
      // Who moves by keyboard goes on from here, though the token with the focus is out of sight.
      if (line.contains(document.activeElement)) node.focus({ preventScroll: true });
      line.remove();
      sight?.unobserve(line);
      drawn.delete(number);
    }
    for (let number = top; number < bottom; number += 1) {
      let line = drawn.get(number);
      if (line !== undefined && only !== undefined) continue;
      if (line === undefined) {
        line = el("div", "iw-token-line", { role: "presentation", "data-line": number });
        line.style.top = `${number * LINE}px`;
        // In the order of the prompt also for who reads the page and not the screen.
        const next = [...sheet.children].find((other) => Number((other as HTMLElement).dataset.line) > number);
        sheet.insertBefore(line, next ?? null);
        drawn.set(number, line);
        sight?.observe(line);
      }
      const [from, to] = [starts[number] ?? 0, starts[number + 1] ?? count];
      for (let index = from; index < to; index += 1) {
        const old = line.children[index - from];
        const one = token(index, old);
        if (old === undefined) line.append(one);
      }
    }
  }

  return {
    lay(texts, small) {
      const style = getComputedStyle(node);
      const room = (node.clientWidth || 700) - 12;
      const now = [texts, room, style.font];
      if (sheet.parentNode === node && now.every((one, at) => one === last[at])) return;
      last = now;
      const pen = el("canvas").getContext("2d");
      if (pen !== null) pen.font = style.font;
      const width = (text: string): number => pen?.measureText(text).width ?? 8.4 * text.length;
      starts = breakLines(
        texts.map((text, index) => Math.min(room, Math.max(8, width(text) * (small(index) ? 12 / 14 : 1) + 2))),
        room,
      );
      count = texts.length;
      sight?.disconnect();
      drawn.clear();
      sheet.replaceChildren();
      sheet.style.height = `${starts.length * LINE}px`;
      if (sheet.parentNode !== node) node.replaceChildren(sheet);
    },
    paint: () => paint(),
    follow: () => paint("missing"),
    reveal(index) {
      const top = lineOf(starts, index) * LINE;
      const height = node.clientHeight || 260;
      if (top < node.scrollTop) node.scrollTop = top;
      else if (top + LINE > node.scrollTop + height - 24) node.scrollTop = top + LINE + 24 - height;
      paint("missing");
    },
    clear() {
      sight?.disconnect();
      drawn.clear();
      sheet.remove();
    },
  };
}
