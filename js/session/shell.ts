/**
 * A view on a session, from the session's side: builds the frame, and keeps what every view shows true: whether there is a kernel,
 * whether something is being computed, what has been changed, undo and redo.
 */

import type { AnyModel } from "@anywidget/types";
import { computed, effect, type ReadonlySignal, type Signal, signal } from "@preact/signals-core";
import type { Wish } from "../kit/channel.ts";
import { button, el, on, setAttributes, setText, show } from "../kit/dom.ts";
import { type Dumbbell, dumbbell } from "../kit/dumbbell.ts";
import { alertLine } from "../kit/errors.ts";
import { plural, signed } from "../kit/format.ts";
import { type Frame, frame, paintProgress } from "../kit/frame.ts";
import { followTheme, type Theme } from "../kit/theme.ts";
import { type Strip, type StripActions, tokenStrip } from "../kit/tokens.ts";
import type { Connection } from "./connection.ts";
import { isBusy, sitesOff, summary, vectorNow } from "./derive.ts";
import type { Panel } from "./panels.ts";
import { answerPart } from "./parts/answer.ts";
import { historyBar } from "./parts/history.ts";
import { panelNote } from "./parts/panel_note.ts";
import { questionForm, stripActions } from "./parts/question.ts";
import type { Question, State, Vector } from "./protocol.ts";
import type { Mark, Refusal, SessionStore, Snapshot } from "./store.ts";

/** The parts that several views show, made by the session's bundle. */
export type Parts = {
  answer(): HTMLElement;
  questionForm(): { toggle: HTMLElement; node: HTMLElement };
  panelNote(old: string | (() => boolean)): HTMLElement;
  stripActions(): StripActions;
  /** Of the kit, and in the session's bundle already: a view with no room for a second copy takes them from here. */
  tokenStrip(label: string, actions: StripActions): Strip;
  dumbbell(label: string, plain?: string, changed?: string): Dumbbell;
};

export type ViewContext<T extends Record<string, unknown>> = PartContext<T> & { parts: Parts };

/** All that a part needs. Signals come from the session's bundle: another copy of the library would not track them. */
export type PartContext<T extends Record<string, unknown>> = {
  model: AnyModel<T>;
  frame: Frame;
  abort: AbortSignal;
  store: SessionStore;
  theme: ReadonlySignal<Theme>;
  snapshot: ReadonlySignal<Snapshot | null>;
  state: ReadonlySignal<State | null>;
  /** The question, the same object until its content changes: a prompt of thousands of tokens is painted once. */
  question: ReadonlySignal<Question | null>;
  pending: ReadonlySignal<ReadonlyMap<string, Wish>>;
  refusals: ReadonlySignal<ReadonlyMap<string, Refusal>>;
  panel: ReadonlySignal<Panel | null>;
  panelId: string;
  hover: Signal<Mark>;
  lock: Signal<Mark>;
  off: ReadonlySignal<ReadonlySet<string>>;
  vectors: ReadonlySignal<readonly Vector[]>;
  intent: SessionStore["intent"];
  /** Hovers a token or a head in every view; null lets go. */
  point(mark: Mark): void;
  /** A signal of the view's own. */
  signal<V>(value: V): Signal<V>;
  /** A value that follows from other signals, worked out once per change. */
  derive<V>(read: () => V): ReadonlySignal<V>;
  /** The same, and the same object while its content is equal. */
  stable<V>(read: () => V): ReadonlySignal<V>;
  /** Runs now and after every change of what it reads, until the view goes away. */
  watch(paint: () => void): void;
  /** Runs when a trait of the widget has changed, until the view goes away. */
  onTrait(name: keyof T & string, listener: () => void): void;
};

export type ViewTraits = { session: string; panel: string };

export type Mount<T extends ViewTraits> = {
  model: AnyModel<T>;
  el: HTMLElement;
  abort: AbortSignal;
  widget: string;
  title: string;
  build(context: ViewContext<T>): void;
};

/** What `initialize` hands to the views beside the store. */
export function mountView<T extends ViewTraits>(
  store: SessionStore,
  { model, el: place, abort, widget, title, build }: Mount<T>,
): void {
  const parts = frame(widget, title);
  place.append(parts.root);
  // ipywidgets puts this on a view whose model has no comm; it tells our model nothing else.
  if (place.classList.contains("jupyter-widgets-disconnected")) store.restored();
  abort.addEventListener("abort", () => parts.root.remove());
  const context = contextOf(model, store, parts, abort);
  shellBar(context);
  historyBar(context);
  refusalLine(context);
  build(context);
  context.watch(() => paintConnection(context, store.connection.value));
  context.watch(() => {
    const busy =
      store.connection.value.usable && isBusy(context.snapshot.value, context.pending.value, context.panel.value);
    parts.root.setAttribute("aria-busy", String(busy));
    paintProgress(parts.progress, busy, context.panel.value?.progress ?? null);
  });
}

