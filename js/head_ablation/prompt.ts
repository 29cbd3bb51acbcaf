/** The prompt: a click links a token in every view, or chooses where heads are switched off; an open card colours it. */

import { el, setText, show } from "../kit/dom.ts";
import { plural } from "../kit/format.ts";
import { diverging } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { tokenIndex, tokenStrip } from "../kit/tokens.ts";
import { partIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { readCard } from "./card.ts";
import type { Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

const WHERE = [
  { value: "all", text: "Everywhere" },
  { value: "chosen", text: "At chosen tokens" },
];

export function promptPart(context: ViewContext<Traits>, settings: Settings): HTMLElement[] {
  const { question, theme, panel, watch, derive, snapshot, hover, lock } = context;
  const plain = context.parts.stripActions();
  const strip = tokenStrip("prompt", { hover: plain.hover, lock: press }, context.abort);
  const card = derive(() => readCard(panel.value?.data.card));

  function press(index: number): void {
    if (!settings.choosing.peek()) {
      plain.lock(index);
      return;
    }
    const chosen = new Set(settings.positions.peek());
    if (!chosen.delete(index)) chosen.add(index);
    settings.setPositions([...chosen]);
  }

  watch(() => {
    const now = card.value;
    const tokens = question.value?.tokens ?? [];
    const open = now !== null && now.site === settings.card.value && now.contribution?.data.length === tokens.length;
    const scores = open ? (now.contribution?.data ?? null) : null;
    strip.paint({
      tokens,
      scores,
      scale: diverging(Array.from(scores ?? [])),
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: open && partIsStale(panel.value, "card", snapshot.value?.revision ?? 0),
      chosen: new Set(settings.positions.value),
    });
  });
  watch(() => strip.mark(tokenIndex(hover.value), tokenIndex(lock.value)));
  return [strip.node, wherePart(context, settings)];
}

function wherePart({ watch }: ViewContext<Traits>, settings: Settings): HTMLElement {
  const where = segment("where heads are switched off", (value) => {
    settings.choosing.value = value === "chosen";
    if (value === "all") settings.setPositions([]);
  });
  const words = el("span", "iw-honest");
  const node = el("div", "iw-where", {}, el("span", "iw-muted", {}, "Switch off"), where.node, words);
  watch(() => {
    const { length } = settings.positions.value;
    where.paint(WHERE, settings.choosing.value || length > 0 ? "chosen" : "all");
    setText(words, length > 0 ? `at ${plural(length, "token")}` : "click tokens to choose them; until then everywhere");
    show(words, settings.choosing.value || length > 0);
  });
  return node;
}
