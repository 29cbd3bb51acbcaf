/** One place on an axis: a menu where the places have names or are few, a number where there are thousands. */

import { choice } from "../kit/choice.ts";
import { el, on, setAttributes, setText, show } from "../kit/dom.ts";
import { followed } from "../kit/field.ts";
import { type Axis, labelOf } from "./model.ts";

const MENU = 200;

export type AxisPicker = { node: HTMLElement; paint(axis: Axis, at: number): void };

export function axisPicker(choose: (at: number) => void): AxisPicker {
  const menu = choice("", (value) => choose(Number(value)));
  const select = menu.node.querySelector("select") as HTMLSelectElement;
  const word = el("span", "iw-muted");
  const field = el("input", "iw-menu iw-axis", { type: "number", min: 0, step: 1, required: true });
  const numbered = el("label", "iw-choice", {}, word, field);
  const node = el("span");
  let chosen = 0;
  const settle = followed(
    field,
    () => String(chosen),
    () => field.value !== "" && !field.checkValidity(),
  );
  on(field, "input", () => {
    if (field.checkValidity()) choose(field.valueAsNumber);
  });
  on(field, "change", () => field.reportValidity());
  return {
    node,
    paint(axis, at) {
      chosen = at;
      const few = axis.size <= MENU;
      show(node, axis.size > 1);
      const used = few ? menu.node : numbered;
      if (node.firstChild !== used) node.replaceChildren(used);
      setText(menu.node.firstElementChild as Element, axis.name);
      setAttributes(select, { "aria-label": axis.name });
      setAttributes(field, { "aria-label": axis.name, max: axis.size - 1 });
      setText(word, axis.name);
      const places = few ? Array.from({ length: axis.size }, (_, index) => index) : [];
      menu.paint(
        places.map((index) => ({ value: String(index), text: labelOf(axis, index) })),
        String(at),
      );
      settle();
    },
  };
}
