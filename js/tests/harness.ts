/** The real session store and the real views over the made-up kernel, in one page as anywidget would have them. */

import headAblation from "../head_ablation/index.ts";
import session from "../session/index.ts";
import steeringSliders from "../steering_sliders/index.ts";
import tokenAttribution from "../token_attribution/index.ts";
import { FakeKernel, type FakeOptions } from "./fake_kernel.ts";
import { FakeHost, FakeModel } from "./host.ts";

const VIEWS = { HeadAblation: headAblation, SteeringSliders: steeringSliders, TokenAttribution: tokenAttribution };
export type ViewName = keyof typeof VIEWS;

export type Page = {
  kernel: FakeKernel;
  session: FakeModel;
  models: Record<string, FakeModel>;
  host: FakeHost;
  abort: AbortController;
  root(view: ViewName): HTMLElement;
  /** A signal of JupyterLab's kernel, as its widget manager hands it on. */
  lab: { status(status: string): void; socket(status: string): void };
};

class LuminoSignal {
  readonly slots = new Set<(sender: unknown, value: unknown) => void>();
  connect = (slot: (sender: unknown, value: unknown) => void): boolean => Boolean(this.slots.add(slot));
  disconnect = (slot: (sender: unknown, value: unknown) => void): boolean => this.slots.delete(slot);
  emit(value: unknown): void {
    for (const slot of this.slots) slot(null, value);
  }
}

export async function openPage(
  views: ViewName[],
  options: Partial<FakeOptions> = {},
  before: (kernel: FakeKernel) => void = () => {},
): Promise<Page> {
  document.body.replaceChildren();
  const abort = new AbortController();
  const host = new FakeHost();
  const model = new FakeModel();
  const [status, socket] = [new LuminoSignal(), new LuminoSignal()];
  const kernelConnection = { status: "idle", statusChanged: status, connectionStatusChanged: socket };
  model.widget_manager = { kernel: kernelConnection, context: { sessionContext: kernelConnection } };
  const kernel = new FakeKernel(model, options);
  before(kernel);
  for (const view of views) kernel.panel(`panel-${view}`, view);
  await host.start("anywidget:session", session, model, abort.signal);
  const models: Record<string, FakeModel> = {};
  for (const view of views) {
    const traits = { session: "anywidget:session", panel: `panel-${view}`, method: "integrated_gradients" };
    models[view] = new FakeModel(traits);
    const el = document.createElement("div");
    document.body.append(el);
    await host.show(VIEWS[view], models[view], el, abort.signal);
  }
  const root = (view: ViewName): HTMLElement => find(document.body, `.iw-root[data-widget="${view}"]`);
  return {
    kernel,
    session: model,
    models,
    host,
    abort,
    root,
    lab: { status: (s) => status.emit(s), socket: (s) => socket.emit(s) },
  };
}

export function find<T extends Element = HTMLElement>(root: Element, selector: string): T {
  const node = root.querySelector<T>(selector);
  if (node === null) throw new Error(`nothing matches ${selector}`);
  return node;
}

export function metricOf(root: Element): number {
  return Number(find(root, '[data-iw="metric"]').dataset.value);
}

export function alertsOf(root: Element): string[] {
  return [...root.querySelectorAll<HTMLElement>('[role="alert"]')]
    .filter((node) => !node.hidden)
    .map((node) => node.textContent ?? "");
}

export function click(node: Element): void {
  node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
}

export function head(root: Element, site: string): HTMLButtonElement {
  return find<HTMLButtonElement>(root, `button[aria-label="${site}"]`);
}

export function type(field: Element, text: string): void {
  (field as HTMLInputElement).value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

export function buttonNamed(root: Element, text: string): HTMLButtonElement {
  const node = [...root.querySelectorAll<HTMLButtonElement>("button")].find((one) => one.textContent === text);
  if (node === undefined) throw new Error(`no button says ${text}`);
  return node;
}

/** The last wish the kernel took in. */
export function lastIntent(page: { kernel: FakeKernel }) {
  const intent = page.kernel.handled.at(-1);
  if (intent === undefined) throw new Error("nothing was wished for");
  return intent;
}
