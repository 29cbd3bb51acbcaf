/** One sentence where the result would be: what was wrong, why, and what to do. */

import { button, el, on, setText } from "./dom.ts";

export type Alert = { node: HTMLElement; paint(message: string | null): void };

export function alertLine(onDismiss?: () => void): Alert {
  const text = el("span", "iw-alert-text");
  const node = el("div", "iw-alert", { role: "alert", hidden: true }, text);
  if (onDismiss !== undefined) {
    const close = button("×", "iw-alert-close", { "aria-label": "dismiss" });
    on(close, "click", onDismiss);
    node.append(close);
  }
  return {
    node,
    paint(message) {
      setText(text, message ?? "");
      node.hidden = !message;
    },
  };
}
