/** A prompt set: every example's answer as a dot, the mean with its interval; a click shows one example's effects. */

import { el, setText, show } from "../kit/dom.ts";
import { dots } from "../kit/dots.ts";
import { num } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { segment } from "../kit/segment.ts";
import { answerIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import type { Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

export function examplesPart({ snapshot, watch }: ViewContext<Traits>, settings: Settings): HTMLElement {
  const part = section("Examples", "the same question on other prompts");
  const which = segment("which example", (value) => {
    settings.example.value = Number(value);
  });
  const strip = dots("examples", (index) => {
    settings.example.value = settings.example.peek() === index ? -1 : index;
  });
  const words = el("div", "iw-honest iw-num", { "aria-live": "polite", "data-iw": "example" });
  part.aside.append(which.node);
  part.body.append(strip.node, words);
  watch(() => {
    const now = snapshot.value;
    const answer = now?.state.answer;
    const values = answer?.values ?? [];
    show(part.node, values.length > 1);
    if (answer == null || now === null || values.length < 2) return;
    const chosen = settings.example.value;
    const one = values[chosen];
    which.paint(
      [
        { value: "-1", text: `Mean of ${values.length}` },
        { value: String(Math.max(0, chosen)), text: chosen < 0 ? "Example 1" : `Example ${chosen + 1}` },
      ],
      String(chosen),
    );
    strip.paint({ values, mean: answer.metric, interval: answer.interval ?? null, chosen });
    strip.node.classList.toggle("iw-stale", answerIsStale(now));
    const spread = answer.interval == null ? "" : `, 95 % interval ±${num(answer.interval)}`;
    const shown = one === undefined ? "" : ` · shown in the grid: example ${chosen + 1}, ${num(one)}`;
    setText(words, `mean ${num(answer.metric)}${spread}${shown}`);
  });
  return part.node;
}
