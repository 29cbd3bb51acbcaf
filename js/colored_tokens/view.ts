/** Tokens with a number each, without a model behind them. */

import "./view.css";
import { asArray } from "../kit/codec.ts";
import { el, setText } from "../kit/dom.ts";
import { named, signed } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { tokenIndex } from "../kit/tokens.ts";
import type { Token } from "../session/protocol.ts";
import type { ViewContext, ViewTraits } from "../session/shell.ts";

export type Traits = ViewTraits;

export function build(context: ViewContext<Traits>): void {
  const { panel, theme, hover, lock, watch, derive } = context;
  const part = section("Tokens", "coloured by their values");
  const strip = context.parts.tokenStrip("tokens", context.parts.stripActions());
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const key = legend();
  part.body.append(strip.node, line, key.node);
  context.frame.root.classList.add("iw-still");
  context.frame.content.append(part.node);
  const shown = derive(() => {
    const data = panel.value?.data ?? {};
    return {
      tokens: Array.isArray(data.tokens) ? (data.tokens as unknown as Token[]) : [],
      values: asArray(data.values)?.data ?? null,
      limit: typeof data.limit === "number" && data.limit > 0 ? data.limit : 1,
    };
  });
  watch(() => {
    const { tokens, values, limit } = shown.value;
    const scale = { limit, knee: limit, max: limit, floor: 0 };
    const { ramp } = theme.value;
    strip.paint({ tokens, scores: values, scale, ramp, position: null, stale: false });
    key.paint(scale, ramp, "");
  });
  watch(() => {
    strip.mark(tokenIndex(hover.value), tokenIndex(lock.value));
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    const token = at === null ? undefined : shown.value.tokens[at];
    line.classList.toggle("iw-fixed-on", token !== undefined);
    const value = shown.value.values?.[at ?? -1] ?? Number.NaN;
    setText(
      line,
      token === undefined
        ? "Hover a token to read its value; click to keep it."
        : `${named(token)} (position ${at}): ${signed(value, 4)}`,
    );
  });
}
