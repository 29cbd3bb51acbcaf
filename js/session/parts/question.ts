/**
 * The question: the prompt with its read position, and a quiet form to change it. What was typed stays in its fields until the
 * kernel has taken it: a refusal is shown beside them.
 */

import "./parts.css";
import { button, el, on, setText, show, uniqueId } from "../../kit/dom.ts";
import { alertLine } from "../../kit/errors.ts";
import { named } from "../../kit/format.ts";
import { type StripActions, tokenIndex } from "../../kit/tokens.ts";
import type { Question, Token } from "../protocol.ts";
import type { PartContext, ViewTraits } from "../shell.ts";

type Typed = string | string[] | null;

/** A field's text as the kernel wants it: empty is null, a JSON list of strings is several tokens, all else is one text as typed. */
export function readField(text: string): Typed {
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

export function writeField(tokens: readonly Token[]): string {
  return tokens.length > 1 ? JSON.stringify(tokens.map((token) => token.text)) : (tokens[0]?.text ?? "");
}

export function questionForm<T extends ViewTraits>(
  context: PartContext<T>,
): { toggle: HTMLElement; node: HTMLElement } {
  const { intent, watch, state, pending, refusals, store, signal } = context;
  const open = signal(false);
  const sent = signal(false);
  const toggle = button("Edit question", "iw-link", { "aria-expanded": "false" });
  const prompt = el("textarea", "iw-input iw-prompt", { rows: 2, "aria-label": "prompt", spellcheck: "false" });
  const target = textField("target", "empty: the model's own top token");
  const foil = textField("foil", "empty: over the mean logit");
  const ask = button("Ask", "iw-btn iw-btn-main");
  const cancel = button("Cancel");
  const alert = alertLine();
  const hint = el("span", "iw-honest", {}, "a leading space belongs to the token · Ctrl+Enter asks");
  const chat = el("input", "", { type: "checkbox" });
  const asChat = el("label", "iw-honest", {}, chat, " as a chat message");
  const fields = el("div", "iw-form-row", {}, target.node, foil.node);
  const node = el(
    "div",
    "iw-form",
    { role: "group", "aria-label": "question" },
    label("Prompt", prompt),
    fields,
    el("div", "iw-form-row", {}, ask, cancel, hint),
    alert.node,
  );

  function fill(question: Question | null): void {
    const message = question?.message ?? null;
    chat.checked = message !== null;
    prompt.value = message ?? question?.prompt ?? "";
    target.input.value = writeField(question?.target ?? []);
    foil.input.value = writeField(question?.foil ?? []);
    target.preview();
    foil.preview();
  }

  function submit(): void {
    sent.value = true;
    intent("ask", "ask", {
      prompt: prompt.value,
      chat: chat.checked,
      target: readField(target.input.value),
      foil: readField(foil.input.value),
    });
  }

  function close(): void {
    sent.value = false;
    leave();
    store.dismiss("ask");
  }

  /** Closes it, and gives the focus back: else it falls to the notebook, where the next key is a command. */
  function leave(): void {
    if (node.querySelector(":focus") !== null) toggle.focus();
    open.value = false;
  }

  on(toggle, "click", () => {
    if (open.peek()) close();
    else {
      if (!refusals.peek().has("ask")) fill(state.peek()?.question ?? null);
      open.value = true;
      prompt.focus();
    }
  });
  on(ask, "click", submit);
  on(cancel, "click", close);
  on(node, "keydown", (event) => {
    const inLine = event.target instanceof HTMLInputElement;
    if (event.key === "Enter" && (inLine || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape") close();
  });

  watch(() => {
    const refusal = refusals.value.get("ask");
    const asking = pending.value.has("ask");
    alert.paint(refusal?.message ?? null);
    if (refusal !== undefined && sent.peek()) open.value = true;
    // Taken in, and no objection so far: the form has done its work. Its text stays, should a refusal still come.
    else if (sent.peek() && !asking) leave();
    ask.disabled = asking;
    setText(ask, asking ? "Asking …" : "Ask");
  });
  watch(() => {
    if (state.value?.model.chat) hint.before(asChat);
    show(node, open.value);
    toggle.setAttribute("aria-expanded", String(open.value));
  });
  return { toggle, node };
}

function label(text: string, field: HTMLElement): HTMLElement {
  return el("label", "iw-label", {}, el("span", "", {}, text), field);
}

function textField(name: string, placeholder: string): { node: HTMLElement; input: HTMLInputElement; preview(): void } {
  const id = uniqueId(name);
  const input = el("input", "iw-input", {
    type: "text",
    id,
    placeholder,
    "aria-label": name,
    spellcheck: "false",
    autocomplete: "off",
  });
  const seen = el("span", "iw-honest iw-num");
  const preview = (): void => {
    const value = readField(input.value);
    const list = value === null ? [] : Array.isArray(value) ? value : [value];
    setText(seen, list.map((text) => named({ text })).join(" | "));
  };
  on(input, "input", preview);
  return { node: el("div", "iw-label", {}, el("span", "", {}, `${name} `, seen), input), input, preview };
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
