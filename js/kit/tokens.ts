/** A strip of tokens: each one a word of the prompt, a number behind it as tint and bar, the read position under ▲. */

import "./tokens.css";
import { colourAt, css, type Ramp } from "./colour.ts";
import { el, setAttributes, setText } from "./dom.ts";
import { named, signed, visible } from "./format.ts";
import { isPress, stepInRow } from "./keyboard.ts";
import { type Diverging, place } from "./scale.ts";

export type StripToken = { id: number; text: string; kind: "text" | "special" | "byte" };

export type StripState = {
  tokens: readonly StripToken[];
  /** One number per token, or null where nothing is measured. */
  scores: ArrayLike<number> | null;
  scale: Diverging;
  ramp: Ramp;
  /** The index that is read, marked ▲; null hides the mark. */
  position: number | null;
  stale: boolean;
  /** Tokens that were picked for something, with an inner ring. */
  chosen?: ReadonlySet<number>;
  /** Tokens that are read together with the one before them. */
  joined?(index: number): boolean;
  /** Tokens that are taken away for now. */
  gone?: ReadonlySet<number>;
};

export type StripActions = {
  hover(index: number | null): void;
  lock(index: number): void;
  /** Shift and a click, or Shift and an arrow: from one token to another, both included. */
  extend?(from: number, to: number): void;
};

export type Strip = {
  node: HTMLElement;
  paint(state: StripState): void;
  /** Rings, without repainting the tokens: what is hovered and what is locked. */
  mark(hover: number | null, lock: number | null): void;
};

/** The token that a mark is on, if it is on one. */
export function tokenIndex(mark: { kind: string; index?: number } | null): number | null {
  return mark?.kind === "token" ? (mark.index ?? null) : null;
}

/** How much of the colour tints the word itself; the bar under it has all of it. */
const TINT = 0.38;
/** More than the strip shows at once, which scrolls. */
const CHUNK = 300;

export function tokenStrip(label: string, actions: StripActions, abort: AbortSignal): Strip {
  const node = el("div", "iw-tokens", { role: "list", "aria-label": label, dir: "ltr" });
  let active = 0;
  let anchor = 0;
  let hovered: Element | null = null;
  let locked: Element | null = null;
  const options = { signal: abort };

  const indexOf = (event: Event): number | null => {
    const token = (event.target as Element).closest?.("[data-token]");
    return token instanceof HTMLElement ? Number(token.dataset.token) : null;
  };
  const tokenAt = (index: number | null): HTMLElement | null =>
    index === null ? null : node.querySelector<HTMLElement>(`[data-token="${index}"]`);

  function goto(index: number): void {
    const next = tokenAt(index);
    if (next === null) return;
    tokenAt(active)?.setAttribute("tabindex", "-1");
    active = index;
    next.tabIndex = 0;
    next.focus();
  }

  node.addEventListener("pointerover", (event) => actions.hover(indexOf(event)), options);
  node.addEventListener("pointerleave", () => actions.hover(null), options);
  node.addEventListener("focusin", (event) => actions.hover(indexOf(event)), options);
  node.addEventListener("focusout", () => actions.hover(null), options);
  node.addEventListener(
    "mousedown",
    (event) => {
      if (event.shiftKey && actions.extend !== undefined) event.preventDefault(); // else the words would be marked as text
    },
    options,
  );
  node.addEventListener(
    "click",
    (event) => {
      const index = indexOf(event);
      if (event.shiftKey && index !== null && actions.extend !== undefined) actions.extend(anchor, index);
      else lockAt(index);
      anchor = event.shiftKey ? anchor : (index ?? anchor);
    },
    options,
  );
  node.addEventListener(
    "keydown",
    (event) => {
      const target = stepInRow(event.key, active, node.childElementCount);
      if (target !== null) {
        event.preventDefault();
        if (!event.shiftKey) anchor = target;
        goto(target);
        if (event.shiftKey) actions.extend?.(anchor, target);
      } else if (isPress(event.key)) {
        event.preventDefault();
        lockAt(active);
      }
    },
    options,
  );

  function lockAt(index: number | null): void {
    // Selecting text with the mouse is not a click on a token.
    if (index !== null && (globalThis.getSelection?.()?.isCollapsed ?? true)) actions.lock(index);
  }

  let pass = 0;

  /** A prompt of tens of thousands of tokens is painted a chunk at a time, so that the first is on screen at once. */
  function paint(state: StripState): void {
    if (active >= state.tokens.length) active = 0;
    node.classList.toggle("iw-stale", state.stale);
    while (node.childElementCount > state.tokens.length) node.lastElementChild?.remove();
    pass += 1;
    paintFrom(0, state, pass);
  }

  function paintFrom(start: number, state: StripState, mine: number): void {
    if (mine !== pass || abort.aborted) return;
    const end = Math.min(state.tokens.length, start + CHUNK);
    for (let index = start; index < end; index += 1) {
      const token = state.tokens[index];
      if (token === undefined) continue;
      const one = (node.children[index] as HTMLElement | undefined) ?? node.appendChild(makeToken(index));
      paintToken(one, token, index, state);
      one.tabIndex = index === active ? 0 : -1;
    }
    if (end < state.tokens.length) setTimeout(() => paintFrom(end, state, mine));
  }

  function mark(hover: number | null, lock: number | null): void {
    hovered?.classList.remove("iw-hover");
    locked?.classList.remove("iw-locked");
    hovered = tokenAt(hover);
    locked = tokenAt(lock);
    hovered?.classList.add("iw-hover");
    locked?.classList.add("iw-locked");
  }

  return { node, paint, mark };
}

function makeToken(index: number): HTMLElement {
  const bar = el("i", "iw-token-bar", { "aria-hidden": "true" });
  const read = el("span", "iw-token-read", { "aria-hidden": "true" }, "▲");
  return el("span", "iw-token", { role: "listitem", "data-token": index }, el("bdi", "iw-token-text"), bar, read);
}

function paintToken(node: HTMLElement, token: StripToken, index: number, state: StripState): void {
  const score = state.scores?.[index];
  const position = score === undefined ? Number.NaN : place(state.scale, score);
  const colour = colourAt(state.ramp, position);
  const [text, bar] = node.children as unknown as [HTMLElement, HTMLElement];
  setText(text, visible(token));
  node.style.backgroundColor = css(colour, Math.abs(position) * (state.stale ? TINT / 2 : TINT));
  bar.style.backgroundColor = css(colour);
  node.classList.toggle("iw-token-special", token.kind !== "text");
  node.classList.toggle("iw-token-here", index === state.position);
  const chosen = state.chosen?.has(index) ?? false;
  node.classList.toggle("iw-token-chosen", chosen);
  node.classList.toggle("iw-token-joined", state.joined?.(index) ?? false);
  const gone = state.gone?.has(index) ?? false;
  node.classList.toggle("iw-token-gone", gone);
  const value = score === undefined || Number.isNaN(score) ? "" : `, ${signed(score)}`;
  const here = index === state.position ? ", the position read" : "";
  setAttributes(node, {
    "data-token": index,
    "data-score": score === undefined || Number.isNaN(score) ? null : score,
    "aria-label": `${named(token)}${value}${here}${chosen ? ", chosen" : ""}${gone ? ", replaced" : ""}`,
  });
}
