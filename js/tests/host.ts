/**
 * The part of anywidget's runtime that our modules meet, for tests and for the preview page: a model with listeners, `initialize`
 * once per model, `exports` handed out by `host.getWidget`, an abort signal per view.
 */

import type { AnyModel, Host } from "@anywidget/types";

type Listener = (...args: unknown[]) => void;
type WidgetModule = {
  initialize?(props: { model: AnyModel; signal: AbortSignal }): unknown;
  render?(props: { model: AnyModel; el: HTMLElement; signal: AbortSignal; host: Host }): unknown;
};

export class FakeModel {
  readonly sent: unknown[] = [];
  readonly saved: Record<string, unknown>[] = [];
  widget_manager: unknown = {};
  onSend: (message: unknown) => void = () => {};
  readonly #traits: Record<string, unknown>;
  readonly #listeners = new Map<string, Listener[]>();

  constructor(traits: Record<string, unknown> = {}) {
    this.#traits = { ...traits };
  }

  get(name: string): unknown {
    return this.#traits[name];
  }

  set(name: string, value: unknown): void {
    this.#traits[name] = value;
    this.emit(`change:${name}`);
  }

  save_changes(): void {
    this.saved.push({ ...this.#traits });
  }

  on(name: string, listener: Listener): void {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }

  off(name: string, listener: Listener): void {
    this.#listeners.set(
      name,
      (this.#listeners.get(name) ?? []).filter((one) => one !== listener),
    );
  }

  /** How many listeners hang on it. */
  get heard(): number {
    return [...this.#listeners.values()].flat().length;
  }

  emit(name: string, ...args: unknown[]): void {
    for (const listener of this.#listeners.get(name) ?? []) listener(...args);
  }

  send(message: unknown): void {
    const copy = structuredClone(message);
    this.sent.push(copy);
    this.onSend(copy);
  }

  /** A message from the kernel, as a comm hands it over. */
  receive(message: unknown, buffers: DataView[] = []): void {
    this.emit("msg:custom", structuredClone(message), buffers);
  }
}

export class FakeHost implements Host {
  readonly #exports = new Map<string, Promise<unknown>>();

  /** Starts a module, or another version of it: whoever asks from now on waits for this one. */
  async start(ref: string, module: unknown, model: FakeModel, signal: AbortSignal): Promise<void> {
    const started = instance(module).then((widget) =>
      widget.initialize?.({ model: model as unknown as AnyModel, signal }),
    );
    this.#exports.set(ref, started);
    await started;
  }

  async getWidget<T>(ref: string): Promise<{ exports: T; render(): Promise<void> }> {
    await Promise.resolve(); // the manager looks the model up first
    if (!this.#exports.has(ref)) throw new Error(`[anywidget] No binding found for widget ${ref}`);
    return { exports: (await this.#exports.get(ref)) as T, render: async () => {} };
  }

  async getModel(): Promise<never> {
    throw new Error("not used");
  }

  async show(module: unknown, model: FakeModel, el: HTMLElement, signal: AbortSignal): Promise<void> {
    const widget = await instance(module);
    await widget.render?.({ model: model as unknown as AnyModel, el, signal, host: this });
  }
}

async function instance(module: unknown): Promise<WidgetModule> {
  return (typeof module === "function" ? await module() : module) as WidgetModule;
}
