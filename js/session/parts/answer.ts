/** The answer at a glance: target over foil, the number, where it came from, and on how many prompts. */

import "./parts.css";
import { el, setAttributes, setText, show } from "../../kit/dom.ts";
import { alertLine } from "../../kit/errors.ts";
import { namedList, num, percent, plural } from "../../kit/format.ts";
import { answerIsStale, isEdited, OLD } from "../derive.ts";
import type { Answer, Question } from "../protocol.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

export function answerPart<T extends ViewTraits>({ watch, snapshot }: PartContext<T>): HTMLElement {
  const target = el("b", "iw-chip iw-chip-target", { "data-iw": "target" });
  const over = el("span", "iw-muted");
  const foil = el("span", "iw-chip", { "data-iw": "foil" });
  const metric = el("div", "iw-metric iw-num", { "data-iw": "metric", "aria-live": "polite" });
  const before = el("b", "iw-num");
  const words = el("span");
  const from = el("div", "iw-muted iw-from", {}, words, before);
  const honest = el("div", "iw-honest");
  const stale = el("div", "iw-honest iw-stale-note");
  const error = alertLine();
  const numbers = el("div", "iw-answer-numbers", {}, metric, from, honest);
  const node = el(
    "section",
    "iw-section iw-answer",
    { "aria-label": "answer" },
    el("div", "iw-versus", {}, target, over, foil),
    numbers,
    stale,
    error.node,
  );

  watch(() => {
    const now = snapshot.value;
    const question = now?.state.question ?? null;
    const answer = now?.state.answer ?? null;
    paintVersus(question);
    error.paint(now?.state.error ?? null);
    show(numbers, answer !== null);
    if (answer === null || now === null) {
      setAttributes(metric, { "data-value": null });
      setText(
        stale,
        now === null
          ? "waiting for the kernel …"
          : question === null
            ? "No question yet: Edit question, or session.ask(…)."
            : "",
      );
      return;
    }
    setText(metric, num(answer.metric));
    setAttributes(metric, {
      "data-value": answer.metric,
      "data-plain-value": answer.plain_metric,
      "data-revision": answer.revision,
    });
    const edited = isEdited(now.state);
    setText(words, `${question?.label ?? "metric"}${unit(question)}${edited ? ", from " : ""}`);
    setText(before, edited ? num(answer.plain_metric) : "");
    setText(honest, honestLine(question, answer, edited));
    const old = answerIsStale(now);
    numbers.classList.toggle("iw-stale", old);
    setText(stale, old && !now.state.busy && now.state.error === null ? OLD : "");
  });

  function paintVersus(question: Question | null): void {
    const [targets, foils] = [question?.target ?? [], question?.foil ?? []];
    const known = targets.length > 0;
    show(target, known);
    show(foil, known && foils.length > 0);
    setText(target, namedList(targets));
    setText(over, !known ? "" : foils.length > 0 ? "over" : "over the mean logit");
    setText(foil, namedList(foils));
  }
  return node;
}

function unit(question: Question | null): string {
  return question?.unit && question.unit !== "logits" ? ` (${question.unit})` : "";
}

function honestLine(question: Question | null, answer: Answer, edited: boolean): string {
  const interval = answer.interval == null ? "" : `, 95 % interval ±${num(answer.interval)}`;
  const examples =
    question === null || question.examples === 1
      ? "one prompt"
      : `mean of ${plural(question.examples, "prompt")}${interval}`;
  const { rank } = answer;
  const place = rank > 0 ? (Number.isInteger(rank) ? `rank\u00a0${rank}` : `mean rank\u00a0${num(rank, 1)}`) : "";
  const chance = Number.isFinite(answer.target_probability)
    ? `target at ${percent(answer.target_probability)}\u00a0%`
    : "";
  const kl = edited && answer.kl !== undefined ? `KL ${num(answer.kl)} from the plain run` : "";
  return [examples, chance, place, kl].filter(Boolean).join("\u00a0· ");
}
