/** One strength: a native range input with its curve under it, a field for the exact number, and the units in words. */

import "./slider.css";
import { type Curve, type CurveData, curve } from "./curve.ts";
import { el, on, setAttributes, setText } from "./dom.ts";
import { entered, followed } from "./field.ts";
import { signed } from "./format.ts";
import { isComposing } from "./keyboard.ts";
import { digitsOf, niceStep } from "./scale.ts";

export type SliderState = {
  name: string;
  value: number;
  limit: number;
  units: string;
  curve: CurveData | null;
  curveStale: boolean;
  /** What the curve shows, in words; or why there is none yet. */
  caption: string;
  /** What is known of text at this strength, whether that is a warning, and by what measure. */
  text: string;
  warns: boolean;
  about: string;
  /** What was typed is said to be wrong; it stays in its field. */
  wrong: boolean;
};

export type SliderActions = {
  move(value: number): void;
  release(value: number): void;
  /** What was typed is not a number. */
  wrong(text: string): void;
  /** The field is back at the value: nothing in it is wrong any more. */
  back(): void;
};

export type Slider = { node: HTMLElement; head: HTMLElement; paint(state: SliderState): void };

/** The range of a slider: symmetric, and zero is a step exactly, not 1e-17. */
export function rangeOf(limit: number): { step: number; max: number; digits: number } {
  const step = niceStep(limit);
  const digits = digitsOf(step);
  return { step, digits, max: Number((Math.ceil(limit / step - 1e-9) * step).toFixed(digits)) };
}

export function slider(actions: SliderActions, abort: AbortSignal): Slider {
  const name = el("b", "iw-slider-name");
  const units = el("div", "iw-slider-units iw-honest");
  const field = el("input", "iw-slider-value iw-num", {
    type: "text",
    inputmode: "decimal",
    "aria-label": "exact strength",
    autocomplete: "off",
    spellcheck: "false",
  });
  const input = el("input", "iw-range", { type: "range" });
  const drawing: Curve = curve(abort);
  const caption = el("div", "iw-honest");
  const text = el("div", "iw-honest", { "data-iw": "coherence" });
  const head = el("div", "iw-slider-head", {}, name, el("span", "iw-spacer"), field);
  const node = el("div", "iw-slider", {}, head, input, drawing.node, caption, text, units);
  let state: SliderState | null = null;
  let holding = false;
  const options = { signal: abort };

  on(
    input,
    "input",
    () => {
      holding = true;
      actions.move(input.valueAsNumber);
    },
    options,
  );
  on(
    input,
    "change",
    () => {
      holding = false;
      actions.release(input.valueAsNumber);
    },
    options,
  );
  on(
    input,
    "blur",
    () => {
      holding = false;
    },
    options,
  );
  on(input, "dblclick", () => actions.release(0), options);
  on(
    field,
    "keydown",
    (event) => {
      if (event.key !== "Escape" || isComposing(event)) return;
      field.value = exact();
      actions.back();
      field.blur();
    },
    options,
  );
  entered(field, commit, options);
  const settle = followed(field, exact, () => state?.wrong ?? false, options);

  function exact(): string {
    return state === null ? "" : signed(state.value, digits(state));
  }

  function commit(): void {
    if (field.value === exact()) {
      actions.back();
      return;
    }
    const typed = field.value.trim().replace("−", "-").replace(",", ".");
    const value = typed === "" ? Number.NaN : Number(typed);
    if (Number.isFinite(value)) actions.release(value);
    else actions.wrong(field.value);
  }

  function paint(next: SliderState): void {
    state = next;
    const { step, max } = rangeOf(Math.max(next.limit, Math.abs(next.value)));
    setText(name, next.name);
    setAttributes(input, {
      min: -max,
      max,
      step,
      "aria-label": next.name,
      "aria-valuetext": `${signed(next.value, digits(next))}, ${next.units}`,
    });
    // While the thumb is held the hand knows better than any message.
    if (!holding && input.value !== String(next.value)) input.value = String(next.value);
    setAttributes(input, { "data-value": next.value });
    input.style.setProperty("--iw-at", String((next.value / max + 1) / 2));
    settle();
    setText(units, next.units);
    setText(caption, next.caption);
    setText(text, next.text);
    setAttributes(text, { title: next.about || null });
    text.classList.toggle("iw-warns", next.warns);
    drawing.paint(next.curve, max, next.value, next.curveStale);
  }

  return { node, head, paint };
}

function digits(state: SliderState): number {
  return Math.max(2, digitsOf(niceStep(state.limit)));
}