function contextOf<T extends ViewTraits>(
  model: AnyModel<T>,
  store: SessionStore,
  parts: Frame,
  abort: AbortSignal,
): ViewContext<T> {
  const panelId = String(model.get("panel"));
  const { state: snapshot, pending, refusals, panels, hover, lock } = store;
  const state = computed(() => snapshot.value?.state ?? null);
  const off = stable(() => (state.value === null ? [] : [...sitesOff(state.value, pending.value)]));
  const context = {
    model,
    store,
    frame: parts,
    abort,
    snapshot,
    state,
    pending,
    refusals,
    panelId,
    hover,
    lock,
    theme: followTheme(parts.root, abort),
    panel: computed(() => panels.value.get(panelId) ?? null),
    question: stable(() => state.value?.question ?? null),
    off: computed(() => new Set(off.value)),
    vectors: stable(() => (state.value?.vectors ?? []).map((vector) => vectorNow(vector, pending.value))),
    signal: <V>(value: V) => signal(value),
    derive: <V>(read: () => V) => computed(read),
    stable,
    intent: store.intent,
    point(mark: Mark): void {
      if (JSON.stringify(mark) !== JSON.stringify(hover.peek())) hover.value = mark;
    },
    watch(paint: () => void): void {
      const stop = effect(paint);
      abort.addEventListener("abort", stop);
    },
    onTrait(name: keyof T & string, listener: () => void): void {
      const event = `change:${name}`;
      model.on(event, listener);
      abort.addEventListener("abort", () => model.off(event, listener));
    },
  };
  return { ...context, parts: partsOf(context) };
}

/** Every message brings new objects; what is equal in content stays the same object, and nobody repaints for it. */
function stable<V>(read: () => V): ReadonlySignal<V> {
  let last: { text: string; value: V } | null = null;
  return computed(() => {
    const value = read();
    const text = JSON.stringify(value);
    if (last === null || last.text !== text) last = { text, value };
    return last.value;
  });
}

function partsOf<T extends ViewTraits>(context: PartContext<T>): Parts {
  return {
    answer: () => answerPart(context),
    questionForm: () => questionForm(context),
    panelNote: (old) => panelNote(context, old),
    stripActions: () => stripActions(context),
    tokenStrip: (label, actions) => tokenStrip(label, actions, context.abort),
    dumbbell,
  };
}

function paintConnection<T extends ViewTraits>(
  { frame: parts, state, store }: PartContext<T>,
  connection: Connection,
): void {
  const kernel = state.value?.version;
  const mismatch =
    kernel !== undefined && kernel !== store.version
      ? `This page runs interp_widgets ${store.version} and the kernel ${kernel}: restart the kernel and reload the page.`
      : "";
  const message = connection.message || mismatch;
  setText(parts.banner, message);
  show(parts.banner, message !== "");
  parts.banner.dataset.status = connection.status;
  parts.root.dataset.connection = connection.status;
  parts.fieldset.disabled = !connection.usable;
  show(parts.fieldset, connection.status !== "saved"); // nothing that was asked is saved: there is nothing to show
}

function shellBar<T extends ViewTraits>(context: PartContext<T>): void {
  const { about, summary: line, actions } = context.frame.bar;
  const undo = button("↶ Undo");
  const redo = button("↷ Redo");
  const clear = button("Clear", "iw-btn", { title: "switch every intervention off" });
  actions.append(undo, redo, clear);
  for (const [node, name] of [
    [undo, "undo"],
    [redo, "redo"],
    [clear, "clear"],
  ] as const) {
    on(node, "click", () => context.intent(name, name, {}));
  }
  const notes = el("span");
  about.append(el("span"), notes);
  context.watch(() => {
    const state = context.state.value;
    if (state === null) return;
    setText(about.firstElementChild as Element, aboutModel(state));
    const said = state.model.notes;
    setText(notes, said.length > 0 ? ` · ${plural(said.length, "note")}` : "");
    setAttributes(notes, { title: said.join("\n") || null });
    setText(line, summary(state, context.off.value, context.vectors.value, signed));
    undo.disabled = state.history.index <= 0;
    redo.disabled = state.history.index >= state.history.items.length - 1;
    clear.disabled =
      context.off.value.size === 0 && !state.interventions.some((one) => one.on && one.coefficient !== 0);
  });
}

/** A refusal that belongs to no control of the view: undo, redo, clear, the mode, and what was wished of this panel. */
function refusalLine<T extends ViewTraits>({ frame: parts, refusals, store, panelId, watch }: PartContext<T>): void {
  const keys = ["undo", "redo", "clear", "mode", `panel:${panelId}`];
  const line = alertLine(() => keys.forEach(store.dismiss));
  parts.content.append(line.node);
  watch(() => line.paint(keys.flatMap((key) => refusals.value.get(key)?.message ?? [])[0] ?? null));
}

/** "embedded · 4 layers × 8 heads · float32" */
export function aboutModel({ model }: State): string {
  const counts = [...new Set(model.heads.filter((count) => count > 0))].sort((a, b) => a - b);
  const heads = counts.length > 1 ? `${counts[0]}–${counts.at(-1)}` : String(counts[0] ?? 0);
  return [
    model.name,
    `${model.layers} layers × ${heads} heads`,
    model.dtype,
    model.device === "cpu" ? "" : model.device,
  ]
    .filter(Boolean)
    .join(" · ");
}
