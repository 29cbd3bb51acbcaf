import { expect, test } from "vitest";
import { duration, named, namedList, num, percent, plural, signed, visible } from "./format.ts";

test("numbers have two digits, a real minus sign, and no negative zero", () => {
  expect([2.966, -0.5, 0, -0.0].map((x) => num(x))).toEqual(["2.97", "−0.50", "0.00", "0.00"]);
});

test("a number too small for its digits is not shown as zero", () => {
  expect(num(0.0002)).toBe("2e−4");
  expect(num(-3e7)).toBe("−3e7");
});

test("what is not a number is a dash, and infinity is said", () => {
  expect([Number.NaN, Infinity, -Infinity].map((x) => num(x))).toEqual(["–", "∞", "−∞"]);
});

test("a strength always carries its sign", () => {
  expect([0.6, -0.6, 0, -0.001].map((x) => signed(x))).toEqual(["+0.60", "−0.60", "+0.00", "+0.00"]);
});

test("percentages have digits where they matter and never round a small one to nothing", () => {
  expect([0.91, 0.0204, 0.006, 0.00001, 0, 0.9971, 1].map(percent)).toEqual([
    "91",
    "2.0",
    "0.60",
    "<0.01",
    "0.00",
    "99.7",
    "100",
  ]);
});

test("a leading space of a token is shown where it would be lost", () => {
  expect(named({ text: " Mary" })).toBe("␣Mary");
  expect(named({ text: "  " })).toBe("␣␣");
  expect(named({ text: "" })).toBe("⟨empty⟩");
});

test("special tokens and bytes stand in brackets", () => {
  expect(visible({ text: "<|endoftext|>", kind: "special" })).toBe("⟨endoftext⟩");
  expect(visible({ text: "<bos>", kind: "special" })).toBe("⟨bos⟩");
  expect(visible({ text: "<0xf0>", kind: "byte" })).toBe("⟨F0⟩");
});

test("control characters, direction marks and half a surrogate pair are shown by code, never obeyed", () => {
  expect(visible({ text: "a\u202eb" })).toBe("a⟨202E⟩b");
  expect(visible({ text: "\u0000\u001b\n\t" })).toBe("⟨00⟩⟨1B⟩↵⇥");
  expect(visible({ text: "x\ud83d" })).toBe("x⟨D83D⟩");
  expect(visible({ text: "👩‍👧" })).toBe("👩‍👧");
});

test("markup in a token is text", () => {
  expect(visible({ text: "<img src=x onerror=alert(1)>" })).toBe("<img src=x onerror=alert(1)>");
});

test("several targets are listed, many are counted", () => {
  const tokens = ["a", " b", "c", "d"].map((text) => ({ text }));
  expect(namedList(tokens.slice(0, 2))).toBe("a | ␣b");
  expect(namedList(tokens)).toBe("a | ␣b | c | … (4)");
});

test("counts and times read as words", () => {
  expect([plural(1, "prompt"), plural(3, "prompt"), plural(2, "pos", "pos")]).toEqual([
    "1 prompt",
    "3 prompts",
    "2 pos",
  ]);
  expect([duration(0.2), duration(40), duration(300)]).toEqual(["1 s", "40 s", "5 min"]);
});
