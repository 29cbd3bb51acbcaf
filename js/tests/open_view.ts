/** One view over the made-up kernel, with panel data of the test's own. */

import session from "../session/index.ts";
import { encode } from "./encode.ts";
import { FakeKernel, type FakeOptions } from "./fake_kernel.ts";
import { find } from "./harness.ts";
import { FakeHost, FakeModel } from "./host.ts";

export type OneView = {
  root: HTMLElement;
  kernel: FakeKernel;
  session: FakeModel;
  model: FakeModel;
  abort: AbortController;
  /** A panel message of the present revision. */
  send(data: Record<string, unknown> | null, status?: string, extra?: Record<string, unknown>): void;
  /** The kernel's state again, after the test has changed it. */
  state(revision?: number): void;
};

export async function openView(
  widget: string,
  module: unknown,
  data: Record<string, unknown> | null,
  traits: Record<string, unknown> = {},
  options: Partial<FakeOptions> = {},
): Promise<OneView> {
  document.body.replaceChildren();
  const abort = new AbortController();
  const host = new FakeHost();
  const wire = new FakeModel();
  const kernel = new FakeKernel(wire, options);
  kernel.panel("panel", widget);
  const send = (content: Record<string, unknown> | null, status = "done", extra = {}): void => {
    const { json, buffers } = encode(content ?? {});
    wire.receive(
      {
        kind: "panel",
        panel: "panel",
        revision: kernel.revision,
        status,
        progress: 1,
        message: null,
        data: content === null ? null : json,
        ...extra,
      },
      buffers,
    );
  };
  kernel.sendPanel = () => {
    if (data !== null) send(data);
  };
  await host.start("anywidget:session", session, wire, abort.signal);
  const model = new FakeModel({ session: "anywidget:session", panel: "panel", ...traits });
  const place = document.createElement("div");
  document.body.append(place);
  await host.show(module, model, place, abort.signal);
  return {
    root: find(document.body, `.iw-root[data-widget="${widget}"]`),
    kernel,
    session: wire,
    model,
    abort,
    send,
    state(revision = kernel.revision) {
      kernel.revision = revision;
      wire.receive({ kind: "state", revision, acks: {}, state: kernel.state });
    },
  };
}
