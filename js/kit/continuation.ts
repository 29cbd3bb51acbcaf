/** Two continuations of one prompt, side by side, the first difference marked; the probability of a token on hover. */

import "./continuation.css";
import { el, on, reconcile, setAttributes, setText } from "./dom.ts";
import { named, percent, visible } from "./format.ts";

export type Written = { id: number; text: string; kind?: string; probability: number };
export type ContinuationState = {
  plain: readonly Written[];
  edited: readonly Written[];
  divergence: number | null;
  running: boolean;
  stale: boolean;
  note: string;
};

export type Continuation = { node: HTMLElement; paint(state: ContinuationState): void };

export function continuation(abort: AbortSignal): Continuation {
  const plain = line("as it is");
  const edited = line("edited");
  const note = el("div", "iw-honest", { "aria-live": "polite" });
  const node = el("div", "iw-continuation", {}, plain.label, plain.text, edited.label, edited.text, el("span"), note);
  let said = "";

  on(
    node,
    "pointerover",
    (event) => {
      const token = (event.target as HTMLElement).closest<HTMLElement>("[data-probability]");
      setText(note, token === null ? said : `${token.dataset.name} · ${percent(Number(token.dataset.probability))} %`);
    },
    { signal: abort },
  );
  on(node, "pointerleave", () => setText(note, said), { signal: abort });

  return {
    node,
    paint(state) {
      said = state.note;
      setText(note, said);
      node.classList.toggle("iw-stale", state.stale);
      for (const [row, tokens] of [
        [plain, state.plain],
        [edited, state.edited],
      ] as const) {
        row.text.classList.toggle("iw-running", state.running);
        reconcile(
          row.text,
          tokens,
          () => el("span", "iw-written"),
          (span, token, index) => {
            setText(span, wordOf(token));
            span.classList.toggle("iw-divergence", index === state.divergence);
            setAttributes(span, { "data-probability": token.probability, "data-name": named(token) });
          },
        );
      }
    },
  };
}

function line(label: string): { label: HTMLElement; text: HTMLElement } {
  return {
    label: el("span", "iw-muted", {}, label),
    text: el("span", "iw-written-line", {
      "aria-label": label,
      "data-iw": label === "edited" ? "edited-text" : "plain-text",
    }),
  };
}

/** Text is read as text here: a real line break breaks the line. */
function wordOf(token: Written): string {
  return token.kind === undefined || token.kind === "text"
    ? token.text
        .split("\n")
        .map((part) => visible({ text: part }))
        .join("\n")
    : visible(token);
}
