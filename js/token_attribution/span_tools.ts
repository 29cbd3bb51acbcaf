/** Of what the scores are summed: a menu, and the field or the hint that a choice needs. */

import { choice } from "../kit/choice.ts";
import { button, el, on, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { entered, followed } from "../kit/field.ts";
import { plural } from "../kit/format.ts";
import type { Shared } from "./shared.ts";
import { SPANS } from "./spans.ts";

/** What the kernel takes. */
const LONGEST = 1000;

export function spanTools({ context, result, by, pattern, selection, choose, look }: Shared): {
  menu: HTMLElement;
  node: HTMLElement;
} {
  const { watch, signal, refusals, panelId } = context;
  const tooLong = signal<string | null>(null);
  const menu = choice("Scores by", (value) => choose("spans", value));
  const field = el("input", "iw-input iw-pattern", {
    type: "text",
    "aria-label": "regular expression",
    placeholder: "[A-Z]\\w+",
    spellcheck: "false",
    autocomplete: "off",
  });
  const refused = alertLine();
  const matched = el("span", "iw-honest");
  const clear = button("Clear selection", "iw-link");
  const hint = el("span", "iw-honest");
  const find = el("div", "iw-section-tools", {}, field, matched);
  const chosen = el("div", "iw-section-tools", {}, hint, clear);
  entered(field, () => {
    const { length } = field.value;
    const long = length > LONGEST;
    if (!long) look(field.value);
    tooLong.value = long
      ? `This regular expression has ${length.toLocaleString("en")} letters; at most ${LONGEST.toLocaleString("en")} can be sent. Shorten it.`
      : null;
  });
  const settle = followed(
    field,
    () => pattern.value,
    () => tooLong.value !== null,
  );
  on(clear, "click", () => choose("selection", []));
  watch(() => {
    const groups = result.value?.groups ?? {};
    menu.paint(
      SPANS.filter(({ value }) => !(value in groups) || groups[value] != null),
      by.value,
    );
    show(find, by.value === "pattern");
    show(chosen, by.value === "selection");
    settle();
    const count = result.value?.matches?.chosen.size ?? 0;
    const current = result.value?.matches?.pattern === pattern.value;
    setText(
      matched,
      pattern.value === ""
        ? "Enter finds; what lies between the matches is kept in the sum"
        : current
          ? `${plural(count, "match", "matches")}`
          : "",
    );
    const why = tooLong.value ?? refusals.value.get(`pattern:${panelId}`)?.message ?? result.value?.matchesNote;
    refused.paint(by.value === "pattern" ? why || null : null);
    const ranges = selection.value;
    setText(
      hint,
      ranges.length === 0 ? "Shift and a click, or Shift and arrows, select a span" : plural(ranges.length, "span"),
    );
    show(clear, ranges.length > 0);
  });
  return { menu: menu.node, node: el("div", "", {}, find, chosen, refused.node) };
}
