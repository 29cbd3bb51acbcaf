/** The prompt with its scores: which method, which spans, the number of each, the heads that carried it. */

import { choice } from "../kit/choice.ts";
import { button, el, on, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { tokenIndex } from "../kit/tokens.ts";
import { alternativesPart } from "./alternatives.ts";
import { carriersPart } from "./carriers.ts";
import { copyButton } from "./copy.ts";
import { type Attribution, baselineOptions, compares, methodTitle, tableOf } from "./model.ts";
import type { Shared } from "./shared.ts";
import { spanTools } from "./span_tools.ts";
import { distinct, joins, type Span, withRange } from "./spans.ts";

export function tokenPart(shared: Shared): HTMLElement {
  const { context, result, ours, stale, spans, method, baseline, by, selection, gone, choose } = shared;
  const { question, theme, panel, hover, lock, watch } = context;
  const part = section("Tokens", "which of them pushed it there");
  const choices = segment("method", (value) => choose("method", value));
  const against = choice("Baseline", (value) => choose("baseline", value));
  const form = context.parts.questionForm();
  const strip = context.parts.tokenStrip("prompt", {
    ...context.parts.stripActions(),
    extend(from, to) {
      choose("selection", withRange(selection.peek(), from, to) as never);
      if (by.peek() !== "selection") choose("spans", "selection");
    },
  });
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const key = legend();
  const about = honest();
  const failed = alertLine();
  const copy = copyButton(() =>
    result.peek() === null ? null : tableOf(result.peek() as Attribution, spans.peek(), by.peek()),
  );
  const tools = spanTools(shared);
  part.aside.append(form.toggle);
  part.body.append(
    el("div", "iw-section-tools", {}, choices.node, against.node, tools.menu, copy),
    tools.node,
    form.node,
    strip.node,
    line,
    carriersPart(shared),
    key.node,
    about.node,
    context.parts.panelNote(() => result.value !== null && stale.value && !shared.instead.value),
    failed.node,
    alternativesPart(context),
  );
  watch(() => {
    const tokens = question.value?.tokens ?? result.value?.tokens ?? [];
    const now = spans.value;
    const some = now.some((span) => span.chosen);
    const scores = now.map((span) => (some && !span.chosen && by.value !== "selection" ? Number.NaN : span.score));
    const scale = diverging(scores);
    strip.paint({
      tokens,
      scores: ours.value ? scores : null,
      scale,
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: ours.value && stale.value,
      joined: (index) => ours.value && joins(now, index),
      chosen: by.value === "selection" ? inside(now) : new Set(),
      gone: gone.value,
    });
    key.node.hidden = !ours.value || result.value?.scores == null;
    key.paint(scale, theme.value.ramp, "pushed toward the foil ↔ toward the target");
  });
  watch(() => {
    about.paint([
      ours.value && shared.instead.value && `meanwhile ${methodTitle(result.value?.method ?? "")}`,
      ours.value && result.value?.line,
    ]);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
    choices.paint(
      (result.value?.methods ?? []).map((value) => ({ value, text: methodTitle(value) })),
      method.value,
    );
    const baselines = result.value?.baselines ?? [];
    show(against.node, compares(method.value) && baselines.length > 0);
    against.paint(baselineOptions(baselines, baseline.value), baseline.value);
  });
  watch(() => {
    strip.mark(tokenIndex(hover.value), tokenIndex(lock.value));
    const index = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    line.classList.toggle("iw-fixed-on", index !== null);
    setText(line, (ours.value ? tokenLine(result.value, spans.value, index, by.value) : null) ?? HINT);
  });
  return part.node;
}

const HINT = "Hover or focus a token to read its number; click to keep it; Shift and a click selects a span.";

/** The positions of the spans that were asked for. */
function inside(spans: readonly Span[]): ReadonlySet<number> {
  return new Set(distinct(spans).flatMap((span) => (span.chosen ? span.positions : [])));
}

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
  const own =
    positions.length > 1 ? ` · of it ${named(token)} ${signed(attribution.scores?.data[index] ?? Number.NaN, 3)}` : "";
  return `${whereOf(attribution, span, index, by)}: ${signed(score, 3)}, ${direction} · ${rankOf(spans, score)}${own}`;
}

const NAMES: Record<string, string> = { pattern: "match", selection: "selection" };

/** "␣Mary (position 4)", or of several tokens their text together. */
function whereOf({ tokens }: Attribution, { positions, chosen }: Span, index: number, by: string): string {
  const token = tokens[index];
  if (positions.length < 2 || token === undefined)
    return `${token === undefined ? "" : named(token)} (position ${index})`;
  const text = positions.map((position) => tokens[position]?.text ?? "").join("");
  const short = text.length > 40 ? `${text.slice(0, 38)} …` : text;
  const kind = chosen ? (NAMES[by] ?? by) : "between matches";
  return `${kind} ${named({ text: short })} (positions ${positions[0]} to ${positions.at(-1)})`;
}

/** "rank 2 of 15" by size. */
function rankOf(spans: readonly Span[], score: number): string {
  const all = distinct(spans);
  const larger = all.filter((one) => Math.abs(one.score) > Math.abs(score)).length;
  return `rank ${larger + 1} of ${all.length}`;
}

export function wish(context: Shared["context"], action: string, args: Record<string, unknown>): void {
  context.intent("panel", `panel:${context.panelId}`, { panel: context.panelId, action, ...args });
}

/** A button for what takes long: how long, and yes. */
export function longButton(context: Shared["context"], what: () => string): HTMLButtonElement {
  const node = button("", "iw-btn");
  on(node, "click", () => wish(context, "compute", { what: what() }));
  show(node, false);
  return node;
}
