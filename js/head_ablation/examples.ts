/** A prompt set: every example's answer as a dot, the mean with its interval; a click shows one example's effects. */

import { el, setText, show } from "../kit/dom.ts";
import { dots } from "../kit/dots.ts";
import { num } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { segment } from "../kit/segment.ts";
import { answerIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { meanOf, type Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

export function examplesPart({ snapshot, watch, panel }: ViewContext<Traits>, settings: Settings): HTMLElement {
  const part = section("Examples", "the same question on other prompts");
  const which = segment("which example", (value) => {
    settings.example.value = Number(value);
  });
  const strip = dots("examples", (index) => {
    settings.example.value = settings.example.peek() === index ? -1 : index;
  });
  const words = el("div", "iw-honest", { "aria-live": "polite", "data-iw": "example" });
  part.aside.append(which.node);
  part.body.append(strip.node, words);
  watch(() => {
    const now = snapshot.value;
    const answer = now?.state.answer;
    const { read } = settings.choice.value;
    const values =
      (read === "metric" ? answer?.values : answer?.each?.[read === "probability" ? "chance" : read]) ?? [];
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
    const { mean, interval } = meanOf(values);
    strip.paint({ values, mean, interval, chosen });
    strip.node.classList.toggle("iw-stale", answerIsStale(now));
    const prompts = panel.value?.data.prompts;
    const prompt = Array.isArray(prompts) ? (prompts[chosen] ?? "") : "";
    const shown =
      one === undefined ? "" : ` · shown in the grid: example ${chosen + 1}, ${num(one)}: ${String(prompt)}`;
    const what = read === "metric" ? now.state.question?.label : read;
    setText(words, `${what}: mean ${num(mean)}, 95 % interval ±${num(interval)}${shown}`);
  });
  return part.node;
}
