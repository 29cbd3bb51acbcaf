/** A strip of tokens: each one a word of the prompt, a number behind it as tint and bar, the read position under ▲. */

import "./tokens.css";
import { colourAt, css, type Ramp } from "./colour.ts";
import { el, on, reconcile, setAttributes, setText } from "./dom.ts";
import { named, signed, visible } from "./format.ts";
import { isPress, stepInRow } from "./keyboard.ts";
import { type Diverging, place } from "./scale.ts";
import { LONG, tokenLines } from "./token_lines.ts";

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
export function tokenStrip(label: string, actions: StripActions, abort: AbortSignal): Strip {
  const node = el("div", "iw-tokens", { role: "list", "aria-label": label, dir: "ltr" });
  let active = 0;
  let anchor = 0;
  let marked: [hover: number | null, lock: number | null] = [null, null];
  let shown: StripState | null = null;
  let long = false;
  const options = { signal: abort };

  const indexOf = (event: Event): number | null => {
    const token = (event.target as Element).closest?.("[data-token]");
    return token instanceof HTMLElement ? Number(token.dataset.token) : null;
  };
  const tokenAt = (index: number | null): HTMLElement | null =>
    index === null ? null : node.querySelector<HTMLElement>(`[data-token="${index}"]`);

  function goto(index: number): void {
    if (long) lines.reveal(index);
    const next = tokenAt(index);
    if (next === null) return;
    tokenAt(active)?.setAttribute("tabindex", "-1");
    active = index;
    next.tabIndex = 0;
    next.focus();
  }

  on(node, "pointerover", (event) => actions.hover(indexOf(event)), options);
  on(node, "pointerleave", () => actions.hover(null), options);
  on(node, "focusin", (event) => actions.hover(indexOf(event)), options);
  on(node, "focusout", () => actions.hover(null), options);
  on(
    node,
    "mousedown",
    (event) => {
      if (event.shiftKey && actions.extend !== undefined) event.preventDefault(); // else the words would be marked as text
    },
    options,
  );
  on(
    node,
    "click",
    (event) => {
      const index = indexOf(event);
      if (event.shiftKey && index !== null && actions.extend !== undefined) actions.extend(anchor, index);
      else lockAt(index);
      anchor = event.shiftKey ? anchor : (index ?? anchor);
    },
    options,
  );
  on(
    node,
    "keydown",
    (event) => {
      const target = stepInRow(event.key, active, shown?.tokens.length ?? 0);
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

  const lines = tokenLines(
    node,
    (index, old) => {
      const state = shown as StripState;
      const one = drawToken(state, index, old);
      setAttributes(one, { "aria-setsize": state.tokens.length, "aria-posinset": index + 1 });
      return one;
    },
    abort,
  );

  function drawToken(state: StripState, index: number, old: Element | undefined): HTMLElement {
    const one = (old as HTMLElement | undefined) ?? makeToken(index);
    const token = state.tokens[index];
    if (token !== undefined) paintToken(one, token, index, state);
    one.tabIndex = index === active ? 0 : -1;
    markOne(one, index);
    return one;
  }

  function markOne(one: HTMLElement, index: number): void {
    one.classList.toggle("iw-hover", index === marked[0]);
    one.classList.toggle("iw-locked", index === marked[1]);
  }

  let texts: { of: readonly StripToken[]; spelled: string[] } | null = null;

  function paintLines(): void {
    if (shown === null || !long) return;
    const { tokens } = shown;
    if (texts?.of !== tokens) texts = { of: tokens, spelled: tokens.map(visible) };
    lines.lay(texts.spelled, (index) => tokens[index]?.kind !== "text");
    lines.paint();
    findTabStop();
  }

  /** The strip is one tab stop: the active token, or the strip itself while that token is out of sight. */
  function findTabStop(): void {
    node.tabIndex = long && tokenAt(active) === null ? 0 : -1;
  }
  on(
    node,
    "scroll",
    () => {
      if (!long) return;
      lines.follow();
      findTabStop();
    },
    options,
  );
  if (typeof ResizeObserver !== "undefined") {
    const sized = new ResizeObserver(paintLines);
    sized.observe(node);
    abort.addEventListener("abort", () => sized.disconnect());
  }

  function paint(state: StripState): void {
    shown = state;
    if (active >= state.tokens.length) active = 0;
    node.classList.toggle("iw-stale", state.stale);
    if (long !== state.tokens.length > LONG) {
      long = !long;
      lines.clear();
      node.replaceChildren();
      findTabStop();
    }
    if (long) {
      paintLines();
      return;
    }
    reconcile(node, state.tokens, makeToken, (one, _, index) => drawToken(state, index, one));
  }

  function mark(hover: number | null, lock: number | null): void {
    const before = marked;
    marked = [hover, lock];
    for (const index of new Set([...before, ...marked])) {
      const one = tokenAt(index);
      if (one !== null && index !== null) markOne(one, index);
    }
  }

  return { node, paint, mark };
}

function makeToken(index: number): HTMLElement {
  const bar = el("i", "iw-token-bar", { "aria-hidden": "true" });
  const read = el("span", "iw-token-read", { "aria-hidden": "true" }, "▲");
  return el("span", "iw-token", { role: "listitem", "data-token": index }, el("bdi", "iw-token-text"), bar, read);
}

function paintToken(node: HTMLElement, token: StripToken, index: number, state: StripState): void {
  const score = state.scores?.[index] ?? Number.NaN;
  const position = place(state.scale, score);
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
  const value = Number.isNaN(score) ? "" : `, ${signed(score)}`;
  const here = index === state.position ? ", the position read" : "";
  setAttributes(node, {
    "data-token": index,
    "data-score": Number.isNaN(score) ? null : score,
    "aria-label": `${named(token)}${value}${here}${chosen ? ", chosen" : ""}${gone ? ", replaced" : ""}`,
  });
}
