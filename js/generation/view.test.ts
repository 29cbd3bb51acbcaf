import { expect, test } from "vitest";
import { alertsOf, buttonNamed, click, find } from "../tests/harness.ts";
import { type OneView, openView } from "../tests/open_view.ts";
import generation from "./index.ts";
import { type Branch, bits, endWords, inTree, type Word, wordWords } from "./model.ts";

const word = (text: string, probability: number, other: number | null = null, id = text.length): Word => ({
  id,
  text,
  kind: text.startsWith("<") ? "special" : "text",
  probability,
  other,
  top: [
    [id, text, probability],
    [77, " other", 0.125],
    [78, "<|end|>", 0.0625, "special"],
  ],
});
const branch = (id: number, run: Branch["run"], tokens: Word[], extra: Partial<Branch> = {}): Branch => ({
  id,
  parent: null,
  at: 0,
  run,
  label: run === "plain" ? "as it is" : "edited",
  tokens,
  ended: "length",
  note: "",
  marks: [],
  stale: false,
  ...extra,
});
const PLAIN = branch(0, "plain", [word(" Mary", 0.5, 0.25), word(" left", 0.5, 0.5)]);
const EDITED = branch(1, "edited", [word(" Mary", 0.25, 0.5), word(" sang\n", 0.4, 0.05), word("<eos>", 0.9, 0.9)], {
  ended: "end of text",
});
const CHILD = branch(2, "edited", [word(" wept", 0.1, 0.1)], { parent: 1, at: 1, label: "from edited" });
const DATA = { branches: [PLAIN, EDITED], divergence: 1, running: false, note: "greedy", seed: 0 };
const TRAITS = { tokens: 24, temperature: 0, top_k: 0, top_p: 1, seed: 0, on_change: "restart" };

/** As the kernel tells it: each branch under a name of its own. */
const told = ({ branches, ...rest }: { branches: Branch[]; [key: string]: unknown }) => ({
  ...rest,
  order: branches.map(({ id }) => id),
  ...Object.fromEntries(branches.map((one) => [`branch:${one.id}`, one])),
});
const open = (data: typeof DATA | Record<string, unknown> | null = DATA): Promise<OneView> =>
  openView("Generation", generation, data !== null && "branches" in data ? told(data as typeof DATA) : data, TRAITS);
const line = (root: Element): string => find(root, '[data-iw="fixed"]').textContent ?? "";
const wordAt = (root: Element, id: number, at: number): HTMLElement =>
  find(root, `[data-branch="${id}"] [data-at="${at}"]`);
const wishes = ({ kernel }: OneView) => kernel.handled.map(({ key, args }) => ({ key, ...args }));

test("both texts stand side by side, and the first difference is marked in each", async () => {
  const { root } = await open();
  expect(find(root, '[data-iw="plain-text"]').textContent).toBe(" Mary left");
  expect(find(root, '[data-iw="edited-text"]').textContent).toBe(" Mary sang\n⟨eos⟩");
  expect(root.querySelectorAll(".iw-divergence")).toHaveLength(2);
  expect(root.textContent).toContain("ends here");
});

test("what the edits did to a token is a number in bits, with one sign in both texts", () => {
  expect(bits(word("a", 0.4, 0.1), "edited")).toBeCloseTo(2);
  expect(bits(word("a", 0.4, 0.1), "plain")).toBeCloseTo(-2);
  expect(bits(word("a", 0.4, null), "edited")).toBeNaN();
  expect(bits(word("a", 0.4, 0), "edited")).toBeNaN();
});

test("hovering a token reads both probabilities, edited first in either text", async () => {
  const { root } = await open();
  wordAt(root, 1, 1).focus();
  expect(line(root)).toBe("␣sang↵ · edited 40 %, as it is 5.0 % (8.0 times as likely)");
  wordAt(root, 0, 0).focus();
  expect(line(root)).toBe("␣Mary · edited 25 %, as it is 50 % (2.0 times as unlikely)");
});

