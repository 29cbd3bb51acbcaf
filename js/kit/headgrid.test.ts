import { expect, test } from "vitest";
import { type GridState, headGrid, MAX_BUTTONS } from "./headgrid.ts";

type Call = [string, ...unknown[]];

function make(heads: number[], off = new Set<string>()) {
  const calls: Call[] = [];
  const grid = headGrid(
    {
      toggle: (sites, isOff) => calls.push(["toggle", sites, isOff]),
      hover: (site) => calls.push(["hover", site]),
      select: (sites) => calls.push(["select", sites]),
    },
    "heads",
    new AbortController().signal,
  );
  document.body.replaceChildren(grid.node);
  const state: GridState = {
    shape: { heads, mlp: true },
    isOff: (site) => off.has(site),
    look: (site) => ({
      colour: [1, 2, 3],
      value: 0.5,
      off: off.has(site),
      stale: false,
      selected: false,
    }),
  };
  grid.paint(state);
  const cell = (label: string): HTMLButtonElement =>
    grid.node.querySelector(`button[aria-label="${label}"]`) as HTMLButtonElement;
  const press = (key: string, init = {}): void => {
    document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, ...init }));
  };
  return { grid, calls, cell, state, off, press };
}

test("a head is a button named by its layer and index, pressed while it is off", () => {
  const { cell } = make([8, 8], new Set(["L1H3"]));
  expect(cell("L1H3").getAttribute("aria-pressed")).toBe("true");
  expect(cell("L1H4").getAttribute("aria-pressed")).toBe("false");
  expect(cell("L1H4").dataset.effect).toBe("0.5");
});

test("a click asks for the opposite of what is", () => {
  const { cell, calls } = make([8, 8], new Set(["L1H3"]));
  cell("L1H3").click();
  cell("L0H0").click();
  expect(calls.filter(([name]) => name === "toggle")).toEqual([
    ["toggle", ["L1H3"], false],
    ["toggle", ["L0H0"], true],
  ]);
});

test("a layer's header switches what is left of the layer off, and all of it on again when all is off", () => {
  const { cell, calls, off, grid, state } = make([2], new Set(["L0H0"]));
  cell("all heads of layer 0").click();
  off.add("L0H1");
  grid.paint(state);
  expect(cell("all heads of layer 0").getAttribute("aria-pressed")).toBe("true");
  cell("all heads of layer 0").click();
  expect(calls.filter(([name]) => name === "toggle")).toEqual([
    ["toggle", ["L0H0", "L0H1"], true],
    ["toggle", ["L0H0", "L0H1"], false],
  ]);
});

test("the grid is one tab stop, and arrows move the focus with its preview", () => {
  const { grid, cell, calls, press } = make([8, 8]);
  expect([...grid.node.querySelectorAll<HTMLElement>("button")].filter((node) => node.tabIndex === 0)).toHaveLength(1);
  cell("L0H0").focus();
  press("ArrowDown");
  expect(document.activeElement).toBe(cell("L1H0"));
  expect(calls.at(-1)).toEqual(["hover", "L1H0"]);
});

test("shift and arrows select a rectangle, Escape drops it", () => {
  const { cell, calls, press } = make([8, 8]);
  cell("L0H0").focus();
  press("ArrowRight", { shiftKey: true });
  press("ArrowDown", { shiftKey: true });
  expect(calls.findLast(([name]) => name === "select")).toEqual(["select", ["L0H0", "L0H1", "L1H0", "L1H1"]]);
  press("Escape");
  expect(calls.at(-1)).toEqual(["select", []]);
});

test("a rectangle by keyboard starts where the focus is, not where the pointer once was", () => {
  const { grid, cell, calls, press } = make([8, 8]);
  const surface = grid.node.firstElementChild as HTMLElement;
  for (const type of ["pointerdown", "pointerup"])
    surface.dispatchEvent(new PointerEvent(type, { button: 0, clientX: 40, clientY: 30 }));
  cell("L1H3").focus();
  press("ArrowRight", { shiftKey: true });
  expect(calls.findLast(([name]) => name === "select")).toEqual(["select", ["L1H3", "L1H4"]]);
});

test("dragging over cells selects them and switches nothing", () => {
  const { grid, cell, calls } = make([8, 8]);
  const surface = grid.node.firstElementChild as HTMLElement;
  const at = (type: string, x: number, y: number, buttons: number): void => {
    surface.dispatchEvent(new PointerEvent(type, { button: 0, buttons, clientX: x, clientY: y }));
  };
  at("pointerdown", 35, 25, 1);
  at("pointermove", 35 + 33, 25 + 33, 1);
  at("pointerup", 35 + 33, 25 + 33, 0);
  cell("L1H1").click();
  expect(calls.findLast(([name]) => name === "select")).toEqual(["select", ["L0H0", "L0H1", "L1H0", "L1H1"]]);
  expect(calls.some(([name]) => name === "toggle")).toBe(false);
});

test("a model with thousands of heads is drawn on a canvas, with one button over the active cell", () => {
  const heads = Array(48).fill(64);
  const { grid, press } = make(heads, new Set(["L1H0"]));
  const buttons = grid.node.querySelectorAll<HTMLButtonElement>("button");
  expect(48 * 64).toBeGreaterThan(MAX_BUTTONS);
  expect(buttons).toHaveLength(1);
  const proxy = buttons[0] as HTMLButtonElement;
  expect(proxy.getAttribute("aria-label")).toBe("L0H0");
  proxy.focus();
  press("ArrowDown");
  expect(proxy.getAttribute("aria-label")).toBe("L1H0");
  expect(proxy.getAttribute("aria-pressed")).toBe("true");
});

test("the canvas's one button switches the head it stands for", () => {
  const { grid, calls, press } = make(Array(48).fill(64));
  const proxy = grid.node.querySelector("button") as HTMLButtonElement;
  proxy.focus();
  press("ArrowRight");
  proxy.click();
  expect(calls.at(-1)).toEqual(["toggle", ["L0H1"], true]);
});

test("painting two thousand cells again without a change touches no cell", () => {
  const { grid, state } = make(Array(20).fill(100));
  const cell = grid.node.querySelector('button[aria-label="L3H3"]') as HTMLElement;
  cell.dataset.untouched = "yes";
  cell.style.backgroundColor = "red";
  grid.paint(state);
  expect(cell.style.backgroundColor).toBe("red");
});

test("rings move without repainting a cell, on buttons and on the canvas", () => {
  for (const heads of [[8, 8], Array(48).fill(64)]) {
    const { grid } = make(heads);
    const ringed = (name: string): number => grid.node.querySelectorAll(`.${name}:not([hidden])`).length;
    grid.mark("L1H3", "L0H0");
    expect([ringed("iw-hover"), ringed("iw-locked")]).toEqual([1, 1]);
    grid.mark("L1H4", null);
    expect([ringed("iw-hover"), ringed("iw-locked")]).toEqual([1, 0]);
    grid.mark("L99H0", null);
    expect(ringed("iw-hover")).toBe(0);
  }
});
