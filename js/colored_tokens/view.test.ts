import { expect, test, vi } from "vitest";
import { buttonNamed, find } from "../tests/harness.ts";
import { openView } from "../tests/open_view.ts";
import view from "./index.ts";
import { readShown, tokenWords } from "./model.ts";

const tokens = (...texts: string[]) =>
  texts.map((text, id) => ({ id, text, kind: text.startsWith("<") ? "special" : "text" }));
const array = (shape: number[], data: number[]) => ({ shape, data: Float32Array.from(data) });
const sample = (texts: string[], values: unknown, extra = {}) => ({
  name: "",
  tokens: tokens(...texts),
  values,
  extremes: [],
  ...extra,
});
const axis = (name: string, size: number, labels: string[] = []) => ({ name, size, labels });

const findAll = (root: HTMLElement, selector: string): HTMLElement[] => [
  ...root.querySelectorAll<HTMLElement>(selector),
];

async function opened(data: Record<string, unknown>): Promise<HTMLElement> {
  return (await openView("ColoredTokens", view, { axes: [], limit: null, guesses: null, ...data })).root;
}

function hover(root: HTMLElement, index: number): string {
  find(root, `[data-token="${index}"]`).dispatchEvent(new Event("pointerover", { bubbles: true }));
  return find(root, '[data-iw="fixed"]').textContent ?? "";
}

test("one value a token needs no choice, and is read to four digits", async () => {
  const root = await opened({ samples: [sample(["<s>", " cat", "\n"], array([1, 1, 3], [0, -2, 1]))], limit: 2 });
  expect(findAll(root, "select:not([hidden])").filter((one) => one.closest("[hidden]") === null)).toHaveLength(0);
  expect(findAll(root, "[data-token]").map((one) => one.dataset.score)).toEqual(["0", "-2", "1"]);
  expect(hover(root, 2)).toBe("↵ (position 2): +1.0000");
});

test("of several kinds of value one colours the tokens, and all are read out", async () => {
  const root = await opened({
    samples: [sample([" a", " b"], array([1, 2, 2], [1, 2, 3, 4]))],
    axes: [axis("", 1), axis("Value", 2, ["mean", "zero"])],
  });
  expect(hover(root, 1)).toBe("␣b (position 1): mean +2.0000 · zero +4.0000");
  const menu = find<HTMLSelectElement>(root, 'select[aria-label="Value"]');
  menu.value = "1";
  menu.dispatchEvent(new Event("change", { bubbles: true }));
  expect(findAll(root, "[data-token]").map((one) => one.dataset.score)).toEqual(["3", "4"]);
});

test("thousands of neurons are chosen by a number, which must be one of them", async () => {
  const values = Float32Array.from({ length: 2 * 300 * 2 }, (_, at) => at);
  const root = await opened({
    samples: [sample([" a", " b"], { shape: [2, 300, 2], data: values })],
    axes: [axis("Layer", 2), axis("Neuron", 300)],
  });
  const layer = find<HTMLSelectElement>(root, 'select[aria-label="Layer"]');
  layer.value = "1";
  layer.dispatchEvent(new Event("change", { bubbles: true }));
  const neuron = find<HTMLInputElement>(root, 'input[aria-label="Neuron"]');
  neuron.value = "7";
  neuron.dispatchEvent(new Event("input", { bubbles: true }));
  expect(findAll(root, "[data-token]").map((one) => one.dataset.score)).toEqual(["614", "615"]);
  neuron.value = "300";
  neuron.dispatchEvent(new Event("input", { bubbles: true }));
  expect(findAll(root, "[data-token]").map((one) => one.dataset.score)).toEqual(["614", "615"]);
});

test("a number that is none of them stays in its field and is said to be wrong; one that was not finished goes back", async () => {
  const root = await opened({
    samples: [sample([" a"], { shape: [1, 300, 1], data: new Float32Array(300) })],
    axes: [axis("", 1), axis("Neuron", 300)],
  });
  const neuron = find<HTMLInputElement>(root, 'input[aria-label="Neuron"]');
  const said = vi.spyOn(neuron, "reportValidity");
  neuron.focus();
  neuron.value = "300";
  neuron.dispatchEvent(new Event("change", { bubbles: true }));
  neuron.blur();
  expect([neuron.value, said.mock.results.map(({ value }) => value)]).toEqual(["300", [false]]);
  neuron.value = "12";
  neuron.blur();
  neuron.focus();
  neuron.blur();
  expect(neuron.value).toBe("0");
});

test("another sample has its own tokens", async () => {
  const root = await opened({
    samples: [sample([" a"], array([1, 1, 1], [1])), sample([" b", " c"], array([1, 1, 2], [2, 3]))],
  });
  const menu = find<HTMLSelectElement>(root, 'select[aria-label="Sample"]');
  menu.value = "1";
  menu.dispatchEvent(new Event("change", { bubbles: true }));
  expect(findAll(root, "[data-token] bdi").map((one) => one.textContent)).toEqual([" b", " c"]);
});

test("a log probability is read with its rank and what was likeliest in its place", async () => {
  const root = await opened({
    samples: [sample(["<s>", " cat"], array([1, 1, 2], [Number.NaN, Math.log(0.25)]))],
    guesses: {
      tokens: [[], [" dog", " cat"]],
      values: array([2, 2], [Number.NaN, Number.NaN, Math.log(0.5), Math.log(0.25)]),
      ranks: array([2], [0, 2]),
    },
  });
  expect(hover(root, 0)).toBe("⟨s⟩ (position 0): no value");
  expect(hover(root, 1)).toBe("␣cat (position 1): log probability −1.386, 25 %, rank 2");
  const chips = findAll(root, ".iw-guesses [role=listitem]");
  expect(chips.map((one) => one.textContent)).toEqual(["␣dog −0.69", "␣cat −1.39"]);
  expect(chips.map((one) => one.classList.contains("iw-guess-own"))).toEqual([false, true]);
});

test("the largest and the smallest are tables with a column for each neuron, a few at a time", async () => {
  const wide = 8;
  const places = Float32Array.from({ length: 2 * wide }, (_, at) => (at < wide ? 1 : 0));
  const sizes = Float32Array.from({ length: 2 * wide }, (_, at) => 100 - at);
  const extremes = [0, 1].map(() => ({
    tokens: { shape: [1, 2, wide], data: places },
    values: { shape: [1, 2, wide], data: sizes },
  }));
  const root = await opened({
    samples: [sample([" a", "\n"], null, { extremes })],
    axes: [axis("Layer", 1), axis("Neuron", wide)],
  });
  const rows = (): string[] => findAll(root, ".iw-extremes tbody tr").map((row) => row.textContent ?? "");
  expect(rows()).toHaveLength(4);
  expect(rows()[0]).toBe("1↵ 100.000↵ 99.000↵ 98.000↵ 97.000↵ 96.000↵ 95.000");
  const next = buttonNamed(root, "Next ›");
  next.click();
  expect(rows()[1]).toBe("2␣a 86.000␣a 85.000");
  expect(next.disabled).toBe(true);
});

test("halves are read to the three digits that are sure", () => {
  const shown = readShown({
    samples: [sample([" a"], array([1, 1, 1], [-12.3456]), { coarse: true })],
  } as never);
  expect(tokenWords(shown, { sample: 0, first: 0, second: 0 }, 0)).toBe("␣a (position 0): about −12.3");
});
