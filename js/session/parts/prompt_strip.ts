/** The prompt with its read position, for the views whose own numbers are elsewhere. */

import { diverging } from "../../kit/scale.ts";
import { type StripState, tokenIndex } from "../../kit/tokens.ts";
import type { ViewContext, ViewTraits } from "../shell.ts";

/** The prompt as it is, without colours: for the views whose own numbers are elsewhere. */
export function promptStrip<T extends ViewTraits>(context: ViewContext<T>): HTMLElement {
  const { watch, theme, parts } = context;
  const strip = parts.tokenStrip("prompt", parts.stripActions());
  const none = diverging([]);
  watch(() => {
    const question = context.question.value;
    const painted: StripState = {
      tokens: question?.tokens ?? [],
      scores: null,
      scale: none,
      ramp: theme.value.ramp,
      position: question === null ? null : question.position,
      stale: false,
    };
    strip.paint(painted);
  });
  watch(() => {
    strip.mark(tokenIndex(context.hover.value), tokenIndex(context.lock.value));
  });
  return strip.node;
}