test("while the other run's number is not known yet, only one is shown", () => {
  expect(wordWords(word(" x", 0.5), "edited")).toBe("␣x · 50 %");
  expect(wordWords(word(" x", 0.5, 0.5), "plain")).toContain("(as likely)");
});

test("a click shows the alternatives, and one of them branches there", async () => {
  const view = await open();
  click(wordAt(view.root, 1, 1));
  expect(view.root.textContent).toContain("Instead of ␣sang↵ (edited)");
  expect(find<HTMLButtonElement>(view.root, '.iw-choice[data-token-id="6"]').disabled).toBe(true);
  expect(find(view.root, '.iw-choice[data-token-id="78"] > bdi').textContent).toBe("⟨end⟩");
  click(find(view.root, '.iw-choice[data-token-id="77"]'));
  expect(wishes(view)).toEqual([
    { key: "panel:panel:1:1:77", panel: "panel", action: "branch", branch: 1, at: 1, token: 77 },
  ]);
  click(wordAt(view.root, 1, 1));
  expect(find(view.root, ".iw-alternatives").hidden).toBe(true);
});

test("branches stand under the text that they leave, and each can be dropped", async () => {
  const view = await open({ ...DATA, branches: [PLAIN, EDITED, CHILD] });
  const rows = [...view.root.querySelectorAll<HTMLElement>("[data-branch]")].map((row) => row.dataset.branch);
  expect(rows).toEqual(["0", "1", "2"]);
  click(find(view.root, '[data-branch="2"] .iw-text-drop'));
  expect(wishes(view).at(-1)).toMatchObject({ action: "drop", branch: 2 });
});

test("two branches that are dropped quickly are two wishes", async () => {
  const view = await open({ ...DATA, branches: [PLAIN, EDITED, CHILD, { ...CHILD, id: 3 }] });
  for (const id of [2, 3]) click(find(view.root, `[data-branch="${id}"] .iw-text-drop`));
  const keys = wishes(view).map(({ key }) => key);
  expect(new Set(keys).size).toBe(2);
  expect(keys.every((key) => key.startsWith("panel:panel:"))).toBe(true);
});

test("a tree is told in order, children of children further in", () => {
  const deep = branch(3, "edited", [], { parent: 2 });
  expect(inTree([PLAIN, EDITED, CHILD, deep]).map(({ branch: { id }, depth }) => [id, depth])).toEqual([
    [0, 0],
    [1, 0],
    [2, 1],
    [3, 2],
  ]);
});

test("Generate becomes Stop while text is written", async () => {
  const view = await open();
  click(buttonNamed(view.root, "Generate"));
  view.send(told({ ...DATA, branches: [{ ...PLAIN, ended: "" }, EDITED], running: true }), "partial");
  expect(find(view.root, '[data-iw="plain-text"]').className).toContain("iw-running");
  click(buttonNamed(view.root, "Stop"));
  expect(view.kernel.handled.map(({ args }) => args.action)).toEqual(["generate", "stop"]);
});

test("text of before the last change is half as strong, and so is a branch of before", async () => {
  const view = await open({ ...DATA, branches: [PLAIN, EDITED, { ...CHILD, stale: true }] });
  expect(find(view.root, '[data-branch="2"]').className).toContain("iw-stale");
  expect(find(view.root, '[data-branch="1"]').className).not.toContain("iw-stale");
  view.state(view.kernel.revision + 1);
  expect(find(view.root, '[data-branch="1"]').className).toContain("iw-stale");
  expect(view.root.textContent).toContain("written before your last change");
});

test("a place where the edits changed while it was written is marked", async () => {
  const { root } = await open({ ...DATA, branches: [PLAIN, { ...EDITED, marks: [1] }] });
  expect(wordAt(root, 1, 1).className).toContain("iw-changed-here");
});

test("settings are the view's own; sampling's are shown where they count", async () => {
  const { root, model } = await open();
  const field = (name: string): HTMLInputElement => find(root, `input[aria-label="${name}"]`);
  expect(field("seed").closest<HTMLElement>(".iw-setting")?.hidden).toBe(true);
  field("temperature").value = "0.8";
  field("temperature").dispatchEvent(new Event("change"));
  expect(model.saved.at(-1)?.temperature).toBe(0.8);
  expect(field("seed").closest<HTMLElement>(".iw-setting")?.hidden).toBe(false);
  field("tokens").value = "";
  field("tokens").dispatchEvent(new Event("change"));
  expect(field("tokens").value).toBe("24");
});

