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
  wrong: false,
};

function make() {
  const calls: unknown[] = [];
  const one = slider(
    {
      move: (v) => calls.push(["move", v]),
      release: (v) => calls.push(["release", v]),
      wrong: (t) => calls.push(["wrong", t]),
      back: () => calls.push(["back"]),
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

test("the exact field shows the value again when it is left, whatever came while it had the focus", () => {
  const { one, field, input } = make();
  field.focus();
  one.paint({ ...state, value: 1.5 });
  expect([field.value, input.value]).toEqual(["+0.00", "1.5"]);
  field.blur();
  expect(field.value).toBe("+1.50");
});

test("what is said to be wrong stays in the exact field when it is left, until nothing is said of it", () => {
  const { one, field } = make();
  field.focus();
  field.value = "a lot";
  one.paint({ ...state, wrong: true });
  field.blur();
  one.paint({ ...state, value: 0.5, wrong: true });
  expect(field.value).toBe("a lot");
  one.paint({ ...state, value: 0.5 });
  expect(field.value).toBe("+0.50");
});

test("Escape, and typing the value itself, take back what was wrong", () => {
  const { calls, field } = make();
  field.focus();
  field.value = "a lot";
  field.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  expect([field.value, calls]).toEqual(["+0.00", [["back"]]]);
  field.value = "+0.00";
  field.dispatchEvent(new Event("change"));
  expect(calls).toEqual([["back"], ["back"]]);
});

test("Enter and Escape of an input method leave the exact field alone", () => {
  const { calls, field } = make();
  field.focus();
  field.value = "１";
  for (const key of ["Enter", "Escape"]) field.dispatchEvent(new KeyboardEvent("keydown", { key, isComposing: true }));
  expect([calls, field.value, document.activeElement]).toEqual([[], "１", field]);
});
