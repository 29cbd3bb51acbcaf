/** Generation: the model's own text and the edited one, side by side; a click on a token shows its alternatives and branches there. */

import "../kit/choice.css";
import "./view.css";
import { button, el, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { entered, followed } from "../kit/field.ts";
import { named, percent, plural } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import { partIsStale } from "../session/derive.ts";
import { promptStrip } from "../session/parts/prompt_strip.ts";
import type { ViewContext } from "../session/shell.ts";
import {
  type Branch,
  bits,
  type Choice,
  inTree,
  readTexts,
  type Texts,
  type Traits,
  type Word,
  wordWords,
} from "./model.ts";
import { type Text, text } from "./text.ts";

type At = { branch: number; at: number };
type Shared = {
  texts: { readonly value: Texts | null; peek(): Texts | null };
  stale: { readonly value: boolean };
  hovered: { value: At | null };
  chosen: { value: At | null; peek(): At | null };
};

export function build(context: ViewContext<Traits>): void {
  const { frame, panel, snapshot, derive, signal } = context;
  const texts = derive(() => readTexts(panel.value));
  const shared: Shared = {
    texts,
    stale: derive(
      () => texts.value?.running === false && partIsStale(panel.value, "order", snapshot.value?.revision ?? 0),
    ),
    hovered: signal<At | null>(null),
    chosen: signal<At | null>(null),
  };
  const question = section("Question", "what the model goes on from");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, promptStrip(context));
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "", {}, textPart(context, shared)),
  );
}

function wish({ intent, panelId }: ViewContext<Traits>, action: string, args: Record<string, unknown> = {}): void {
  // Two branches clicked quickly, or dropped, are two wishes; of two stops the newer is enough.
  const about = [args.branch, args.at, args.token].filter((one) => one !== undefined);
  intent("panel", ["panel", panelId, ...about].join(":"), { panel: panelId, action, ...args });
}

function textPart(context: ViewContext<Traits>, shared: Shared): HTMLElement {
  const { watch, theme, panel, refusals, store, panelId } = context;
  const part = section("Text", "same seed; first difference marked");
  const run = button("Generate");
  const list = el("div", "iw-texts");
  const none = el("div", "iw-muted", {}, "The model's own continuation and the edited one come with the first answer.");
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const key = legend();
  const about = honest();
  const failed = alertLine();
  const refused = alertLine(() => {
    for (const one of refusals.peek().keys()) if (one.startsWith(`panel:${panelId}`)) store.dismiss(one);
  });
  part.aside.append(run);
  part.body.append(
    settings(context),
    none,
    list,
    line,
    alternatives(context, shared),
    refused.node,
    failed.node,
    key.node,
    about.node,
  );
  run.addEventListener("click", () => wish(context, shared.texts.peek()?.running ? "stop" : "generate"));

  const rows = new WeakMap<Element, Text>();
  const actions = {
    hover(branch: number, at: number | null): void {
      shared.hovered.value = at === null ? null : { branch, at };
    },
    press(branch: number, at: number): void {
      const now = shared.chosen.peek();
      shared.chosen.value = now?.branch === branch && now.at === at ? null : { branch, at };
    },
    drop(branch: number): void {
      if (shared.chosen.peek()?.branch === branch) shared.chosen.value = null;
      wish(context, "drop", { branch });
    },
  };
  const make = (): HTMLElement => {
    const one = text(actions, context.abort);
    rows.set(one.node, one);
    return one.node;
  };
  watch(() => {
    const now = shared.texts.value;
    setText(run, now?.running ? "Stop" : "Generate");
    show(none, now === null);
    show(list, now !== null);
    if (now === null) return;
    const edited = now.branches.some((one) => one.run === "edited" && one.tokens.length > 0);
    const scale = diverging(now.branches.flatMap((one) => one.tokens.map((word) => bits(word, one.run))));
    const { ramp } = theme.value;
    const chosen = shared.chosen.value;
    reconcile(
      list,
      inTree(now.branches).filter(({ branch }) => branch.tokens.length > 0 || branch.run === "plain"),
      make,
      (node, { branch, depth }) =>
        rows.get(node)?.paint({
          branch,
          depth,
          divergence: now.divergence,
          running: now.running,
          stale: shared.stale.value,
          scale,
          ramp,
          chosen: chosen?.branch === branch.id ? chosen.at : null,
        }),
    );
    show(key.node, edited && scale.max > 0);
    key.paint(scale, ramp, "bits: the edits made it less ↔ more likely");
    const branches = now.branches.filter((one) => one.parent !== null).length;
    about.paint([
      now.note,
      edited
        ? "probabilities are the model's own, before temperature and cuts"
        : "nothing is changed, so there is one text",
      branches > 0 && plural(branches, "branch", "branches"),
      shared.stale.value && "written before your last change",
    ]);
  });
  watch(() => {
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
    const one = [...refusals.value].find(([name]) => name.startsWith(`panel:${panelId}`));
    refused.paint(one?.[1].message ?? null);
  });
  watch(() => {
    const meant = wordAt(shared.texts.value, shared.hovered.value ?? shared.chosen.value);
    line.classList.toggle("iw-fixed-on", meant !== null);
    setText(line, meant === null ? HINT : wordWords(meant.word, meant.branch.run));
  });
  return part.node;
}

const HINT = "Hover a token to read its probability and what the edits did to it; click it for its alternatives.";

function wordAt(texts: Texts | null, at: At | null): { branch: Branch; word: Word } | null {
  const branch = texts?.branches.find((one) => one.id === at?.branch);
  const word = branch?.tokens[at?.at ?? -1];
  return branch === undefined || word === undefined ? null : { branch, word };
}