const setting = (root: Element, name: string): HTMLInputElement => find(root, `input[aria-label="${name}"]`);
function enter(field: HTMLInputElement, text: string): void {
  field.value = text;
  field.dispatchEvent(new Event("change"));
}

test.each([
  ["temperature", "0.75", "temperature", 0.75],
  ["top-p", "0.995", "top_p", 0.995],
  ["seed", "281474976710655", "seed", 2 ** 48 - 1],
])("%s may be %s", async (name, text, trait, value) => {
  const { root, model } = await open();
  const field = setting(root, name);
  enter(field, text);
  expect([model.saved.at(-1)?.[trait], field.value, alertsOf(root)]).toEqual([value, text, []]);
});

test("every number that a field takes is a number to the browser too: none is marked as wrong", async () => {
  const { root } = await open();
  expect(["temperature", "top-p"].map((name) => setting(root, name).step)).toEqual(["any", "any"]);
});

test.each([
  ["tokens", "600", "Tokens: a whole number from 1 to 512, not 600."],
  ["tokens", "12.5", "Tokens: a whole number from 1 to 512, not 12.5."],
  ["temperature", "-1", "Temperature: a number from 0 to 100, not -1."],
  ["top-p", "2", "Top-p: a number from 0.000001 to 1, not 2."],
  ["seed", "281474976710656", "Seed: a whole number from 0 to 281474976710655, not 281474976710656."],
])("%s cannot be %s: it stays in its field, with the reason beside it", async (name, text, sentence) => {
  const { root, model } = await openView("Generation", generation, told(DATA), { ...TRAITS, temperature: 0.5 });
  const field = setting(root, name);
  field.focus();
  enter(field, text);
  field.blur();
  expect([model.saved, field.value, alertsOf(root)]).toEqual([[], text, [sentence]]);
  enter(field, "1");
  expect([model.saved.length, alertsOf(root)]).toEqual([1, []]);
});

test("what is wrong in a field goes with it: sampling's at temperature 0", async () => {
  const { root } = await openView("Generation", generation, told(DATA), { ...TRAITS, temperature: 0.5 });
  enter(setting(root, "top-p"), "2");
  enter(setting(root, "temperature"), "0");
  const [alert] = [...root.querySelectorAll('[role="alert"]')].filter((one) => one.textContent?.includes("Top-p"));
  expect(alert?.closest<HTMLElement>("[hidden]")).not.toBeNull();
});

test("a setting that Python changes does not run over what is being typed, and is there when the field is left", async () => {
  const { root, model } = await open();
  const field = setting(root, "tokens");
  field.focus();
  field.value = "10";
  model.set("tokens", 48);
  expect(field.value).toBe("10");
  field.blur();
  expect(field.value).toBe("48");
});

test("with nothing changed there is one text, and the view says so", async () => {
  const { root } = await open({ ...DATA, branches: [PLAIN, branch(1, "edited", [])], divergence: null });
  expect(root.querySelectorAll("[data-branch]")).toHaveLength(1);
  expect(root.textContent).toContain("nothing is changed, so there is one text");
});

test("an error keeps the text so far, and says why", async () => {
  const view = await open();
  view.send(null, "failed", { message: "The logits are not finite from token 5 on." });
  expect(alertsOf(view.root)[0]).toContain("not finite");
  expect(find(view.root, '[data-iw="plain-text"]').textContent).toBe(" Mary left");
});

test("a text says why it ended only when there is something to say", () => {
  expect(endWords(PLAIN)).toBe("");
  expect(endWords({ ...PLAIN, ended: "stopped" })).toBe("stopped");
  expect(endWords({ ...PLAIN, ended: "context", note: "The context holds 8." })).toBe("context · The context holds 8.");
});
