/** One of several by a native menu, with its name in front. */

import "./choice.css";
import { el, on, reconcile, setText } from "./dom.ts";

export type Choice = {
  node: HTMLElement;
  paint(options: readonly { value: string; text: string }[], chosen: string): void;
};

export function choice(label: string, choose: (value: string) => void): Choice {
  const select = el("select", "iw-menu", { "aria-label": label });
  const node = el("label", "iw-choice", {}, el("span", "iw-muted", {}, label), select);
  on(select, "change", () => choose(select.value));
  return {
    node,
    paint(options, chosen) {
      reconcile(
        select,
        options,
        () => el("option"),
        (option, { value, text }) => {
          option.value = value;
          setText(option, text);
        },
      );
      if (select.value !== chosen) select.value = chosen;
    },
  };
}