/** What the model might have said instead, the likeliest first; each one is a way to go on from here. */
function alternatives(context: ViewContext<Traits>, { texts, chosen }: Shared): HTMLElement {
  const { watch } = context;
  const title = el("span", "iw-muted");
  const list = el("div", "iw-choices", { role: "group", "aria-label": "alternatives" });
  const done = button("Done", "iw-link");
  const node = el("div", "iw-alternatives", {}, el("div", "iw-alternatives-head", {}, title, done), list);
  done.addEventListener("click", () => {
    chosen.value = null;
  });
  list.addEventListener("click", (event) => {
    const token = (event.target as HTMLElement).closest<HTMLElement>("[data-token-id]")?.dataset.tokenId;
    const at = chosen.peek();
    if (token === undefined || at === null) return;
    wish(context, "branch", { branch: at.branch, at: at.at, token: Number(token) });
  });
  watch(() => {
    const meant = wordAt(texts.value, chosen.value);
    show(node, meant !== null);
    if (meant === null) return;
    const { word, branch } = meant;
    setText(
      title,
      `Instead of ${named(word)} (${branch.run === "plain" ? "as it is" : "edited"}): click one to branch from here`,
    );
    const most = Math.max(...word.top.map(([, , p]) => p), 1e-9);
    reconcile(
      list,
      word.top,
      () =>
        el(
          "button",
          "iw-choice",
          { type: "button" },
          el("i", "iw-choice-bar"),
          el("bdi"),
          el("span", "iw-num iw-muted"),
        ),
      (one, [id, text, probability, kind]: Choice) => {
        const [bar, name, share] = one.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
        bar.style.width = `${(probability / most) * 100}%`;
        const shown = named({ text, kind });
        setText(name, shown);
        setText(share, `${percent(probability)} %`);
        one.disabled = id === word.id;
        setAttributes(one, { "data-token-id": id, "aria-label": `branch with ${shown}` });
      },
    );
  });
  return node;
}

type Field = {
  name: "tokens" | "temperature" | "top_k" | "top_p" | "seed";
  text: string;
  whole: boolean;
  min: number;
  max: number;
  /** Whether it says how a token is drawn: at temperature 0 none is. */
  sampling: boolean;
};
const FIELDS: Field[] = [
  { name: "tokens", text: "Tokens", whole: true, min: 1, max: 512, sampling: false },
  { name: "temperature", text: "Temperature", whole: false, min: 0, max: 100, sampling: false },
  { name: "top_k", text: "Top-k", whole: true, min: 0, max: Number.MAX_SAFE_INTEGER, sampling: true },
  { name: "top_p", text: "Top-p", whole: false, min: 1e-6, max: 1, sampling: true },
  { name: "seed", text: "Seed", whole: true, min: 0, max: 2 ** 48 - 1, sampling: true },
];

/** The view's own settings; what a choice of tokens does not use at temperature 0 is not shown there. */
function settings(context: ViewContext<Traits>): HTMLElement {
  const { model, onTrait } = context;
  const fields = FIELDS.map((field) => numberField(context, field));
  const change = el("select", "iw-menu", { "aria-label": "when something changes" });
  for (const value of ["restart", "from here"] as const) change.append(el("option", "", { value }, value));
  const read = (): void => {
    change.value = String(model.get("on_change") ?? "restart");
  };
  read();
  onTrait("on_change", read);
  change.addEventListener("change", () => {
    model.set("on_change", change.value as Traits["on_change"]);
    model.save_changes();
  });
  const menu = el("label", "iw-field", {}, el("span", "", {}, "When something changes"), change);
  return el("div", "iw-generation-settings", { role: "group", "aria-label": "settings" }, ...fields, menu);
}

function numberField({ model, signal, watch, onTrait }: ViewContext<Traits>, field: Field): HTMLElement {
  const { name, text: label, min, max } = field;
  const input = el("input", "iw-input iw-number", {
    type: "number",
    min,
    max,
    step: field.whole ? 1 : "any",
    "aria-label": label.toLowerCase(),
  });
  const alert = alertLine();
  const wrong = signal<string | null>(null);
  const greedy = signal(false);
  const settle = followed(
    input,
    () => String(model.get(name) ?? ""),
    () => wrong.peek() !== null,
  );
  const read = (): void => {
    greedy.value = Number(model.get("temperature") ?? 0) === 0;
    settle();
  };
  read();
  for (const trait of new Set([name, "temperature"] as const)) onTrait(trait, read);
  entered(input, () => {
    wrong.value = objection(input, field);
    if (wrong.value !== null) return;
    if (input.value !== "") {
      model.set(name, input.valueAsNumber);
      model.save_changes();
    }
    settle();
  });
  const node = el("div", "iw-setting", {}, el("label", "iw-field", {}, el("span", "", {}, label), input), alert.node);
  watch(() => alert.paint(wrong.value));
  watch(() => show(node, !field.sampling || !greedy.value));
  return node;
}

/** Why what was typed cannot be used; an empty field asks for nothing. */
function objection({ value, valueAsNumber: number, validity }: HTMLInputElement, field: Field): string | null {
  const { text, whole, min, max } = field;
  if (value === "" && !validity.badInput) return null;
  if (number >= min && number <= max && (!whole || Number.isInteger(number))) return null;
  const wanted = whole ? "a whole number" : "a number";
  return `${text}: ${wanted} from ${min} to ${max}${value === "" ? "" : `, not ${value}`}.`;
}
