/**
 * The question: the prompt with its read position, and a quiet form to change it. What was typed stays in its fields until the
 * kernel has taken it: a refusal is shown beside them.
 */

import "./parts.css";
import { button, el, on, setText, show } from "../../kit/dom.ts";
import { alertLine } from "../../kit/errors.ts";
import { named } from "../../kit/format.ts";
import { isComposing } from "../../kit/keyboard.ts";
import { type StripActions, tokenIndex } from "../../kit/tokens.ts";
import type { Asked, Question, Token } from "../protocol.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

/** A field's text as the kernel wants it: empty is null, a JSON list of strings is several tokens, all else is one text as typed. */
function readField(text: string): string | string[] | null {
  if (text === "") return null;
  if (text.startsWith("[")) {
    try {
      const list: unknown = JSON.parse(text);
      if (Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === "string")) return list;
    } catch {
      // not a list: a token that begins with a bracket
    }
  }
  return text;
}

function writeField(tokens: readonly Token[]): string {
  const texts = tokens.map((token) => token.text);
  // A field of one line drops the breaks.
  return texts.length > 1 || /[\r\n]/.test(texts[0] ?? "") ? JSON.stringify(texts) : (texts[0] ?? "");
}

function textOf(question: Question | null): string {
  return question?.message ?? question?.prompt ?? "";
}

export function questionForm<T extends ViewTraits>(
  context: PartContext<T>,
): { toggle: HTMLElement; node: HTMLElement } {
  const { intent, watch, derive, state, question, pending, refusals, store, signal } = context;
  const open = signal(false);
  /** The number of our last ask, until it is refused, or lost, or more is typed. */
  const asked = signal<number | null>(null);
  const takenIn = derive(() => asked.value !== null && store.taken.value >= asked.value);
  let from: Question | null = null;
  /** Somebody has typed what stands here, and the kernel has not answered it. */
  let typed = false;
  const toggle = button("Edit question", "iw-link", { "aria-expanded": "false" });
  const prompt = el("textarea", "iw-input iw-prompt", { rows: 2, "aria-label": "prompt", spellcheck: "false" });
  const target = tokenField("target", "empty: the model's own top token");
  const foil = tokenField("foil", "empty: over the mean logit");
  const ask = button("Ask", "iw-btn iw-btn-main");
  const cancel = button("Cancel");
  const alert = alertLine();
  const hint = el("span", "iw-honest", {}, "a leading space belongs to the token · Ctrl+Enter asks");
  const chat = el("input", "", { type: "checkbox" });
  const asChat = el("label", "iw-honest", {}, chat, " as a chat message");
  const alone = el("div", "iw-honest", { "data-iw": "alone" }, "a new prompt is asked alone, without the others");
  const node = el(
    "div",
    "iw-form",
    { role: "group", "aria-label": "question" },
    label("Prompt", prompt),
    el("div", "iw-form-row", {}, target.node, foil.node),
    el("div", "iw-form-row", {}, ask, cancel, hint),
    alone,
    alert.node,
  );

  function fill(): void {
    typed = false;
    from = question.peek();
    chat.checked = from?.message != null;
    prompt.value = textOf(from);
    target.fill(from?.target ?? []);
    foil.fill(from?.foil ?? []);
    paintAlone();
    store.dismiss("ask");
  }

  /** Whether the prompt is the present one; a text area has its own line breaks. */
  function isPresent(): boolean {
    return prompt.value === textOf(question.value).replace(/\r\n?/g, "\n");
  }

  function paintAlone(): void {
    const now = question.value;
    show(
      alone,
      now !== null && (now.examples > 1 || !!now.corrupt) && !(isPresent() && chat.checked === (now.message != null)),
    );
  }

  function submit(): void {
    typed = true;
    asked.value = intent("ask", "ask", {
      prompt: isPresent() ? textOf(question.value) : prompt.value,
      chat: chat.checked,
      target: target.read(),
      foil: foil.read(),
    });
  }

  function dismiss(): void {
    typed = false;
    asked.value = null;
    close();
    store.dismiss("ask");
  }

  /** Gives the focus back: else it falls to the notebook, where the next key is a command. */
  function close(): void {
    if (node.querySelector(":focus") !== null) toggle.focus();
    open.value = false;
  }

  on(toggle, "click", () => {
    if (open.peek()) {
      close();
      return;
    }
    // The kernel may have taken a question in and still refuse it: it is kept until there is another.
    if (!typed || (takenIn.peek() && question.peek() !== from)) fill();
    asked.value = null;
    open.value = true;
    prompt.focus();
  });
  on(ask, "click", submit);
  on(cancel, "click", dismiss);
  on(node, "input", () => {
    typed = true;
    asked.value = null;
    paintAlone();
  });
  on(node, "keydown", (event) => {
    if (isComposing(event)) return;
    const inLine = event.target instanceof HTMLInputElement;
    if (event.key === "Enter" && (inLine || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape") dismiss();
  });

  watch(() => {
    const refusal = refusals.value.get("ask");
    const asking = pending.value.has("ask");
    alert.paint(refusal?.message ?? null);
    ask.disabled = asking;
    setText(ask, asking ? "Asking …" : "Ask");
    if (refusal !== undefined && refusal.seq === asked.value) {
      asked.value = null;
      open.value = true;
    }
    // Lost with the connection: what the kernel confirms from now on may be a newer wish alone.
    else if (!takenIn.value && !asking) asked.value = null;
  });
  watch(() => {
    if (takenIn.value) close();
  });
  watch(paintAlone);
  watch(() => {
    if (state.value?.model.chat) hint.before(asChat);
    show(node, open.value);
    toggle.setAttribute("aria-expanded", String(open.value));
  });
  return { toggle, node };
}

function label(text: string, field: HTMLElement, seen: HTMLElement | null = null): HTMLElement {
  return el("label", "iw-label", {}, el("span", "", {}, text, seen), field);
}

type TokenField = { node: HTMLElement; fill(tokens: readonly Token[]): void; read(): Asked };

/** A field for a token or several. What is not touched stays the tokens it was filled with: their text may be that of others. */
function tokenField(name: string, placeholder: string): TokenField {
  const input = el("input", "iw-input", {
    type: "text",
    placeholder,
    "aria-label": name,
    spellcheck: "false",
    autocomplete: "off",
  });
  const seen = el("span", "iw-honest iw-num");
  let tokens: readonly Token[] = [];
  let text = "";
  const untouched = (): boolean => tokens.length > 0 && input.value === text;
  const preview = (): void => {
    const list = untouched() ? tokens : [readField(input.value) ?? []].flat().map((one) => ({ text: one }));
    setText(seen, list.map(named).join(" | "));
  };
  on(input, "input", preview);
  return {
    node: label(`${name} `, input, seen),
    fill(next) {
      tokens = next;
      input.value = writeField(next);
      text = input.value;
      preview();
    },
    read: () => (untouched() ? tokens.map(({ id }) => id) : readField(input.value)),
  };
}

/** Hover previews, a click locks, a second click on the same token lets go. */
export function stripActions<T extends ViewTraits>({ point, lock }: PartContext<T>): StripActions {
  return {
    hover(index: number | null): void {
      point(index === null ? null : { kind: "token", index });
    },
    lock(index: number): void {
      lock.value = tokenIndex(lock.peek()) === index ? null : { kind: "token", index };
    },
  };
}
