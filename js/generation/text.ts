/** One continuation: its tokens as text, each one to be read and pressed, and under each what the edits did to it. */

import { colourAt, css, type Ramp } from "../kit/colour.ts";
import { el, reconcile, setAttributes, setText } from "../kit/dom.ts";
import { named, visible } from "../kit/format.ts";
import { isPress, stepInRow } from "../kit/keyboard.ts";
import { type Diverging, place } from "../kit/scale.ts";
import { type Branch, bits, endWords, type Word } from "./model.ts";

export type TextState = {
  branch: Branch;
  depth: number;
  divergence: number | null;
  running: boolean;
  stale: boolean;
  scale: Diverging;
  ramp: Ramp;
  chosen: number | null;
};
export type TextActions = {
  hover(branch: number, at: number | null): void;
  press(branch: number, at: number): void;
  drop(branch: number): void;
};
export type Text = { node: HTMLElement; paint(state: TextState): void };

export function text(actions: TextActions, abort: AbortSignal): Text {
  const label = el("span", "iw-text-label");
  const line = el("span", "iw-text", { role: "list", dir: "ltr" });
  const end = el("span", "iw-text-end iw-honest");
  const drop = el("button", "iw-link iw-text-drop", { type: "button", "aria-label": "drop this branch" }, "×");
  const node = el("div", "iw-text-row", { "data-iw": "text" }, label, el("div", "iw-text-body", {}, line, end), drop);
  let state: TextState | null = null;
  let active = 0;
  const options = { signal: abort };
  const at = (event: Event): number | null => {
    const word = (event.target as Element).closest?.("[data-at]");
    return word instanceof HTMLElement ? Number(word.dataset.at) : null;
  };
  const id = (): number => state?.branch.id ?? -1;

  line.addEventListener("pointerover", (event) => actions.hover(id(), at(event)), options);
  line.addEventListener("pointerleave", () => actions.hover(id(), null), options);
  line.addEventListener("focusin", (event) => actions.hover(id(), at(event)), options);
  line.addEventListener("focusout", () => actions.hover(id(), null), options);
  line.addEventListener(
    "click",
    (event) => {
      const index = at(event);
      // Selecting text with the mouse is not a click on a token.
      if (index !== null && (globalThis.getSelection?.()?.isCollapsed ?? true)) actions.press(id(), index);
    },
    options,
  );
  line.addEventListener(
    "keydown",
    (event) => {
      const next = stepInRow(event.key, active, line.childElementCount);
      if (next !== null) {
        event.preventDefault();
        goto(next);
      } else if (isPress(event.key)) {
        event.preventDefault();
        actions.press(id(), active);
      }
    },
    options,
  );
  drop.addEventListener("click", () => actions.drop(id()), options);

  function goto(index: number): void {
    line.children[active]?.setAttribute("tabindex", "-1");
    active = index;
    const word = line.children[index] as HTMLElement | undefined;
    if (word === undefined) return;
    word.tabIndex = 0;
    word.focus();
  }

  return {
    node,
    paint(next) {
      state = next;
      const { branch, depth } = next;
      if (active >= branch.tokens.length) active = 0;
      setText(label, depth === 0 ? branch.label : `↳ ${branch.run === "plain" ? "as it is" : "edited"}`);
      setAttributes(node, { "data-branch": branch.id, "data-run": branch.run });
      setAttributes(line, { "aria-label": branch.label, "data-iw": depth === 0 ? `${branch.run}-text` : null });
      node.style.setProperty("--iw-depth", String(depth));
      node.classList.toggle("iw-stale", next.stale || branch.stale);
      line.classList.toggle("iw-running", next.running && branch.ended === "");
      drop.hidden = depth === 0;
      reconcile(
        line,
        branch.tokens,
        () => el("span", "iw-word", { role: "listitem" }),
        (word, token, index) => {
          paintWord(word, token, index, next);
          word.tabIndex = index === active ? 0 : -1;
        },
      );
      setText(
        end,
        [endWords(branch), branch.stale ? "written before your last change" : ""].filter(Boolean).join(" · "),
      );
      end.hidden = end.textContent === "";
    },
  };
}

function paintWord(node: HTMLElement, word: Word, index: number, state: TextState): void {
  const { branch, divergence, scale, ramp, chosen } = state;
  setText(node, shown(word));
  const change = bits(word, branch.run);
  const colour = Number.isNaN(change) ? null : colourAt(ramp, place(scale, change));
  node.style.borderBottomColor = css(colour);
  node.classList.toggle("iw-divergence", branch.parent === null && index === divergence);
  node.classList.toggle("iw-branching", branch.parent !== null && index === 0);
  node.classList.toggle("iw-changed-here", branch.marks.includes(index));
  node.classList.toggle("iw-locked", index === chosen);
  node.classList.toggle("iw-token-special", word.kind !== "text");
  setAttributes(node, {
    "data-at": index,
    "data-probability": word.probability,
    "data-other": word.other,
    "data-bits": Number.isNaN(change) ? null : change,
    "aria-label": named(word),
  });
}

/** Text is read as text here: a real line break breaks the line. */
function shown(word: Word): string {
  if (word.kind !== "text") return visible(word);
  return word.text
    .split("\n")
    .map((part) => visible({ text: part }))
    .join("\n");
}
