/** What came of it: the next tokens before and after, and a receipt for everything that was done. */

import { el, setText } from "../../kit/dom.ts";
import { section } from "../../kit/frame.ts";
import { receipts } from "../../kit/receipts.ts";
import { answerIsStale, isEdited } from "../derive.ts";
import type { ViewContext, ViewTraits } from "../shell.ts";

export function outcomePart<T extends ViewTraits>({ watch, snapshot, parts }: ViewContext<T>): HTMLElement[] {
  const next = section("Next token", "at ▲");
  const chart = parts.dumbbell("next tokens");
  next.body.append(chart.node);
  const of = el("span", "iw-muted");
  next.aside.append(of);
  const done = section("What was done", "receipts");
  const list = receipts();
  done.body.append(list.node);
  watch(() => {
    const now = snapshot.value;
    const answer = now?.state.answer;
    if (now == null || answer == null) return;
    const changes = answer.top.map((one) => ({
      ...one,
      before: one.plain_probability,
      after: one.probability,
    }));
    chart.paint(changes, isEdited(now.state));
    setText(of, (now.state.question?.examples ?? 1) > 1 ? "of example 1" : "");
    list.paint(answer.receipts);
    for (const node of [chart.node, list.node]) node.classList.toggle("iw-stale", answerIsStale(now));
  });
  return [next.node, done.node];
}
