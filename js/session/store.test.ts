import { expect, test } from "vitest";
import { FakeKernel } from "../tests/fake_kernel.ts";
import { handClock } from "../tests/hand_clock.ts";
import { FakeModel } from "../tests/host.ts";
import { createStore, type Wire } from "./store.ts";

function make(start = true) {
  const model = new FakeModel();
  const abort = new AbortController();
  const kernel = new FakeKernel(model);
  if (!start) kernel.alive = false;
  const store = createStore(model as unknown as Wire, abort.signal);
  const kinds = (): string[] => model.sent.map((message) => (message as { kind: string }).kind);
  return { model, kernel, store, abort, kinds };
}

const off = { site: "L1H3", off: true, mode: "mean" } as const;

test("a page greets the kernel once and is live with its state", () => {
  const { store, kinds } = make();
  expect(kinds()).toEqual(["hello"]);
  expect(store.connection.value.status).toBe("live");
  expect(store.state.value?.state.model.name).toBe("embedded");
});

test("a state of an older revision is never painted over a newer one", () => {
  const { store, model, kernel } = make();
  kernel.revision = 7;
  kernel.publish();
  model.receive({ kind: "state", revision: 3, acks: {}, state: { ...kernel.state, mode: "zero" } });
  expect([store.state.value?.revision, store.state.value?.state.mode]).toEqual([7, "mean"]);
});

test("a wish is pending until its number comes back, then the kernel's state holds", () => {
  const { store, kernel, model } = make();
  kernel.alive = false;
  store.intent("ablate", "head:L1H3", off);
  expect(store.pending.value.has("head:L1H3")).toBe(true);
  kernel.alive = true;
  kernel.receive(model.sent.at(-1) as never);
  expect(store.pending.value.size).toBe(0);
  expect(store.state.value?.state.interventions[0]?.site).toBe("L1H3");
});

test("what is taken in is told from what is lost with the connection, by its number", () => {
  const { store, kernel, model } = make();
  kernel.alive = false;
  const number = store.intent("ablate", "head:L1H3", off);
  model.receive({ kind: "closed", message: "The session is closed." });
  expect([number, store.pending.value.size, store.taken.value]).toEqual([1, 0, 0]);
  expect(store.intent("ablate", "head:L1H3", off)).toBeNull();
  const other = make();
  expect(other.store.intent("ablate", "head:L1H3", off)).toBe(other.store.taken.value);
});

test("a refusal is kept by its key with its sentence, and goes with the next wish about it", () => {
  const { store } = make();
  store.intent("ask", "ask", { prompt: "  ", target: null, foil: null });
  expect(store.refusals.value.get("ask")?.message).toContain("The prompt is empty");
  expect(store.pending.value.size).toBe(0);
  store.intent("ask", "ask", { prompt: "A cat", target: null, foil: null });
  expect(store.refusals.value.has("ask")).toBe(false);
});

test("another page's refusal is none of ours", () => {
  const { store, model } = make();
  model.receive({ kind: "refused", client: "somebody else", seq: 1, key: "ask", message: "no" });
  expect(store.refusals.value.size).toBe(0);
});

// @case E12
test("a text too large to send is refused here and never sent", () => {
  const { store, kinds } = make();
  store.intent("ask", "ask", { prompt: "x".repeat(2_000_000), target: null, foil: null });
  expect(store.refusals.value.get("ask")?.message).toContain("2.0 MB");
  expect(kinds()).toEqual(["hello"]);
});

test("nothing is sent to a kernel that is gone", () => {
  const { store, model, kinds } = make();
  model.receive({ kind: "closed", message: "The session is closed." });
  store.intent("undo", "undo", {});
  expect(kinds().filter((kind) => kind === "intent")).toEqual([]);
  expect(store.connection.value).toEqual({ status: "closed", message: "The session is closed.", usable: false });
});

test("a model marked dead whose kernel does not answer is not live", () => {
  const { store, model, kernel } = make();
  kernel.alive = false;
  model.emit("comm_live_update");
  expect([store.connection.value.status, store.connection.value.usable]).toEqual(["restarted", false]);
});

