import { expect, test } from "vitest";
import { isComposing, isPress, stepInRow } from "./keyboard.ts";

test("arrows step, Home and End jump, and the ends are ends", () => {
  expect(["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "Home", "End"].map((key) => stepInRow(key, 1, 3))).toEqual(
    [2, 2, 0, 0, 0, 2],
  );
  expect(stepInRow("ArrowRight", 2, 3)).toBe(2);
  expect(stepInRow("ArrowLeft", 0, 3)).toBe(0);
});

test("other keys mean nothing, and an empty row has nowhere to go", () => {
  expect(stepInRow("x", 1, 3)).toBeNull();
  expect(stepInRow("End", 0, 0)).toBeNull();
});

test("Enter and the space bar press", () => {
  expect([isPress("Enter"), isPress(" "), isPress("a")]).toEqual([true, true, false]);
});

test("a key that an input method is using is told from a key that is pressed", () => {
  const keys: KeyboardEventInit[] = [{ isComposing: true }, { keyCode: 229 }, {}];
  expect(keys.map((init) => isComposing(new KeyboardEvent("keydown", { key: "Enter", ...init })))).toEqual([
    true,
    true,
    false,
  ]);
});
