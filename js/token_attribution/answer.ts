/** A whole answer: click one of its tokens and what came before recolours; click any token and see which outputs it moved. */

import { choice } from "../kit/choice.ts";
import { button, el, on, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { named, num, percent, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { heatmap } from "../kit/heatmap.ts";
import { legend } from "../kit/legend.ts";
import { diverging } from "../kit/scale.ts";
import type { StripActions } from "../kit/tokens.ts";
import { partIsStale } from "../session/derive.ts";
import { answerNote, answerTable, matrixOf, readAnswer, scoreAt, seenFrom, type WholeAnswer } from "./answer_model.ts";
import { copyButton } from "./copy.ts";
import { methodTitle } from "./model.ts";
import type { Shared } from "./shared.ts";
import { wish } from "./token_part.ts";

const LENGTHS = [0, 4, 8, 16, 32, 64];

export function answerSection(shared: Shared): HTMLElement {
  const { context, answer: wanted, choose, ours } = shared;
  const { panel, snapshot, watch, derive, signal, theme, abort } = context;
  const part = section("Whole answer", "every token of it, to every token before it");
  const hovered = signal<number | null>(null);
  const kept = signal<number | null>(null);
  const other = signal(false);
  const go = button("Write an answer and explain each of its tokens", "iw-btn iw-answer-go");
  const count = choice("Tokens", (value) => choose("answer", Number(value)));
  const whole = derive(() => (ours.value && wanted.value > 0 ? readAnswer(panel.value) : null));
  const copy = copyButton(() => (whole.peek() === null ? null : answerTable(whole.peek() as WholeAnswer)));
  /** One scale for all of it: found once, however often something is hovered. */
  const scaled = derive(() => diverging(whole.value === null ? [] : Array.from(whole.value.scores.data)));
  /** The token that is meant: hovered, kept, else the first output. */
  const picked = derive(() => {
    const now = whole.value;
    const at = hovered.value ?? kept.value;
    return now === null ? null : at !== null && at < now.tokens.length ? at : now.prompt;
  });

  const actions = (offset: () => number): StripActions => ({
    hover: (index) => point(index === null ? null : index + offset()),
    lock: (index) => keep(index + offset()),
  });
  const prompt = context.parts.tokenStrip(
    "prompt of the answer",
    actions(() => 0),
  );
  const written = context.parts.tokenStrip(
    "answer",
    actions(() => whole.peek()?.prompt ?? 0),
  );
  const map = heatmap(
    "answer, rows are outputs and columns inputs",
    {
      hover(cell) {
        over.value = cell;
        point(cell === null ? null : (whole.peek()?.prompt ?? 0) + cell.row);
      },
      press: (cell) => keep((whole.peek()?.prompt ?? 0) + cell.row),
    },
    abort,
  );
  const over = signal<{ row: number; column: number } | null>(null);
  const names = el("div", "iw-answer-names", { "aria-hidden": "true" });
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed-answer" });
  const likely = el("span", "iw-alternatives", { role: "group", "aria-label": "what it might have been" });
  const might = el("div", "", {}, el("span", "iw-muted", {}, "It might have been "), likely);
  const key = legend();
  const about = honest();
  const none = el("div", "iw-muted");
  const body = el(
    "div",
    "iw-section-body",
    {},
    el(
      "div",
      "iw-answer-text",
      {},
      el("span", "iw-muted", {}, "prompt"),
      prompt.node,
      el("span", "iw-muted", {}, "answer"),
      written.node,
    ),
    line,
    might,
    el("div", "iw-answer-map", {}, names, map.node),
    key.node,
    about.node,
  );
  part.aside.append(copy, count.node);
  part.body.append(go, none, body);
  on(go, "click", () => choose("answer", 8));

  function point(index: number | null): void {
    if (index !== hovered.peek()) hovered.value = index;
  }
  function keep(index: number): void {
    kept.value = kept.peek() === index ? null : index;
    other.value = false;
  }
  on(likely, "click", (event) => {
    const id = (event.target as HTMLElement).closest<HTMLElement>("[data-id]")?.dataset.id;
    const [now, at] = [whole.peek(), kept.peek() ?? whole.peek()?.prompt];
    if (id === undefined || now === null || at == null || at < now.prompt) return;
    const output = at - now.prompt;
    kept.value = at;
    other.value = now.outputs[output]?.id !== Number(id);
    if (other.peek()) wish(context, "instead", { output, id: Number(id) });
  });

  watch(() => {
    const now = whole.value;
    show(go, wanted.value === 0);
    show(body, now !== null);
    show(copy, now !== null);
    show(count.node, wanted.value > 0);
    show(none, wanted.value > 0 && now === null);
    setText(none, answerNote(panel.value) || "The answer is being written.");
    const lengths = LENGTHS.includes(wanted.value) ? LENGTHS : [...LENGTHS, wanted.value];
    count.paint(
      lengths.map((value) => ({ value: String(value), text: value === 0 ? "none" : String(value) })),
      String(wanted.value),
    );
    if (now === null) return;
    body.classList.toggle("iw-stale", partIsStale(panel.value, "answer", snapshot.value?.revision ?? 0));
    const scale = scaled.value;
    map.paint(matrixOf(now), scale, theme.value.ramp);
    map.node.style.height = `${Math.min(18, Math.max(4, 320 / now.outputs.length)) * now.outputs.length}px`;
    key.paint(scale, theme.value.ramp, "made it less ↔ more likely");
    about.paint([methodTitle(now.method), now.line, "teacher-forced"]);
    const every = Math.max(1, Math.ceil(now.outputs.length / 22));
    reconcile(
      names,
      now.outputs,
      () => el("span", "iw-answer-name"),
      (name, token, index) => setText(name, index % every === 0 ? named(token) : ""),
    );
  });
  watch(() => {
    const [now, at] = [whole.value, picked.value];
    if (now === null || at === null) return;
    const mine = other.value && now.instead !== null && now.prompt + now.instead.output === at;
    const scores = seenFrom(now, at, mine);
    const state = { scale: scaled.value, ramp: theme.value.ramp, position: null, stale: false };
    const cut = now.prompt;
    const pick = (from: number): ReadonlySet<number> => new Set([at - from]);
    prompt.paint({ ...state, tokens: now.tokens.slice(0, cut), scores: scores.slice(0, cut), chosen: pick(0) });
    written.paint({ ...state, tokens: now.tokens.slice(cut), scores: scores.slice(cut), chosen: pick(cut) });
    line.classList.toggle("iw-fixed-on", hovered.value !== null || kept.value !== null);
    setText(line, words(now, at, over.value, mine));
    map.mark(over.value);
    for (const [row, name] of [...names.children].entries()) name.classList.toggle("iw-answer-here", row === at - cut);
    paintLikely(now, at, mine);
  });

  function paintLikely(now: WholeAnswer, at: number, mine: boolean): void {
    const output = at - now.prompt;
    const tops = now.tops[output] ?? [];
    show(might, tops.length > 0);
    reconcile(
      likely,
      tops,
      () => button("", "iw-alternative"),
      (one, token) => {
        const pressed = mine ? now.instead?.token.id === token.id : now.outputs[output]?.id === token.id;
        setText(one, `${named(token)} ${percent(token.probability)} %`);
        setAttributes(one, {
          "data-id": token.id,
          "aria-pressed": String(pressed),
          title: "explain this token in its place",
        });
      },
    );
  }
  return part.node;
}

/** "␣Mary (output 0, log-probability −0.09): ␣John (4) +1.230" */
function words(now: WholeAnswer, at: number, cell: { row: number; column: number } | null, mine: boolean): string {
  if (cell !== null && cell.row >= 0 && cell.column >= 0) {
    const [output, input] = [now.outputs[cell.row], now.tokens[cell.column]];
    if (output !== undefined && input !== undefined) {
      const value = scoreAt(now, cell.row, cell.column);
      return `${named(input)} (${cell.column}) ${Number.isNaN(value) ? "comes after" : `was worth ${signed(value, 3)} to`} ${named(output)} (output ${cell.row})`;
    }
  }
  const token = mine && now.instead !== null ? now.instead.token : now.tokens[at];
  if (token === undefined) return "";
  const output = at - now.prompt;
  const log = mine ? now.instead?.metric : now.metrics[output];
  if (output < 0) return `${named(token)} (position ${at}): the outputs after it show what it was worth to them`;
  const role = `${named(token)} (output ${output}, log-probability ${num(log ?? Number.NaN)}${mine ? ", instead of what was written" : ""})`;
  return `${role}: the tokens before it show what they were worth to it${output < now.outputs.length - 1 ? ", those after it what it was worth to them" : ""}`;
}
