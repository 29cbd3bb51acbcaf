import { expect, test } from "vitest";
import { f32 } from "../tests/encode.ts";
import { alertsOf, buttonNamed, click, find, head } from "../tests/harness.ts";
import { type OneView, openView } from "../tests/open_view.ts";
import selfRepair from "./index.ts";
import { type Account, siteWords, waterfall } from "./model.ts";

const LAYERS = 4;
const HEADS = 8;
const table = (entries: Record<number, number>): number[] =>
  Array.from({ length: LAYERS * HEADS }, (_, index) => entries[index] ?? 0);
/** L1H0 off; L2H3 (19) restores, L3H1 (25) erodes. */
const DATA = {
  ablated: ["L1H0"],
  mode: "zero",
  reference: "",
  before: 4,
  after: 3,
  direct: 2,
  total: 1,
  repaired: 1,
  heads: f32(table({ 19: 1.5, 25: -0.25 }), [LAYERS, HEADS]),
  mlps: f32([0, 0, 0.25, 0], [LAYERS]),
  norm: -0.5,
  other: 0,
  suppression: f32(table({ 25: 0.46 }), [LAYERS, HEADS]),
  words: "Without L1H0 (zero) the answer goes from 4.000 to 3.000.",
  log: [{ label: "L1H0", direct: 2, total: 1, repaired: 1 }],
  candidates: ["L2H3"],
};
const open = (data: Record<string, unknown> | null = DATA): Promise<OneView> =>
  openView("SelfRepair", selfRepair, data, {});
const line = (root: Element): string => find(root, '[data-iw="fixed"]').textContent ?? "";
const wishes = ({ kernel }: OneView) => kernel.handled.map(({ name, args }) => ({ name, ...args }));

test("backups light up: who restores is orange, who erodes purple, the candidates framed", async () => {
  const { root } = await open();
  expect(head(root, "L2H3").style.backgroundColor).toBe("rgb(179, 88, 6)");
  expect(Number(head(root, "L3H1").dataset.effect)).toBe(-0.25);
  expect(head(root, "L2H3").className).toContain("iw-selected");
  expect(head(root, "L0H0").className).not.toContain("iw-selected");
  expect(head(root, "L2.mlp").style.backgroundColor).toBe("rgb(179, 88, 6)");
});

test("hovering a head says what it restores, and that it is a backup", async () => {
  const { root } = await open();
  head(root, "L2H3").focus();
  expect(line(root)).toBe("L2H3: +1.500 restores, 75 % of what was lost · a backup · copy suppression 0.00");
  head(root, "L3H1").focus();
  expect(line(root)).toContain("L3H1: −0.250 erodes, 13 % of what was lost · copy suppression 0.46");
  head(root, "L2.mlp").focus();
  expect(line(root)).toBe("L2.mlp: +0.250 restores, 13 % of what was lost");
});

test("the sum is a fall whose steps join, from what was lost directly to what was lost in all", async () => {
  const { root } = await open();
  const bars = [...root.querySelectorAll<HTMLElement>(".iw-fall")];
  expect(bars.map((bar) => [bar.dataset.part, Number(bar.dataset.value), bar.dataset.kind])).toEqual([
    ["lost directly", 2, "whole"],
    ["heads", 1.25, "restores"],
    ["MLPs", 0.25, "restores"],
    ["final norm’s scale", -0.5, "erodes"],
    ["lost in all", 1, "whole"],
  ]);
  expect(find(root, '[data-iw="words"]').textContent).toBe(DATA.words);
});

test("every step of the fall begins where the last one ended, and the last ends at the total", () => {
  const account = { ...DATA, heads: { shape: [1, 2], data: [1.25, Number.NaN] }, mlps: { shape: [1], data: [0.25] } };
  const bars = waterfall({ ...(account as unknown as Account), other: 0.125, norm: -0.625 });
  expect(bars.map(({ name }) => name)).toContain("the rest");
  bars.slice(1, -1).forEach((bar, index) => {
    expect(bar.from).toBeCloseTo(bars[index]?.to ?? Number.NaN);
  });
  expect(bars.at(-2)?.to).toBeCloseTo(1);
});

test("one click also ablates the backups; another goes on until nothing restores", async () => {
  const view = await open();
  click(buttonNamed(view.root, "Also ablate the backups"));
  click(buttonNamed(view.root, "Until nothing restores"));
  expect(wishes(view).map(({ action, rounds }: Record<string, unknown>) => [action, rounds])).toEqual([
    ["backups", 1],
    ["backups", 8],
  ]);
});

test("with no backup there is nothing to press, and the reason is said", async () => {
  const { root } = await open({ ...DATA, candidates: [] });
  expect(buttonNamed(root, "Also ablate the backups").disabled).toBe(true);
  expect(root.textContent).toContain("no head restores 5 % of what was lost");
});

test("the log tells what the total did", async () => {
  const log = [...DATA.log, { label: "+ L2H3", direct: 2, total: 2.5, repaired: -0.5 }];
  const { root } = await open({ ...DATA, log });
  const steps = [...root.querySelectorAll<HTMLElement>(".iw-repair-step")];
  expect(steps.map((step) => step.textContent)).toEqual([
    "L1H0lost 1.00 of 2.00 · 50 % repaired",
    "+ L2H3lost 2.50 of 2.00 · 25 % more",
  ]);
});

test("a click switches a head off as everywhere else", async () => {
  const view = await open();
  click(head(view.root, "L2H3"));
  expect(wishes(view).at(-1)).toMatchObject({ name: "ablate", site: "L2H3", off: true });
});

test("colouring by copy suppression leaves the MLPs without a colour of their own meaning", async () => {
  const { root } = await open();
  click(buttonNamed(root, "Copy suppression"));
  expect(Number(head(root, "L3H1").dataset.effect)).toBeCloseTo(0.46, 5);
  expect(head(root, "L2.mlp").className).toContain("iw-empty");
});

test("while nothing is off the view says what to do", async () => {
  const { root } = await open({
    ablated: [],
    mode: "mean",
    words: "",
    log: [],
    candidates: [],
    heads: null,
    mlps: null,
  });
  expect(root.textContent).toContain("Nothing is switched off. Click a head on the left.");
  head(root, "L1H1").focus();
  expect(line(root)).toBe("L1H1: click to switch it off and see who makes up for it");
});

test("an account of before the last change is half as strong, and its buttons wait", async () => {
  const view = await open();
  view.state(view.kernel.revision + 1);
  expect(head(view.root, "L2H3").className).toContain("iw-cell-stale");
  expect(buttonNamed(view.root, "Also ablate the backups").disabled).toBe(true);
});

test("what cannot be accounted for says why", async () => {
  const view = await open();
  view.send(null, "failed", { message: "These are ablated in mean and zero; choose one mode." });
  expect(alertsOf(view.root)[0]).toContain("choose one mode");
});

test("a head that is off is not said to restore", () => {
  const account = { ...DATA, heads: null, mlps: null, suppression: null } as unknown as Account;
  expect(siteWords(account, { heads: [8, 8], mlp: true }, "L1H0")).toContain("is ablated");
  expect(siteWords(account, { heads: [8, 8], mlp: true }, "L0H0")).toBe("L0H0: not measured");
});
