import type { Host } from "@anywidget/types";
import { expect, test } from "vitest";
import headAblation from "../head_ablation/index.ts";
import session from "../session/index.ts";
import { FakeKernel } from "../tests/fake_kernel.ts";
import { FakeHost, FakeModel } from "../tests/host.ts";
import view from "./index.ts";

async function page(code = true) {
  document.body.replaceChildren();
  const [host, wire, abort] = [new FakeHost(), new FakeModel(), new AbortController()];
  new FakeKernel(wire).panel("HeadAblation-1", "HeadAblation");
  await host.start("anywidget:session", session, wire, abort.signal);
  if (code) await host.start("anywidget:code", headAblation, new FakeModel(), abort.signal);
  async function show(signal = abort.signal): Promise<HTMLElement> {
    const place = document.createElement("div");
    document.body.append(place);
    const traits = { session: "anywidget:session", code: "anywidget:code", panel: "HeadAblation-1" };
    await host.show(view, new FakeModel(traits), place, signal);
    return place;
  }
  return { host, show };
}

test("views that carry no code are drawn by the one widget that holds it, and go one by one", async () => {
  const { show } = await page();
  const [first, second] = [new AbortController(), new AbortController()];
  const places = [await show(first.signal), await show(second.signal)];
  const live = () => places.map((place) => place.querySelectorAll('[data-connection="live"] [data-iw=metric]').length);
  expect(live()).toEqual([1, 1]);
  first.abort();
  expect(live()).toEqual([0, 1]);
});

// @case D14
test("a view whose code is not there says so in a sentence, under its own name", async () => {
  const { show } = await page(false);
  const place = await show();
  const root = place.querySelector<HTMLElement>(".iw-root");
  expect(root?.dataset.widget).toBe("HeadAblation");
  expect(root?.querySelector("[role=alert]")?.textContent).toMatch(
    /could not reach its session .* Run its cells again/,
  );
});

// @case D14
test("where widgets cannot reach each other the sentence says what to upgrade", async () => {
  const el = document.createElement("div");
  const model = new FakeModel({ session: "anywidget:session", code: "anywidget:code", panel: "HeadAblation-1" });
  const leave = await view.render({ model: model as never, el, host: undefined as unknown as Host });
  expect(el.querySelector("[role=alert]")?.textContent).toContain("anywidget 0.11 or newer");
  leave();
  expect(el.childElementCount).toBe(0);
});
