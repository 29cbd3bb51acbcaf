/** L08: code that is loaded anew while it is written leaves one view, one store, and nothing of the old code that still listens. */

import type { AnyModel } from "@anywidget/types";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import headAblation from "../head_ablation/index.ts";
import session from "../session/index.ts";
import { FakeKernel } from "./fake_kernel.ts";
import { click, head, lastIntent } from "./harness.ts";
import { FakeHost, FakeModel } from "./host.ts";

/** Everything on the page's own objects that would still be called: listeners, and observers of the theme. */
const listening = new Map<object, string>();
let observers = 0;

beforeEach(() => {
  listening.clear();
  observers = 0;
  for (const target of [globalThis, document] as EventTarget[]) {
    const add = target.addEventListener.bind(target);
    vi.spyOn(target, "addEventListener").mockImplementation((type, listener, options) => {
      const entry = {};
      listening.set(entry, type);
      const signal = typeof options === "object" ? options.signal : undefined;
      signal?.addEventListener("abort", () => listening.delete(entry));
      add(type, listener, options);
    });
  }
  const { observe, disconnect } = MutationObserver.prototype;
  const watching = new Set<MutationObserver>();
  vi.spyOn(MutationObserver.prototype, "observe").mockImplementation(function (this: MutationObserver, node, options) {
    watching.add(this);
    observers = watching.size;
    observe.call(this, node, options);
  });
  vi.spyOn(MutationObserver.prototype, "disconnect").mockImplementation(function (this: MutationObserver) {
    watching.delete(this);
    observers = watching.size;
    disconnect.call(this);
  });
});
afterEach(() => vi.restoreAllMocks());

/** A model as anywidget hands it to one version of the code: what that version hung on it goes with the version. */
function proxied(model: FakeModel, abort: AbortSignal): FakeModel {
  const on = (name: string, listener: (...args: unknown[]) => void): void => {
    model.on(name, listener);
    abort.addEventListener("abort", () => model.off(name, listener));
  };
  return new Proxy(model, {
    get: (target, name) => {
      if (name === "on") return on;
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function page() {
  document.body.replaceChildren();
  const host = new FakeHost();
  const wire = new FakeModel();
  const kernel = new FakeKernel(wire, { layers: 2, heads: 2 });
  kernel.panel("panel", "HeadAblation");
  const model = new FakeModel({ session: "anywidget:session", panel: "panel" });
  const place = document.createElement("div");
  document.body.append(place);
  let ofSession = new AbortController();
  let ofView = new AbortController();

  async function loadSession(): Promise<void> {
    ofSession.abort();
    ofSession = new AbortController();
    await host.start("anywidget:session", session, proxied(wire, ofSession.signal), ofSession.signal);
    await settle();
  }
  async function loadView(): Promise<void> {
    ofView.abort();
    ofView = new AbortController();
    await host.show(headAblation, proxied(model, ofView.signal), place, ofView.signal);
    await settle();
  }
  const counts = () => ({
    listening: [...listening.values()].sort(),
    observers,
    onModel: model.heard,
    roots: document.querySelectorAll(".iw-root").length,
    nodes: document.querySelectorAll("*").length,
  });
  await loadSession();
  await loadView();
  return { kernel, wire, place, loadSession, loadView, counts };
}

const settle = async (): Promise<void> => {
  for (let n = 0; n < 10; n += 1) await Promise.resolve();
};

// @case L08
test.each(["view", "session"])(
  "the %s's code loaded fifty times anew leaves what one load leaves",
  async (which) => {
    const { kernel, wire, place, loadSession, loadView, counts } = await page();
    const load = which === "view" ? loadView : loadSession;
    await load();
    const before = counts();
    expect(before.listening.length).toBeGreaterThan(0);
    expect(before.roots).toBe(1);
    for (let n = 0; n < 50; n += 1) await load();
    expect(counts()).toEqual(before);
    const root = place.querySelector<HTMLElement>(".iw-root");
    expect(root?.dataset.connection).toBe("live");
    wire.sent.length = 0;
    click(head(root as HTMLElement, "L1H1"));
    expect(wire.sent.filter((message) => (message as { kind: string }).kind === "intent")).toHaveLength(1);
    expect(lastIntent({ kernel }).args).toMatchObject({ site: "L1H1", off: true });
  },
  60_000,
);

test("a listener that is hung on the page without the signal would be seen", async () => {
  const { loadView, counts } = await page();
  const before = counts();
  const careless = {
    render: ({ model }: { model: AnyModel }) => document.addEventListener("keydown", () => model.get("mode")),
  };
  await new FakeHost().show(careless, new FakeModel(), document.createElement("div"), new AbortController().signal);
  await loadView();
  expect(counts()).not.toEqual(before);
});
