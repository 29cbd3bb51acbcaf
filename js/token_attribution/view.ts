/** Token attribution: which tokens made it say that. */

import { el, setText } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { segment } from "../kit/segment.ts";
import { tokenIndex, tokenStrip } from "../kit/tokens.ts";
import type { ViewContext } from "../session/shell.ts";
import { type Attribution, methodTitle, readAttribution, sameTokens, type Traits } from "./model.ts";

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
  const note = context.parts.panelNote(() => result.value !== null && stale.value);
  part.aside.append(form.toggle);
  part.body.append(
    el("div", "iw-section-tools", {}, choices.node),
    form.node,
    strip.node,
    line,
    key.node,
    about.node,
    note,
    failed.node,
  );
  frame.content.append(el("div", "iw-top", {}, part.node, context.parts.answer()));
  watch(() => {
    const attribution = result.value;
    const tokens = question.value?.tokens ?? attribution?.tokens ?? [];
    const ours = attribution !== null && sameTokens(attribution.tokens, tokens);
    strip.paint({
      tokens,
      scores: ours ? (attribution?.scores?.data ?? null) : null,
      scale: attribution?.scale ?? { limit: 1, knee: 1, max: 0, floor: 0 },
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: ours && stale.value,
    });
    key.node.hidden = !ours;
    if (attribution !== null)
      key.paint(attribution.scale, theme.value.ramp, "pushed toward the foil ↔ toward the target");
    about.paint([ours && attribution?.line]);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  watch(() => {
    const methods = result.value?.methods ?? [];
    choices.paint(
      methods.map((value) => ({ value, text: methodTitle(value) })),
      method.value,
    );
  });
  watch(() => {
    strip.mark(tokenIndex(hover.value), tokenIndex(lock.value));
    const index = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    line.classList.toggle("iw-fixed-on", index !== null);
    setText(line, tokenLine(result.value, index) ?? HINT);
  });
}

const HINT = "Hover or focus a token to read its number; click to keep it.";

function tokenLine(attribution: Attribution | null, index: number | null): string | null {
  const token = index === null ? undefined : attribution?.tokens[index];
  if (attribution === null || index === null || token === undefined || attribution.scores === null) return null;
  const score = attribution.scores.data[index] ?? Number.NaN;
  const order = rankOf(attribution.scores.data, index);
  const direction = score > 0 ? "toward the target" : score < 0 ? "away from it" : "neither way";
  return `${named(token)} (position ${index}): ${signed(score, 3)}, ${direction} · ${order}`;
}

/** "2nd largest of 15" by size. */
function rankOf(scores: ArrayLike<number>, index: number): string {
  const size = Math.abs(scores[index] ?? 0);
  const larger = Array.from(scores).filter((score) => Math.abs(score) > size).length;
  return `rank ${larger + 1} of ${scores.length}`;
}
