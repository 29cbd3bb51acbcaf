/**
 * A view without a kernel: the session's half and the view's own, fed with the messages that a kernel once sent. What the page
 * wishes for is answered from what was saved with it; anything else is refused in a sentence.
 */

type Json = Record<string, unknown>;
type Packed = { content: Json; buffers: string[] };
type Listener = (...args: unknown[]) => void;

export type Scene = {
  traits: Json;
  messages: Packed[];
  /** What was saved for a panel's wish, by its action and settings as JSON. */
  answers: Record<string, Packed>;
};

/** What the two bundles export. */
export type Modules = { session: { default: unknown }; view: { default: unknown } };

const NOT_LIVE = "This is a saved view, not live: only what was saved with it can be shown.";

class SavedModel {
  answer: (message: Json) => void = () => {};
  readonly #traits: Json;
  readonly #listeners = new Map<string, Listener[]>();

  constructor(traits: Json) {
    this.#traits = { ...traits };
  }
  get(name: string): unknown {
    return this.#traits[name];
  }
  set(name: string, value: unknown): void {
    this.#traits[name] = value;
    this.emit(`change:${name}`);
  }
  save_changes(): void {}
  on(name: string, listener: Listener): void {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }
  off(): void {}
  emit(name: string, ...args: unknown[]): void {
    for (const listener of this.#listeners.get(name) ?? []) listener(...args);
  }
  send(message: Json): void {
    queueMicrotask(() => this.answer(message));
  }
}

/** Puts the view into `place`; the same as in a notebook, but for what only a kernel can do. */
export async function show(place: HTMLElement, scene: Scene, modules: Modules): Promise<void> {
  const session = new SavedModel({});
  const give = (packed: Packed): void => session.emit("msg:custom", packed.content, packed.buffers.map(bytes));
  session.answer = (message) => reply(message, scene, give);
  const signal = new AbortController().signal;
  const half = (await made(modules.session)) as { initialize(props: Json): unknown };
  const exports = half.initialize({ model: session, signal });
  const host = { getWidget: async () => ({ exports, render: async () => {} }) };
  const view = (await made(modules.view)) as { render(props: Json): Promise<unknown> };
  await view.render({ model: new SavedModel({ ...scene.traits, session: "saved" }), el: place, signal, host });
}

async function made(module: { default: unknown }): Promise<unknown> {
  return typeof module.default === "function" ? await module.default() : module.default;
}

function reply(message: Json, scene: Scene, give: (packed: Packed) => void): void {
  const { kind, client, seq, key, name } = message;
  if (kind === "hello") scene.messages.forEach(give);
  else if (kind === "ping") give({ content: { kind: "pong", client, id: message.id }, buffers: [] });
  else if (kind === "intent") {
    const { panel: _, ...wish } = message.args as Json;
    const saved = name === "panel" ? scene.answers[JSON.stringify(wish)] : undefined;
    if (saved !== undefined) give(saved);
    else give({ content: { kind: "refused", client, seq, key, message: NOT_LIVE }, buffers: [] });
    const state = scene.messages.find((one) => one.content.kind === "state");
    if (state !== undefined) give({ ...state, content: { ...state.content, acks: { [String(client)]: seq } } });
  }
}

function bytes(base64: string): DataView {
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) out[at] = text.charCodeAt(at);
  return new DataView(out.buffer);
}
