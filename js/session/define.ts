/**
 * The view's side of a view: find the session, and let it mount us. What all views share (frame, question, answer, receipts,
 * history) comes from the session's bundle at run time, so that a page carries it once and not once per view.
 */

import "./shared.css";
import type { AnyModel, Host } from "@anywidget/types";
import { failure, NEEDS_HOST } from "./failure.ts";
import type { SessionExports } from "./index.ts";
import type { ViewContext, ViewTraits } from "./shell.ts";

export type RenderProps<T extends Record<string, unknown>> = {
  model: AnyModel<T>;
  el: HTMLElement;
  signal?: AbortSignal;
  host?: Host;
};

/** What a widget that holds a view's code exports: the same that the code's own module gives to a view that carries it. */
export type ViewExports<T extends Record<string, unknown>> = { render(props: RenderProps<T>): Promise<() => void> };

/** The module that anywidget loads: one `render` per view, nothing kept outside of it. */
export function defineView<T extends ViewTraits>(
  widget: string,
  title: string,
  build: (context: ViewContext<T>) => void,
) {
  async function render({ model, el, signal, host }: RenderProps<T>): Promise<() => void> {
    const controller = new AbortController();
    signal?.addEventListener("abort", () => controller.abort());
    function mount(session: SessionExports): void {
      if (controller.signal.aborted) return;
      const mounted = new AbortController();
      const abort = AbortSignal.any([controller.signal, mounted.signal]);
      session.mount({ model, el, abort, widget, title, build });
      // Another version of the session's code may take its place, while both are written; a session that has ended has no other.
      const follow = async (): Promise<void> => {
        const next = await findSession(model, host).catch(() => session);
        if (next === session) return;
        mounted.abort();
        mount(next);
      };
      session.ended.addEventListener("abort", follow, { signal: abort });
    }
    try {
      mount(await findSession(model, host));
    } catch (error) {
      el.append(failure(widget, error, controller.signal));
    }
    return () => controller.abort();
  }
  return () => ({ initialize: (): ViewExports<T> => ({ render }), render });
}

async function findSession<T extends ViewTraits>(model: AnyModel<T>, host: Host | undefined): Promise<SessionExports> {
  if (host === undefined) throw new Error(NEEDS_HOST);
  const session = await host.getWidget<SessionExports>(model.get("session"));
  if (typeof session.exports?.mount !== "function")
    throw new Error("This view's session has not started. Run its cells again.");
  return session.exports;
}
