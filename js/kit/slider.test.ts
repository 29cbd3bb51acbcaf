import { expect, test } from "vitest";
import { rangeOf, type SliderState, slider } from "./slider.ts";

const state: SliderState = {
  name: "sentiment",
  value: 0,
  limit: 1.5,
  units: "+0.00 × difference",
  curve: null,
  curveStale: false,
  caption: "not measured yet",
  text: "",
  warns: false,
  about: "",
};

function make() {
  const calls: unknown[] = [];
  const one = slider(
    {
      move: (v) => calls.push(["move", v]),
      release: (v) => calls.push(["release", v]),
      wrong: (t) => calls.push(["wrong", t]),
    },
    new AbortController().signal,
  );
  document.body.replaceChildren(one.node);
  one.paint(state);
  const input = one.node.querySelector<HTMLInputElement>('input[type="range"]') as HTMLInputElement;
  const field = one.node.querySelector<HTMLInputElement>('input[type="text"]') as HTMLInputElement;
  const drag = (value: string, event: string): void => {
    input.value = value;
    input.dispatchEvent(new Event(event));
  };
  return { one, calls, input, field, drag };
}

test("the range input is labelled by the vector's name and says its value in words", () => {
  const { input } = make();
  expect(input.getAttribute("aria-label")).toBe("sentiment");
  expect(input.getAttribute("aria-valuetext")).toContain("+0.00");
});

test.each([1.5, 3, 0.37, 2.37, 12])("zero is a step of a slider up to %d, exactly", (limit) => {
  const { step, max } = rangeOf(limit);
  expect(max).toBeGreaterThanOrEqual(limit);
  expect(Math.abs(max / step - Math.round(max / step))).toBeLessThan(1e-9);
});

test("dragging moves, letting go releases", () => {
  const { calls, drag } = make();
  drag("0.6", "input");
  drag("0.6", "change");
  expect(calls).toEqual([
    ["move", 0.6],
    ["release", 0.6],
  ]);
});

test("while the thumb is held, a late message does not pull it back", () => {
  const { one, input, drag } = make();
  drag("0.9", "input");
  one.paint({ ...state, value: 0.3 });
  expect(input.value).toBe("0.9");
  drag("0.9", "change");
  one.paint({ ...state, value: 0.3 });
  expect(Number(input.value)).toBe(0.3);
});

test("an exact number may be typed, with a comma or a real minus sign", () => {
  const { calls, field } = make();
  for (const text of ["0.123", "−0,5"]) {
    field.value = text;
    field.dispatchEvent(new Event("change"));
  }
  expect(calls).toEqual([
    ["release", 0.123],
    ["release", -0.5],
  ]);
});

test.each(["nan", "inf", "", "0.5.5", "1e999"])("typing “%s” is said to be wrong and stays in its field", (text) => {
  const { calls, field } = make();
  field.value = text;
  field.dispatchEvent(new Event("change"));
  expect(calls).toEqual([["wrong", text]]);
  expect(field.value).toBe(text);
});

test("a value from Python beyond the limit widens the slider instead of lying", () => {
  const { one, input } = make();
  one.paint({ ...state, value: 4 });
  expect(Number(input.max)).toBeGreaterThanOrEqual(4);
  expect(Number(input.value)).toBe(4);
});
