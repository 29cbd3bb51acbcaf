/** The frame that every panel stands in, and the sections inside it: field's term first, then plain words. */

import "./frame.css";
import { el, on, setText } from "./dom.ts";

export type Frame = {
  root: HTMLElement;
  banner: HTMLElement;
  /** Everything that can be operated: one switch turns all of it off. */
  fieldset: HTMLFieldSetElement;
  bar: { about: HTMLElement; summary: HTMLElement; actions: HTMLElement };
  progress: HTMLElement;
  content: HTMLElement;
  foot: HTMLElement;
};

export function frame(widget: string, title: string): Frame {
  const about = el("span", "iw-bar-about iw-muted");
  const summary = el("span", "iw-bar-summary iw-muted");
  const actions = el("span", "iw-bar-actions");
  const bar = el(
    "header",
    "iw-bar",
    {},
    el("span", "iw-title", {}, title),
    about,
    el("span", "iw-spacer"),
    summary,
    el("span", "iw-spacer"),
    actions,
  );
  const progress = el("div", "iw-progress", { "aria-hidden": "true" }, el("i"));
  const content = el("div", "iw-content");
  const foot = el("footer", "iw-foot");
  const fieldset = el("fieldset", "iw-frame", { "aria-label": title }, bar, progress, content, foot);
  const banner = el("div", "iw-banner", { role: "alert", hidden: true });
  const root = el("div", "iw-root", { "data-widget": widget, "aria-busy": "true" }, banner, fieldset);
  // Else JupyterLab takes a key as its command: X cuts the cell, an arrow never reaches a slider. It looks from the element
  // that has the focus upwards, and some of its commands match that element itself: there the mark must be.
  on(root, "focusin", (event) => {
    (event.target as Element).setAttribute("data-lm-suppress-shortcuts", "true");
  });
  return { root, banner, fieldset, bar: { about, summary, actions }, progress, content, foot };
}

export type Section = { node: HTMLElement; aside: HTMLElement; body: HTMLElement };

export function section(term: string, words: string, className = ""): Section {
  const aside = el("span", "iw-section-aside");
  const heading = el(
    "header",
    "iw-section-head",
    {},
    el("h3", "iw-heading", {}, term),
    el("span", "iw-section-words", {}, words),
    aside,
  );
  const body = el("div", "iw-section-body");
  return { node: el("section", `iw-section ${className}`.trim(), { "aria-label": term }, heading, body), aside, body };
}

/** A thin line that fills; without a known share it runs along. */
export function paintProgress(node: HTMLElement, busy: boolean, share: number | null): void {
  node.classList.toggle("iw-progress-on", busy);
  node.classList.toggle("iw-progress-unknown", busy && share === null);
  const bar = node.firstElementChild as HTMLElement;
  bar.style.width = share === null ? "" : `${Math.round(Math.max(0.02, Math.min(1, share)) * 100)}%`;
}

/** The line that says what run is explained, the baseline, the remainder, the reference: always there, never small talk. */
export function honest(): { node: HTMLElement; paint(parts: readonly (string | null | undefined | false)[]): void } {
  const node = el("div", "iw-honest");
  return { node, paint: (parts) => setText(node, parts.filter(Boolean).join(" · ")) };
}
