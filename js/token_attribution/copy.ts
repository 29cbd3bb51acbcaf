/** Puts a table on the clipboard, and says whether that went well. */

import { button, on, setText } from "../kit/dom.ts";

export function copyButton(read: () => string | null): HTMLElement {
  const node = button("Copy table", "iw-link");
  on(node, "click", async () => {
    const table = read();
    if (table === null) return;
    try {
      await navigator.clipboard.writeText(table);
      setText(node, "Copied");
    } catch {
      setText(node, "This page may not use the clipboard");
    }
    setTimeout(() => setText(node, "Copy table"), 1500);
  });
  return node;
}
