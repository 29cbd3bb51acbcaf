/** Light or dark, asked of the host in this order: what JupyterLab says, what is behind us, what an ancestor's class says, the system. */

import { type Signal, signal } from "@preact/signals-core";
import { luminance, parseColour, type Ramp, readRamp } from "./colour.ts";

export type Theme = { dark: boolean; ramp: Ramp };

const WATCHED = [
  "class",
  "style",
  "data-jp-theme-light",
  "data-jp-theme-name",
  "data-theme",
  "data-vscode-theme-kind",
  "theme",
];

/** Whether the page around `node` is dark. Pure but for reading the document. */
export function isDark(node: Element): boolean {
  const body = node.ownerDocument.body;
  const jupyter = body?.getAttribute("data-jp-theme-light");
  if (jupyter === "true" || jupyter === "false") return jupyter === "false";
  return byMark(node) ?? byBackground(node) ?? systemIsDark();
}

/** VS Code, Colab, marimo and plain pages mark an ancestor; through shadow roots as well. */
function byMark(node: Element): boolean | null {
  for (const ancestor of ancestors(node)) {
    const kind = ancestor.getAttribute("data-vscode-theme-kind");
    if (kind !== null) return /dark|high-contrast$/.test(kind);
    const marks = [ancestor.getAttribute("data-theme") ?? ancestor.getAttribute("theme") ?? "", ...ancestor.classList];
    const mark = marks.find((one) => /^(dark|light)(-theme)?$/.test(one));
    if (mark !== undefined) return mark.startsWith("dark");
  }
  return null;
}

function byBackground(node: Element): boolean | null {
  for (const ancestor of ancestors(node)) {
    if (ancestor.classList.contains("iw-root")) continue;
    const colour = parseColour(getComputedStyle(ancestor).backgroundColor ?? "");
    if (colour !== null) return luminance(colour) < 0.3;
  }
  return null;
}

function* ancestors(node: Element): Generator<Element> {
  let current: Element | null = node;
  while (current !== null) {
    yield current;
    const root = current.getRootNode();
    current = current.parentElement ?? (root instanceof ShadowRoot ? root.host : null);
  }
}

function systemIsDark(): boolean {
  return globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches ?? false;
}

/** Follows the host's theme until `abort`; marks the root `iw-dark` and hands out the ramp for canvas and cells. */
export function followTheme(root: HTMLElement, abort: AbortSignal): Signal<Theme> {
  const read = (): Theme => {
    const dark = isDark(root);
    root.classList.toggle("iw-dark", dark);
    const style = getComputedStyle(root);
    return { dark, ramp: readRamp((name) => style.getPropertyValue(name), dark) };
  };
  const theme = signal(read());
  const update = (): void => {
    const next = read();
    if (JSON.stringify(next) !== JSON.stringify(theme.peek())) theme.value = next;
  };
  const observer = new MutationObserver(update);
  for (const target of [document.documentElement, document.body]) {
    observer.observe(target, { attributes: true, attributeFilter: WATCHED });
  }
  const system = globalThis.matchMedia?.("(prefers-color-scheme: dark)");
  system?.addEventListener?.("change", update, { signal: abort });
  // A root that is not in the page yet has no styles: ask again once it has a size.
  const sized = typeof ResizeObserver === "undefined" ? null : new ResizeObserver(update);
  sized?.observe(root);
  abort.addEventListener("abort", () => {
    observer.disconnect();
    sized?.disconnect();
  });
  return theme;
}
