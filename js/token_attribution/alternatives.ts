/** The likely next tokens: a click asks the same question for another target. */

import "./alternatives.css";
import { button, el, on, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, percent } from "../kit/format.ts";
import { answerIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import type { Traits } from "./model.ts";

export function alternativesPart({
  snapshot,
  refusals,
  store,
  intent,
  panelId,
  watch,
}: ViewContext<Traits>): HTMLElement {
  const list = el("span", "iw-alternatives", { role: "group", "aria-label": "target" });
  const wish = `target:${panelId}`;
  const refused = alertLine(() => store.dismiss(wish));
  const node = el("div", "", {}, el("span", "iw-section-words", {}, "Explain instead "), list, refused.node);
  on(list, "click", (event) => {
    const id = (event.target as HTMLElement).closest<HTMLElement>("[data-id]")?.dataset.id;
    if (id !== undefined) intent("panel", wish, { panel: panelId, action: "target", id: Number(id) });
  });
  watch(() => {
    const now = snapshot.value;
    const top = now?.state.answer?.top ?? [];
    const target = new Set(now?.state.question?.target.map(({ id }) => id) ?? []);
    show(node, top.length > 0);
    list.classList.toggle("iw-stale", now !== null && answerIsStale(now));
    reconcile(
      list,
      top,
      () => button("", "iw-alternative"),
      (one, token) => {
        setText(one, `${named(token)} ${percent(token.probability)} %`);
        setAttributes(one, {
          "data-id": token.id,
          "aria-pressed": String(target.has(token.id)),
          title: "make it the target",
        });
      },
    );
  });
  watch(() => refused.paint(refusals.value.get(wish)?.message ?? null));
  return node;
}
