/**
 * The session widget has no view. Its `initialize` exports the store and the way to mount a view on it; every view of the
 * session gets these very objects by `host.getWidget`.
 */

import type { AnyModel } from "@anywidget/types";
import { type Mount, mountView, type ViewTraits } from "./shell.ts";
import { createStore, type SessionStore, type Wire } from "./store.ts";

export type SessionExports = {
  store: SessionStore;
  mount<T extends ViewTraits>(view: Mount<T>): void;
  /** Aborted when this code is replaced, or the session's widget is gone. */
  ended: AbortSignal;
};

export default {
  initialize({ model, signal }: { model: AnyModel; signal: AbortSignal }): SessionExports {
    const store = createStore(model as unknown as Wire, signal);
    return { store, mount: (view) => mountView(store, view), ended: signal };
  },
};
