import { expect, test } from "vitest";
import { readRamp } from "./colour.ts";
import { continuation } from "./continuation.ts";
import { el, setAttributes, svg } from "./dom.ts";
import { dumbbell } from "./dumbbell.ts";
import { alertLine } from "./errors.ts";
import { frame, paintProgress } from "./frame.ts";
import { legend } from "./legend.ts";
import { receipts } from "./receipts.ts";
import { diverging } from "./scale.ts";
import { segment } from "./segment.ts";

const line = { label: "ablate L0H2, mean", site: "L0H2", reason: "", fired: 1, positions: 15, change: 0.34 };

test("an element cannot be given a style, a handler or markup", () => {
  expect(() => el("div", "", { style: "color:red" })).toThrow("style");
  expect(() => setAttributes(svg("g"), { onclick: "x" })).toThrow("onclick");
  expect(el("p", "", {}, "<b>").children).toHaveLength(0);
});

test("both probabilities are printed, and the axis keeps their order", () => {
  const chart = dumbbell("next");
  chart.paint(
    [
      { id: 1, text: " Mary", before: 0.91, after: 0.78 },
      { id: 2, text: " the", before: 0.02, after: 0.05 },
    ],
    true,
  );
  const [first, second] = [...chart.node.querySelectorAll<HTMLElement>("[data-token-id]")];
  expect(first?.textContent).toContain("91 → 78 %");
  expect(first?.dataset.probability).toBe("0.78");
  const left = (row: HTMLElement | undefined): number =>
    Number.parseFloat(row?.querySelector<HTMLElement>(".iw-dumbbell-after")?.style.left ?? "");
  expect(left(first)).toBeGreaterThan(left(second));
});

test("on the plain model there is one mark and one number", () => {
  const chart = dumbbell("next");
  chart.paint([{ id: 1, text: " Mary", before: 0.91, after: 0.91 }], false);
  const row = chart.node.querySelector<HTMLElement>("[data-token-id]");
  expect(row?.textContent).toContain("91 %");
  expect(row?.textContent).not.toContain("→");
  expect(row?.querySelector<HTMLElement>(".iw-dumbbell-before")?.hidden).toBe(true);
});

test.each(["acted", "idle", "cannot reach", "no effect"])("a receipt of the state “%s” says so", (state) => {
  const list = receipts();
  list.paint([{ ...line, state, reason: "because" }]);
  const node = list.node.querySelector<HTMLElement>('[data-iw="receipt"]');
  expect(node?.dataset.state).toBe(state);
  expect(node?.textContent).toContain(state === "acted" ? "15 pos · 34 %" : state);
  expect(node?.textContent?.includes("because")).toBe(state !== "acted");
});

test("a receipt's label survives whole, also without its site in it", () => {
  const list = receipts();
  list.paint([
    { ...line, state: "acted" },
    { ...line, state: "acted", label: "own code", site: "L9" },
  ]);
  const texts = [...list.node.querySelectorAll(".iw-receipt-words")].map((node) => node.textContent);
  expect(texts).toEqual(["ablate L0H2, mean", "own code"]);
});

test("the legend's limits are symmetric, and it says when outliers are compressed", () => {
  const one = legend();
  const ramp = readRamp(() => "", false);
  one.paint(diverging([-1, 2.4], 0.01), ramp, "lost without it");
  expect(one.node.textContent).toBe("−2.40+2.40lost without it · noise ±0.01");
  one.paint(diverging([...Array(40).fill(0.2), 9]), ramp, "lost");
  expect(one.node.textContent).toContain("compressed above ±0.20");
  one.paint(diverging([-3e-4, 1e-4]), ramp, "lost");
  expect(one.node.textContent).toBe("−3e−4+3e−4lost");
});

test("one option of a few is pressed, and a click chooses", () => {
  const chosen: string[] = [];
  const one = segment("mode", (value) => chosen.push(value));
  one.paint(
    [
      { value: "mean", text: "Mean" },
      { value: "zero", text: "Zero" },
    ],
    "zero",
  );
  const buttons = [...one.node.querySelectorAll("button")];
  expect(buttons.map((node) => node.getAttribute("aria-pressed"))).toEqual(["false", "true"]);
  buttons[0]?.click();
  expect(chosen).toEqual(["mean"]);
});

test("an error is an alert with its sentence as text, and leaves when it is over", () => {
  const one = alertLine();
  one.paint("<script>alert(1)</script>");
  expect([one.node.getAttribute("role"), one.node.hidden, one.node.textContent]).toEqual([
    "alert",
    false,
    "<script>alert(1)</script>",
  ]);
  expect(one.node.querySelector("script")).toBeNull();
  one.paint(null);
  expect(one.node.hidden).toBe(true);
});

test("a frame starts busy, and whatever in it takes the focus suppresses the notebook's shortcuts", () => {
  const { root, progress, content } = frame("HeadAblation", "Head ablation");
  expect([root.dataset.widget, root.getAttribute("aria-busy")]).toEqual(["HeadAblation", "true"]);
  const slider = content.appendChild(document.createElement("input"));
  slider.dispatchEvent(new Event("focusin", { bubbles: true }));
  expect(slider.dataset.lmSuppressShortcuts).toBe("true");
  paintProgress(progress, true, 0.5);
  expect((progress.firstElementChild as HTMLElement).style.width).toBe("50%");
});

test("the first difference of two texts is marked, and a probability is read on hover", () => {
  const one = continuation(new AbortController().signal);
  const tokens = (words: string[]) => words.map((text, id) => ({ id, text, probability: 0.25 }));
  one.paint({
    plain: tokens([" a", " b"]),
    edited: tokens([" a", " c"]),
    divergence: 1,
    running: false,
    stale: false,
    note: "greedy",
  });
  expect([...one.node.querySelectorAll(".iw-divergence")].map((node) => node.textContent)).toEqual([" b", " c"]);
  one.node.querySelector(".iw-divergence")?.dispatchEvent(new Event("pointerover", { bubbles: true }));
  expect(one.node.textContent).toContain("␣b · 25 %");
});
