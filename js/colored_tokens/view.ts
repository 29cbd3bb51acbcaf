/** Tokens with numbers, without a model behind them: one number each, or one for every layer, neuron, sample, kind. */

import "./view.css";
import { el, reconcile, setText, show } from "../kit/dom.ts";
import { named, num } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import { tokenIndex } from "../kit/tokens.ts";
import type { ViewContext, ViewTraits } from "../session/shell.ts";
import { axisPicker } from "./axis.ts";
import { extremesPart } from "./extremes.ts";
import { type Place, readShown, type Shown, seriesOf, tokenWords } from "./model.ts";

export type Traits = ViewTraits;

export function build(context: ViewContext<Traits>): void {
  const { panel, derive, signal, watch } = context;
  const shown = derive(() => readShown(panel.value?.data ?? {}));
  const place = signal<Place>({ sample: 0, first: 0, second: 0 });
  const part = section("Tokens", "coloured by their values");
  const tables = extremesPart(context, shown, place);
  part.body.append(pickers(), ...stripPart(context, shown, place), ...guessPart(context, shown, place), tables);
  context.frame.root.classList.add("iw-still");
  context.frame.content.append(part.node);

  function pickers(): HTMLElement {
    const move = (next: Partial<Place>): void => {
      place.value = { ...place.peek(), ...next };
    };
    const [sample, first, second] = [
      axisPicker((at) => move({ sample: at })),
      axisPicker((at) => move({ first: at })),
      axisPicker((at) => move({ second: at })),
    ];
    const node = el("div", "iw-section-tools", {}, sample.node, first.node, second.node);
    watch(() => {
      const { samples, axes } = shown.value;
      const names = samples.map((one, index) => one.name || String(index));
      sample.paint({ name: "Sample", labels: names, size: samples.length }, place.value.sample);
      first.paint(axes[0], place.value.first);
      second.paint(axes[1], place.value.second);
      const table = (samples[place.value.sample]?.extremes.length ?? 0) > 0;
      show(second.node, axes[1].size > 1 && !table); // a table has a column for each
      show(node, samples.length > 1 || axes[0].size > 1 || axes[1].size > 1);
    });
    return node;
  }
}

type Now<T> = { readonly value: T };

function stripPart(
  { theme, hover, lock, watch, parts }: ViewContext<Traits>,
  shown: Now<Shown>,
  place: Now<Place>,
): HTMLElement[] {
  const strip = parts.tokenStrip("tokens", parts.stripActions());
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const key = legend();
  watch(() => {
    const { samples, limit } = shown.value;
    const sample = samples[place.value.sample];
    const scores = seriesOf(sample, place.value);
    const scale = limit === null ? diverging(scores ?? []) : { limit, knee: limit, max: limit, floor: 0 };
    const { ramp } = theme.value;
    strip.paint({ tokens: sample?.tokens ?? [], scores, scale, ramp, position: null, stale: false });
    key.paint(scale, ramp, "");
    for (const node of [strip.node, line, key.node]) show(node, sample?.values != null);
  });
  watch(() => {
    strip.mark(tokenIndex(hover.value), tokenIndex(lock.value));
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    const words = at === null ? "" : tokenWords(shown.value, place.value, at);
    line.classList.toggle("iw-fixed-on", words !== "");
    setText(line, words || "Hover a token to read its value; click to keep it.");
  });
  return [strip.node, line, key.node];
}

/** What was likeliest where the token under the pointer stands. */
function guessPart({ hover, lock, watch }: ViewContext<Traits>, shown: Now<Shown>, place: Now<Place>): HTMLElement[] {
  const chips = el("div", "iw-guesses", { role: "list", "aria-label": "likeliest here" });
  watch(() => {
    const { guesses, samples } = shown.value;
    const at = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    show(chips, guesses !== null);
    if (guesses === null) return;
    const own = samples[place.value.sample]?.tokens[at ?? -1]?.text;
    const [, width = 0] = guesses.values.shape;
    reconcile(
      chips,
      at === null ? [] : (guesses.tokens[at] ?? []),
      () => el("span", "iw-chip", { role: "listitem" }, el("bdi"), el("span", "iw-muted iw-num")),
      (chip, text, rank) => {
        const [name, value] = chip.children as unknown as [HTMLElement, HTMLElement];
        setText(name, named({ text }));
        setText(value, ` ${num(guesses.values.data[(at ?? 0) * width + rank] ?? Number.NaN)}`);
        chip.classList.toggle("iw-guess-own", text === own);
      },
    );
  });
  return [chips];
}
