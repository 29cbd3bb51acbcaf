import { expect, test } from "vitest";
import { colourAt, contrast, css, luminance, parseColour, readRamp } from "./colour.ts";

const ramp = readRamp(() => "", false);

test("zero is the panel's own grey and the ends are the ends", () => {
  expect(css(colourAt(ramp, 0))).toBe("rgb(244, 244, 246)");
  expect(css(colourAt(ramp, 1))).toBe(css(colourAt(ramp, 7)));
  expect(css(colourAt(ramp, -1))).toBe("rgb(84, 39, 136)");
});

test("what is not a number has no colour", () => {
  expect(colourAt(ramp, Number.NaN)).toBeNull();
  expect(css(null)).toBe("transparent");
});

test("a ramp is read from CSS variables, and one that is not a colour falls back", () => {
  const read = readRamp((name) => (name === "--iw-zero" ? "#102030" : "url(evil)"), true);
  expect(css(colourAt(read, 0))).toBe("rgb(16, 32, 48)");
  expect(css(colourAt(read, 1))).toBe("rgb(255, 180, 92)");
});

test("colours are parsed as hex or rgb, nothing else", () => {
  expect(parseColour("#fff")).toEqual([255, 255, 255]);
  expect(parseColour("rgb(1, 2, 3)")).toEqual([1, 2, 3]);
  expect(parseColour("rgba(1, 2, 3, 0)")).toBeNull();
  expect(parseColour("red; background: url(x)")).toBeNull();
});

test("luminance and contrast are those of WCAG", () => {
  expect(luminance([255, 255, 255])).toBeCloseTo(1);
  expect(contrast([0, 0, 0], [255, 255, 255])).toBeCloseTo(21);
});

test.each(["light", "dark"])("both ends of the %s ramp stand out from its neutral by at least 3:1", (theme) => {
  const colours = readRamp(() => "", theme === "dark");
  const neutral = colours[3] ?? [0, 0, 0];
  for (const end of [colours[0], colours[6]]) expect(contrast(end ?? neutral, neutral)).toBeGreaterThan(3);
});
