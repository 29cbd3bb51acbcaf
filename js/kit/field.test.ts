import { expect, test, vi } from "vitest";
import { entered } from "./field.ts";

function typed(): {
  field: HTMLInputElement;
  take: ReturnType<typeof vi.fn>;
  enter(more?: object): void;
  leave(): void;
} {
  const field = document.createElement("input");
  const take = vi.fn(() => field.value);
  entered(field, take);
  const enter = (more: object = {}): boolean =>
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, ...more }));
  return { field, take, enter, leave: () => field.dispatchEvent(new Event("change")) };
}

test("what is typed is taken at Enter, though JupyterLab keeps the key and the field never changes", () => {
  const { field, take, enter } = typed();
  field.value = "Mary";
  enter();
  expect(take.mock.results.map(({ value }) => value)).toEqual(["Mary"]);
});

test("it is not taken a second time where the change follows, at once or when the field is left", () => {
  const { field, take, enter, leave } = typed();
  field.value = "Mary";
  enter();
  leave();
  expect(take).toHaveBeenCalledTimes(1);
  field.value = "John";
  leave();
  expect(take).toHaveBeenCalledTimes(2);
});

test("what is typed after Enter is taken when the field is left", () => {
  const { field, take, enter, leave } = typed();
  field.value = "Mary";
  enter();
  field.value = "Mary and John";
  leave();
  expect(take.mock.results.map(({ value }) => value)).toEqual(["Mary", "Mary and John"]);
});

test("the same again is taken again at Enter: meanwhile it may have been changed elsewhere", () => {
  const { field, take, enter } = typed();
  field.value = "Mary";
  enter();
  enter();
  expect(take).toHaveBeenCalledTimes(2);
});

test("the Enter that confirms a word of an input method takes nothing", () => {
  const { field, take, enter } = typed();
  field.value = "日本";
  enter({ isComposing: true });
  expect(take).not.toHaveBeenCalled();
});
