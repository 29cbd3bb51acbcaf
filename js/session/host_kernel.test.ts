import { expect, test } from "vitest";
import { watchKernel } from "./host_kernel.ts";

class Lumino {
  slots = new Set<(sender: unknown, value: unknown) => void>();
  connect(slot: (sender: unknown, value: unknown) => void): void {
    this.slots.add(slot);
  }
  disconnect(slot: (sender: unknown, value: unknown) => void): void {
    this.slots.delete(slot);
  }
  emit(value: unknown): void {
    for (const slot of this.slots) slot(null, value);
  }
}

function news() {
  const heard: string[] = [];
  return {
    heard,
    news: {
      kernel: (s: string) => heard.push(`kernel ${s}`),
      socket: (s: string) => heard.push(`socket ${s}`),
      changed: () => heard.push("changed"),
    },
  };
}

test("a notebook's widget manager tells of its kernel through the session context", () => {
  const { heard, news: listener } = news();
  const session = { statusChanged: new Lumino(), connectionStatusChanged: new Lumino(), kernelChanged: new Lumino() };
  const abort = new AbortController();
  watchKernel(
    { widget_manager: { context: { sessionContext: session }, kernel: { status: "idle" } } },
    listener,
    abort.signal,
  );
  session.statusChanged.emit("restarting");
  session.connectionStatusChanged.emit("connecting");
  session.kernelChanged.emit({});
  expect(heard).toEqual(["kernel idle", "kernel restarting", "socket connecting", "changed"]);
  abort.abort();
  session.statusChanged.emit("dead");
  expect(heard).toHaveLength(4);
});

test("a console's manager has the kernel itself", () => {
  const { heard, news: listener } = news();
  const kernel = { status: "busy", statusChanged: new Lumino(), connectionStatusChanged: new Lumino() };
  watchKernel({ widget_manager: { kernel } }, listener, new AbortController().signal);
  kernel.statusChanged.emit("dead");
  expect(heard).toEqual(["kernel busy", "kernel dead"]);
});

test.each([[undefined], [null], [{}], [{ kernel: null }], [{ context: {} }], [{ kernel: { statusChanged: 5 } }]])(
  "a host that knows nothing of kernels (%j) is no error",
  (manager) => {
    const { heard, news: listener } = news();
    watchKernel(manager, listener, new AbortController().signal);
    expect(heard).toEqual([]);
  },
);

test("a manager that is disposed throws from its getters, and that is no error either", () => {
  const manager = {
    get context(): never {
      throw new Error("disposed");
    },
  };
  const { heard, news: listener } = news();
  expect(() => watchKernel({ widget_manager: manager }, listener, new AbortController().signal)).not.toThrow();
  expect(heard).toEqual([]);
});
