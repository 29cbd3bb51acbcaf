/** The prompt: a click links a token in every view, or chooses where heads are switched off; an open card colours it. */

import { asArray, type NdArray } from "../kit/codec.ts";
import { el, setText, show } from "../kit/dom.ts";
import { named, num, plural } from "../kit/format.ts";
import { diverging } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { tokenIndex } from "../kit/tokens.ts";
import { partIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { readCard } from "./card.ts";
import { record, type Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

const WHERE = [
  { value: "all", text: "Everywhere" },
  { value: "chosen", text: "At chosen tokens" },
];

export function promptPart(context: ViewContext<Traits>, settings: Settings): HTMLElement[] {
  const { question, theme, panel, watch, derive, snapshot, hover, lock } = context;
  const plain = context.parts.stripActions();
  const strip = context.parts.tokenStrip("prompt", { hover: plain.hover, lock: press });
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

  const places = derive(() => record(panel.value?.data.places));
  const key = segment("colour of the prompt", (value) => {
    settings.places.value = value;
  });
  const line = el("span", "iw-honest", { "data-iw": "place" });
  const node = el("div", "iw-where", {}, el("span", "iw-muted", {}, "At every token"), key.node, line);

  watch(() => {
    const now = card.value;
    const tokens = question.value?.tokens ?? [];
    const fits = (array: NdArray | null): NdArray | null => (array?.data.length === tokens.length ? array : null);
    const open = now !== null && now.site === settings.card.value ? fits(now.contribution) : null;
    const scores = (open ?? fits(asArray(places.value[settings.places.value])))?.data ?? null;
    strip.paint({
      tokens,
      scores,
      scale: diverging(Array.from(scores ?? [])),
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: scores !== null && partIsStale(panel.value, open ? "card" : "places", snapshot.value?.revision ?? 0),
      chosen: new Set(settings.positions.value),
    });
    show(node, fits(asArray(places.value.kl)) !== null && open === null);
  });
  watch(() => {
    const { label = "metric", tokens = [] } = question.value ?? {};
    const { value } = settings.places;
    key.paint(
      [
        { value: "change", text: `Change of ${label}` },
        { value: "kl", text: "KL" },
        { value: "", text: "Plain" },
      ],
      value,
    );
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    const token = at === null ? undefined : tokens[at];
    const read = (name: string): string => num(asArray(places.value[name])?.data[at ?? 0] ?? Number.NaN);
    const where = token === undefined ? "" : `read at ${named(token)} (${at}): `;
    if (where !== "") setText(line, `${where}${read("plain")} → ${read("edited")} · KL ${read("kl")}`);
    else if (value === "kl") setText(line, "KL from the plain run of what is predicted at each token, in nats");
    else setText(line, value === "" ? "" : `the same ${label}, read at each token: now − plain`);
  });
  watch(() => strip.mark(tokenIndex(hover.value), tokenIndex(lock.value)));
  return [strip.node, node, wherePart(context, settings)];
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
