/** Token attribution: which tokens made it say that. */

import { button, el, setText } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { tokenIndex, tokenStrip } from "../kit/tokens.ts";
import type { ViewContext } from "../session/shell.ts";
import { alternativesPart } from "./alternatives.ts";
import {
  type Attribution,
  methodTitle,
  readAttribution,
  SPANS,
  type Span,
  sameTokens,
  spansOf,
  type Traits,
  tableOf,
} from "./model.ts";

export function build(context: ViewContext<Traits>): void {
  const { frame, question, theme, panel, hover, lock, model, watch, snapshot, signal, derive } = context;
  const part = section("Tokens", "which of them pushed it there");
  const method = signal(String(model.get("method") ?? ""));
  const choices = segment("method", (value) => {
    model.set("method", value);
    model.save_changes();
  });
  model.on("change:method", () => {
    method.value = String(model.get("method") ?? "");
  });
  const by = signal(String(model.get("spans") ?? "token"));
  const spanChoice = segment("scores by", (value) => {
    model.set("spans", value);
    model.save_changes();
  });
  model.on("change:spans", () => {
    by.value = String(model.get("spans") ?? "token");
  });
  const form = context.parts.questionForm();
  const strip = tokenStrip("prompt", context.parts.stripActions(), context.abort);
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const key = legend();
  const about = honest();
  const failed = alertLine();
  const result = derive(() => readAttribution(panel.value));
  // Scores of another method than the one chosen are as old as those of another state.
  const stale = derive(() => {
    const now = result.value;
    const other = now !== null && now.method !== "" && method.value !== "" && now.method !== method.value;
    return other || (now?.revision ?? 0) < (snapshot.value?.revision ?? 0);
  });
  const spans = derive(() => (result.value === null ? [] : spansOf(result.value, by.value)));
  const copy = copyButton(() => (result.peek() === null ? null : tableOf(result.peek() as Attribution, by.peek())));
  const note = context.parts.panelNote(() => result.value !== null && stale.value);
  part.aside.append(form.toggle);
  part.body.append(
    el("div", "iw-section-tools", {}, choices.node, spanChoice.node, copy),
    form.node,
    strip.node,
    line,
    key.node,
    about.node,
    note,
    failed.node,
    alternativesPart(context),
  );
  frame.content.append(el("div", "iw-top", {}, part.node, context.parts.answer()));
  watch(() => {
    const attribution = result.value;
    const tokens = question.value?.tokens ?? attribution?.tokens ?? [];
    const ours = attribution !== null && sameTokens(attribution.tokens, tokens);
    const scores = spans.value.map((span) => span.score);
    const scale = diverging(scores);
    strip.paint({
      tokens,
      scores: ours ? scores : null,
      scale,
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: ours && stale.value,
    });
    key.node.hidden = !ours;
    if (attribution !== null) key.paint(scale, theme.value.ramp, "pushed toward the foil ↔ toward the target");
    about.paint([ours && attribution?.line]);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  watch(() => {
    const methods = result.value?.methods ?? [];
    choices.paint(
      methods.map((value) => ({ value, text: methodTitle(value) })),
      method.value,
    );
    const known = SPANS.filter((one) => one === "token" || result.value?.groups[one] != null);
    spanChoice.paint(
      known.length < 2 ? [] : known.map((value) => ({ value, text: value.charAt(0).toUpperCase() + value.slice(1) })),
      by.value,
    );
  });
  watch(() => {
    strip.mark(tokenIndex(hover.value), tokenIndex(lock.value));
    const index = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    line.classList.toggle("iw-fixed-on", index !== null);
    setText(line, tokenLine(result.value, spans.value, index, by.value) ?? HINT);
  });
}

const HINT = "Hover or focus a token to read its number; click to keep it.";

function tokenLine(
  attribution: Attribution | null,
  spans: readonly Span[],
  index: number | null,
  by: string,
): string | null {
  const token = index === null ? undefined : attribution?.tokens[index];
  const span = index === null ? undefined : spans[index];
  if (attribution === null || index === null || token === undefined || span === undefined) return null;
  const { score, positions } = span;
  const direction = score > 0 ? "toward the target" : score < 0 ? "away from it" : "neither way";
  return `${whereOf(attribution, span, index, by)}: ${signed(score, 3)}, ${direction} · ${rankOf(spans, score)}${positions.length > 1 ? ` · of it ${named(token)} ${signed(attribution.scores?.data[index] ?? Number.NaN, 3)}` : ""}`;
}

/** "␣Mary (position 4)", or of several tokens their text together. */
function whereOf({ tokens }: Attribution, { positions }: Span, index: number, by: string): string {
  const token = tokens[index];
  if (positions.length < 2 || token === undefined)
    return `${token === undefined ? "" : named(token)} (position ${index})`;
  const text = positions.map((position) => tokens[position]?.text ?? "").join("");
  const short = text.length > 40 ? `${text.slice(0, 38)} …` : text;
  return `${by} ${named({ text: short })} (positions ${positions[0]} to ${positions.at(-1)})`;
}

/** "rank 2 of 15" by size. */
function rankOf(spans: readonly Span[], score: number): string {
  const all = [...new Set(spans)];
  const larger = all.filter((one) => Math.abs(one.score) > Math.abs(score)).length;
  return `rank ${larger + 1} of ${all.length}`;
}

/** Puts a table on the clipboard, and says whether that went well. */
function copyButton(read: () => string | null): HTMLElement {
  const node = button("Copy table", "iw-link");
  node.addEventListener("click", async () => {
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