test("a send that throws is no crash but a lost connection", () => {
  const { store, model } = make();
  model.send = () => {
    throw new Error("Kernel is disposed");
  };
  store.intent("undo", "undo", {});
  expect(store.connection.value.usable).toBe(false);
});

test("messages that are not ours, or not anything, change nothing", () => {
  const { store, model } = make();
  const before = store.state.value;
  for (const message of [null, 5, "x", [], {}, { kind: "unknown" }, { kind: 7 }]) model.receive(message);
  expect(store.state.value).toBe(before);
  expect(store.connection.value.status).toBe("live");
});

test("a panel whose arrays are damaged is dropped and the one before stays", () => {
  const { store, model } = make();
  model.receive({ kind: "panel", panel: "p", revision: 1, status: "done", data: { a: 1 } });
  const damaged = {
    kind: "panel",
    panel: "p",
    revision: 2,
    status: "done",
    data: { a: { $array: 0, dtype: "float32", shape: [9] } },
  };
  model.receive(damaged, [new DataView(new ArrayBuffer(4))]);
  expect(store.panels.value.get("p")?.data.a).toBe(1);
  expect(store.panels.value.get("p")?.status).toBe("failed");
  expect(store.panels.value.get("p")?.message).toContain("needs 36 bytes");
});

test("when the model goes, the store says goodbye, and is closed and silent", () => {
  const { store, abort, kinds } = make();
  abort.abort();
  store.intent("undo", "undo", {});
  expect([store.connection.value.status, kinds()]).toEqual(["closed", ["hello", "bye"]]);
});

test("until a new answer comes the last one stays readable and counts as old", () => {
  const { store, model, kernel } = make();
  kernel.revision += 1;
  model.receive({ kind: "state", revision: kernel.revision, acks: {}, state: { ...kernel.state, answer: null } });
  expect(store.state.value?.state.answer?.metric).toBe(4.11);
  expect(store.state.value?.state.answer?.revision).toBeLessThan(kernel.revision);
  model.receive({
    kind: "state",
    revision: kernel.revision,
    acks: {},
    state: { ...kernel.state, question: null, answer: null },
  });
  expect(store.state.value?.state.answer).toBeNull();
});

test("a page asks the kernel to beat while it is looked at, again every minute, and no longer once it is hidden or gone", () => {
  const { time, advance } = handClock();
  const model = new FakeModel();
  new FakeKernel(model);
  const abort = new AbortController();
  const store = createStore(model as unknown as Wire, abort.signal, time);
  const said = (): unknown[][] =>
    model.sent.splice(0).map((one) => {
      const { kind, listening, on } = one as { kind: string; listening?: boolean; on?: boolean };
      return kind === "hello" ? [kind, listening] : kind === "listening" ? [kind, on] : [kind];
    });
  expect(said()).toEqual([["hello", true]]);
  advance(125_000);
  expect(said().filter(([kind]) => kind === "listening")).toEqual([
    ["listening", true],
    ["listening", true],
  ]);
  const look = (visible: boolean): void => {
    const state = visible ? "visible" : "hidden";
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  look(false);
  expect(said()).toEqual([["listening", false]]);
  advance(600_000);
  expect(said()).toEqual([]);
  look(true);
  expect(said()).toContainEqual(["listening", true]);
  model.receive({ kind: "beat" });
  advance(1600);
  expect(store.connection.value.status).toBe("silent");
  abort.abort();
  said();
  advance(600_000);
  look(true);
  expect(said()).toEqual([]);
  Reflect.deleteProperty(document, "visibilityState");
});

test("what a view was told is let go of when the view has closed, and only that", () => {
  const { store, model } = make();
  const told = (panel: string, status = "done") =>
    model.receive({ kind: "panel", panel, revision: 1, status, data: status === "done" ? { effects: [1, 2] } : null });
  for (let n = 0; n < 50; n += 1) {
    told(`HeadAblation-${n}`);
    if (n > 0) told(`HeadAblation-${n - 1}`, "closed");
  }
  expect([...store.panels.value.keys()]).toEqual(["HeadAblation-49"]);
});
