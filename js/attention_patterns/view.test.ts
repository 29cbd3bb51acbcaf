import { expect, test } from "vitest";
import { f32 } from "../tests/encode.ts";
import { alertsOf, buttonNamed, click, find, head } from "../tests/harness.ts";
import { type OneView, openView } from "../tests/open_view.ts";
import { largeOf, madePatterns } from "../tests/patterns.ts";
import attention from "./index.ts";

const traits = { show: "now", layer: 1, head: 2 };
const open = (data = madePatterns()): Promise<OneView> => openView("AttentionPatterns", attention, data, traits);
const fixed = (root: Element, which = "fixed"): string => find(root, `[data-iw="${which}"]`).textContent ?? "";
const large = (root: Element): HTMLElement => find(root, '[data-iw="large-head"]');
const wishes = ({ kernel }: OneView) => kernel.handled.map(({ name, key, args }) => ({ name, key, ...args }));
const key = (node: Element, name: string): void => {
  node.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
};

/** Walks to a cell of the large pattern by the keyboard, as no test has a layout to point into. */
function goto(root: Element, row: number, column: number): HTMLElement {
  const map = find(root, ".iw-heatmap");
  for (let step = 0; step < row; step += 1) key(map, "ArrowDown");
  for (let step = 0; step < column; step += 1) key(map, "ArrowRight");
  return map;
}

test("every head is a button, and the large pattern says whose it is", async () => {
  const { root } = await open();
  expect(root.querySelectorAll("button.iw-thumb")).toHaveLength(12);
  expect([large(root).textContent, large(root).dataset.exact]).toEqual(["L1H2", "true"]);
});

test("hovering a head previews it from its thumbnail and names its scores, without the kernel", async () => {
  const view = await open();
  const before = view.session.sent.length;
  head(view.root, "L2H3").focus();
  expect([large(view.root).textContent, large(view.root).dataset.exact]).toEqual(["L2H3", "false"]);
  expect(fixed(view.root)).toContain("L2H3: previous token 0.10");
  expect(fixed(view.root)).toContain("induction 0.75");
  expect(view.session.sent.length).toBe(before);
  head(view.root, "L2H3").blur();
  expect(large(view.root).textContent).toBe("L1H2");
});

test("a click locks a head and asks for its exact values; a second click lets go", async () => {
  const view = await open();
  click(head(view.root, "L0H1"));
  expect(wishes(view)).toEqual([
    { name: "panel", key: "panel:panel", panel: "panel", action: "head", layer: 0, head: 1 },
  ]);
  expect(head(view.root, "L0H1").getAttribute("aria-pressed")).toBe("true");
  view.send({ large: largeOf(0, 1, Array(21).fill(0.25), 6) });
  expect([large(view.root).textContent, large(view.root).dataset.exact]).toEqual(["L0H1", "true"]);
  head(view.root, "L2H2").focus();
  expect(large(view.root).textContent).toBe("L0H1");
  click(head(view.root, "L0H1"));
  expect(head(view.root, "L0H1").getAttribute("aria-pressed")).toBe("false");
});

test("what is locked can be unlocked by a button that says what it lets go", async () => {
  const { root } = await open();
  click(head(root, "L0H1"));
  click(buttonNamed(root, "Unlock L0H1"));
  expect(head(root, "L0H1").getAttribute("aria-pressed")).toBe("false");
});

test("a cell reads out the exact number and hovers its source token in every view", async () => {
  const { root, send } = await open();
  send(madePatterns());
  goto(root, 4, 1);
  expect(fixed(root, "fixed-cell")).toContain("↵ (4) looks at When (1): 0.8125");
  expect(find(root, '[data-token="1"]').className).toContain("iw-hover");
  expect(fixed(root, "fixed-token")).toContain("(position 4)");
});

test("the token strip shows where the read token looks, and after a switch who looks at it", async () => {
  const view = await open();
  view.kernel.state.question = {
    ...(view.kernel.state.question as NonNullable<typeof view.kernel.state.question>),
    tokens: madePatterns().tokens as never,
    position: 5,
  };
  view.state(view.kernel.revision + 1);
  expect(find(view.root, '[data-token="2"]').dataset.score).toBe("0.8125");
  click(buttonNamed(view.root, "To this token"));
  expect(find(view.root, '[data-token="5"]').dataset.score).toBe("0.015625");
  expect(find(view.root, '[data-token="2"]').dataset.score).toBeUndefined();
});

