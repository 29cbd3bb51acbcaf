import { expect, test } from "vitest";
import { readRamp } from "./colour.ts";
import { diverging } from "./scale.ts";
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

test("a prompt of thousands of tokens shows its beginning at once and the rest soon after", async () => {
  const { strip } = make();
  const tokens = Array.from({ length: 3000 }, (_, id) => ({ id, text: ` w${id}`, kind: "text" as const }));
  strip.paint({ ...state, tokens, scores: null });
  expect(strip.node.childElementCount).toBe(300);
  await expect.poll(() => strip.node.childElementCount, { timeout: 25_000 }).toBe(3000);
}, 30_000);

test("a newer prompt stops the older one from being painted on", async () => {
  const { strip } = make();
  const tokens = Array.from({ length: 3000 }, (_, id) => ({ id, text: ` w${id}`, kind: "text" as const }));
  strip.paint({ ...state, tokens, scores: null });
  strip.paint({ ...state, tokens: tokens.slice(0, 5), scores: null });
  await new Promise((done) => setTimeout(done, 50));
  expect(strip.node.childElementCount).toBe(5);
});
