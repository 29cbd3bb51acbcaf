import { expect, test } from "vitest";
import { readRamp } from "./colour.ts";
import { diverging } from "./scale.ts";
import { breakLines, lineOf } from "./token_lines.ts";
import { type StripState, tokenStrip } from "./tokens.ts";

const words = ["<bos>", "When", " Mary", "<b>x</b>"];
const state: StripState = {
  tokens: words.map((text, id) => ({ id, text, kind: id === 0 ? ("special" as const) : ("text" as const) })),
  scores: [0, -0.5, 1, Number.NaN],
  scale: diverging([1]),
  ramp: readRamp(() => "", false),
  position: 3,
  stale: false,
};

function make() {
  const seen: unknown[] = [];
  const strip = tokenStrip(
    "prompt",
    { hover: (index) => seen.push(["hover", index]), lock: (index) => seen.push(["lock", index]) },
    new AbortController().signal,
  );
  document.body.replaceChildren(strip.node);
  strip.paint(state);
  const token = (index: number): HTMLElement => strip.node.children[index] as HTMLElement;
  return { strip, seen, token };
}

test("each token carries its index and its exact score", () => {
  const { token } = make();
  expect(token(2).dataset.token).toBe("2");
  expect(token(2).dataset.score).toBe("1");
  expect(token(3).hasAttribute("data-score")).toBe(false);
});

test("special tokens are shown as such and markup stays text", () => {
  const { strip, token } = make();
  expect(token(0).textContent).toContain("⟨bos⟩");
  expect(token(3).textContent).toContain("<b>x</b>");
  expect(strip.node.querySelector("b")).toBeNull();
});

test("the position that is read is marked, once", () => {
  const { strip } = make();
  expect([...strip.node.querySelectorAll(".iw-token-here")].map((node) => (node as HTMLElement).dataset.token)).toEqual(
    ["3"],
  );
});

test("a token says its score to those who cannot see its colour", () => {
  const { token } = make();
  expect(token(2).getAttribute("aria-label")).toBe("␣Mary, +1.00");
  expect(token(3).getAttribute("aria-label")).toContain("the position read");
});

test("the strip is one tab stop; arrows move inside it and hover as they go", () => {
  const { strip, seen, token } = make();
  expect([...strip.node.children].map((node) => (node as HTMLElement).tabIndex)).toEqual([0, -1, -1, -1]);
  token(0).focus();
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  expect(document.activeElement).toBe(token(1));
  expect(seen.at(-1)).toEqual(["hover", 1]);
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  expect(seen.at(-1)).toEqual(["lock", 1]);
});

test("a repaint keeps the nodes, so focus and selection survive", () => {
  const { strip, token } = make();
  const before = token(2);
  strip.paint({ ...state, scores: [0, 0, 0.5, 0] });
  expect(token(2)).toBe(before);
  expect(before.dataset.score).toBe("0.5");
  strip.paint({ ...state, tokens: state.tokens.slice(0, 2) });
  expect(strip.node.childElementCount).toBe(2);
});

test("rings move without a repaint", () => {
  const { strip, token } = make();
  strip.mark(1, 2);
  strip.mark(2, null);
  expect([
    token(1).className.includes("iw-hover"),
    token(2).className.includes("iw-hover"),
    token(2).className.includes("iw-locked"),
  ]).toEqual([false, true, false]);
});

const many = (count: number, text = (id: number) => ` w${id}`): StripState => ({
  ...state,
  tokens: Array.from({ length: count }, (_, id) => ({ id, text: text(id), kind: "text" as const })),
  scores: Array.from({ length: count }, (_, id) => id / count),
});
const inPage = (node: Element): number[] =>
  [...node.querySelectorAll<HTMLElement>("[data-token]")].map((token) => Number(token.dataset.token));

test("of thousands of tokens only the lines in sight are in the page, and scrolling brings the others", () => {
  const { strip } = make();
  strip.paint(many(5000));
  const first = inPage(strip.node);
  expect(first[0]).toBe(0);
  expect(first.length).toBeLessThan(400);
  expect(first).toEqual(first.map((_, index) => index));
  const sheet = strip.node.querySelector<HTMLElement>(".iw-token-lines") as HTMLElement;
  strip.node.scrollTop = Number.parseFloat(sheet.style.height) / 2;
  strip.node.dispatchEvent(new Event("scroll"));
  const later = inPage(strip.node);
  expect(later[0]).toBeGreaterThan(1500);
  expect(later.length).toBeLessThan(400);
  expect(later).toEqual(later.map((_, index) => (later[0] ?? 0) + index));
  const one = strip.node.querySelector<HTMLElement>(`[data-token="${later[3]}"]`);
  expect(Number(one?.dataset.score)).toBe((later[3] ?? 0) / 5000);
});

test("the keyboard reaches tokens that are out of sight, and the ring is there when they come", () => {
  const { strip, seen } = make();
  strip.paint(many(3000));
  strip.mark(null, 2999);
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "End", bubbles: true }));
  const last = strip.node.querySelector<HTMLElement>('[data-token="2999"]');
  expect(document.activeElement).toBe(last);
  expect(last?.className).toContain("iw-locked");
  expect(last?.getAttribute("aria-posinset")).toBe("3000");
  expect(seen.at(-1)).toEqual(["hover", 2999]);
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
  expect((document.activeElement as HTMLElement).dataset.token).toBe("2998");
});

test("who scrolls away from the token with the focus can go on by keyboard", () => {
  const { strip } = make();
  strip.paint(many(3000));
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  strip.node.scrollTop = 4000;
  strip.node.dispatchEvent(new Event("scroll"));
  expect(document.activeElement).toBe(strip.node);
  strip.node.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  expect((document.activeElement as HTMLElement).dataset.token).toBe("2");
});

test("a short prompt after a long one, and a long one after a short one, show their own tokens alone", () => {
  const { strip } = make();
  strip.paint(many(3000));
  strip.paint(many(5));
  expect(inPage(strip.node)).toEqual([0, 1, 2, 3, 4]);
  expect(strip.node.childElementCount).toBe(5);
  strip.paint(many(3000, (id) => ` v${id}`));
  expect(strip.node.querySelector('[data-token="0"]')?.textContent).toContain("v0");
  strip.paint(many(2000, (id) => ` u${id}`));
  expect(strip.node.querySelector('[data-token="7"]')?.textContent).toContain("u7");
});

test("a long prompt of half characters, markup and right-to-left words is shown literally too", () => {
  const words = ["<b>x</b>", "\ud83d", "\u202eabc", "שלום", "\n"];
  const { strip } = make();
  strip.paint(many(1000, (id) => words[id % words.length] as string));
  const text = (index: number): string => strip.node.querySelector(`[data-token="${index}"] bdi`)?.textContent ?? "";
  expect(strip.node.querySelector("b")).toBeNull();
  expect([text(0), text(1), text(2), text(3)]).toEqual(["<b>x</b>", "⟨D83D⟩", "⟨202E⟩abc", "שלום"]);
});

test("lines are full, and no token is lost or told twice", () => {
  const widths = [30, 40, 50, 200, 10, 95, 5, 1];
  expect(breakLines(widths, 100)).toEqual([0, 2, 3, 4, 5, 7]);
  expect(breakLines([], 100)).toEqual([0]);
  const starts = breakLines(widths, 100);
  expect(widths.map((_, index) => lineOf(starts, index))).toEqual([0, 0, 1, 2, 3, 4, 4, 5]);
});
