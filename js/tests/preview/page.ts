/** The preview page: the built bundles, each from its own blob as anywidget loads them, over a made-up kernel. */

import { FakeKernel } from "../fake_kernel.ts";
import { FakeHost, FakeModel } from "../host.ts";

type Bundle = { js: string; css: string };
declare const BUNDLES: Record<string, Bundle>;

const WIDGETS: Record<string, string> = {
  TokenAttribution: "token_attribution",
  HeadAblation: "head_ablation",
  SteeringSliders: "steering_sliders",
};

async function load(name: string): Promise<unknown> {
  const bundle = BUNDLES[name];
  if (bundle === undefined) throw new Error(`${name} is not built`);
  const url = URL.createObjectURL(new Blob([bundle.js], { type: "text/javascript" }));
  return ((await import(url)) as { default: unknown }).default;
}

async function main(): Promise<void> {
  const query = new URLSearchParams(location.search);
  document.documentElement.classList.toggle("dark", query.get("theme") === "dark");
  const [layers, heads] = (query.get("heads") ?? "4x8").split("x").map(Number) as [number, number];
  const abort = new AbortController();
  const host = new FakeHost();
  const session = new FakeModel({});
  const kernel = new FakeKernel(session, {
    layers,
    heads,
    delay: Number(query.get("delay") ?? 15),
    version: query.get("version") ?? "0.1.0",
    examples: Number(query.get("examples") ?? 1),
  });
  const tokens = Number(query.get("tokens") ?? 0);
  if (tokens > 0)
    kernel.state.question?.tokens.splice(
      0,
      Number.POSITIVE_INFINITY,
      ...Array.from({ length: tokens }, (_, id) => ({ id, text: ` word${id}`, kind: "text" as const })),
    );
  const wanted = query.get("only")?.split(",") ?? Object.keys(WIDGETS);
  for (const name of wanted) kernel.panel(`panel-${name}`, name);
  await host.start("anywidget:session", await load("session"), session, abort.signal);
  for (const name of wanted) {
    const bundle = WIDGETS[name] ?? "";
    const style = document.createElement("style");
    style.textContent = BUNDLES[bundle]?.css ?? "";
    document.head.append(style);
    const el = document.createElement("div");
    el.className = "output";
    document.body.append(el);
    const model = new FakeModel({
      session: "anywidget:session",
      panel: `panel-${name}`,
      method: "integrated_gradients",
      mode: "mean",
    });
    await host.show(await load(bundle), model, el, abort.signal);
  }
  Object.assign(globalThis, { kernel, session, ready: true });
}

void main();