test("a locked cell's edge is cut and mended, each as one absolute wish", async () => {
  const view = await open();
  const map = goto(view.root, 4, 1);
  key(map, "Enter");
  view.kernel.handled.length = 0;
  click(buttonNamed(view.root, "Cut this edge"));
  const edge = { site: "L1H2", dest: 4, src: 1 };
  expect(wishes(view)).toEqual([{ name: "edge", key: "edge:L1H2:4:1", ...edge, off: true }]);
  view.kernel.state.interventions = [
    {
      key: "edge:L1H2:4:1",
      kind: "ablate",
      site: "L1H2",
      label: "ablate L1H2, edge 4 ← 1",
      on: true,
      mode: "edge",
      positions: "all",
      coefficient: null,
      vector: null,
      code: "",
    },
  ];
  view.state(view.kernel.revision + 1);
  expect(view.root.textContent).toContain("1 edge cut");
  expect(view.root.querySelectorAll(".iw-large-cut")).toHaveLength(1);
  click(buttonNamed(view.root, "Mend this edge"));
  expect(wishes(view).at(-1)).toEqual({ name: "edge", key: "edge:L1H2:4:1", ...edge, off: false });
});

test("a cut edge does not pass for a head that is off", async () => {
  const view = await open();
  view.kernel.state.interventions = [
    {
      key: "edge:L1H2:4:1",
      kind: "ablate",
      site: "L1H2",
      label: "ablate L1H2, edge 4 ← 1",
      on: true,
      mode: "edge",
    } as never,
  ];
  view.state(view.kernel.revision + 1);
  expect(find(view.root, ".iw-bar-summary").textContent).toBe("ablate L1H2, edge 4 ← 1");
});

test("scores colour the thumbnails, and on request sort them", async () => {
  const { root } = await open();
  click(buttonNamed(root, "Induction"));
  const box = find<HTMLInputElement>(root, 'input[type="checkbox"]');
  box.checked = true;
  box.dispatchEvent(new Event("change"));
  const names = [...root.querySelectorAll("button.iw-thumb")].map((one) => one.getAttribute("aria-label"));
  expect(names.slice(0, 2)).toEqual(["L2H3", "L0H3"]);
});

test("difference and value-weighted are the view's own settings", async () => {
  const { root, model, send } = await open();
  click(buttonNamed(root, "Difference"));
  expect(model.saved.at(-1)?.show).toBe("difference");
  expect(buttonNamed(root, "Difference").getAttribute("aria-pressed")).toBe("true");
  send(madePatterns(3, 4, 6, true));
  expect(root.textContent).toContain("nothing is changed, so the difference is zero everywhere");
});

test("patterns of before the last change are half as strong, and say so", async () => {
  const view = await open();
  view.state(view.kernel.revision + 1);
  expect(find(view.root, ".iw-thumbs").className).toContain("iw-stale");
  expect(view.root.textContent).toContain("measured before your last change");
});

test("what cannot be read says why", async () => {
  const view = await open();
  view.send(null, "failed", { message: "This model's attention cannot be read: its kernel returns no weights." });
  expect(alertsOf(view.root)[0]).toContain("cannot be read");
});

test("an edge that is refused says why, and is mended on screen", async () => {
  const view = await open();
  key(goto(view.root, 4, 1), "Enter");
  view.kernel.alive = false;
  click(buttonNamed(view.root, "Cut this edge"));
  expect(view.root.textContent).toContain("1 edge cut");
  const { client, seq } = view.session.sent.at(-1) as { client: string; seq: number };
  view.session.receive({
    kind: "refused",
    client,
    seq,
    key: "edge:L1H2:4:1",
    message: "Patterns cannot be written here.",
  });
  expect(view.root.textContent).not.toContain("1 edge cut");
  expect(alertsOf(view.root)[0]).toContain("cannot be written");
});

test("thousands of heads have one button, which goes where the keyboard goes", async () => {
  const { root } = await open(madePatterns(48, 64, 6));
  expect(root.querySelectorAll("button.iw-thumb")).toHaveLength(1);
  const one = find<HTMLButtonElement>(root, "button.iw-thumb");
  one.focus();
  key(one, "ArrowDown");
  key(one, "ArrowRight");
  expect(one.getAttribute("aria-label")).toBe("L1H1");
  click(one);
  expect(large(root).textContent).toBe("L1H1");
});

test("an answer without any repeated token still shows its heads", async () => {
  const { root } = await open({ ...madePatterns(), scores: { induction: f32(Array(12).fill(Number.NaN), [3, 4]) } });
  head(root, "L0H0").focus();
  expect(fixed(root)).toContain("induction – (no token comes twice)");
});
