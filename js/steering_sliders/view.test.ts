import { afterEach, expect, test, vi } from "vitest";
import { alertsOf, buttonNamed, click, find, metricOf, openPage } from "../tests/harness.ts";
import { boundaryWords, curveIsStale, firstDifference, readCurves, unitsOf } from "./model.ts";

afterEach(() => vi.useRealTimers());

function range(root: Element, name = "sentiment"): HTMLInputElement {
  return find<HTMLInputElement>(root, `input[type="range"][aria-label="${name}"]`);
}

function move(input: HTMLInputElement, value: string, event = "input"): void {
  input.value = value;
  input.dispatchEvent(new Event(event));
}

test("dragging from 0 to 1 and back restores the number exactly", async () => {
  const { root } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const before = metricOf(view);
  move(range(view), "1");
  move(range(view), "1", "change");
  expect(metricOf(view)).not.toBe(before);
  move(range(view), "0");
  move(range(view), "0", "change");
  expect(metricOf(view)).toBe(before);
});

test("three hundred moves in three seconds end on the last value, within thirty messages a second", async () => {
  vi.useFakeTimers();
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const input = range(root("SteeringSliders"));
  for (let index = 1; index <= 300; index += 1) {
    move(input, (index / 300).toFixed(2));
    vi.advanceTimersByTime(10);
  }
  vi.advanceTimersByTime(100);
  const strengths = kernel.handled.filter((intent) => intent.name === "strength");
  expect(strengths.length).toBeLessThanOrEqual(92);
  expect([strengths.at(-1)?.args.value, kernel.state.vectors[0]?.coefficient]).toEqual([1, 1]);
});

test("letting go says that it is final", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  move(range(root("SteeringSliders")), "0.5", "change");
  expect(kernel.handled.at(-1)?.args).toEqual({ name: "sentiment", value: 0.5, final: true });
});

test("a strength that is not a number is refused in the view, in words, and stays in its field", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const field = find<HTMLInputElement>(view, '[aria-label="exact strength"]');
  field.value = "nan";
  field.dispatchEvent(new Event("change"));
  expect(alertsOf(view)[0]).toContain("“nan” is not a number");
  expect([field.value, kernel.handled.length]).toEqual(["nan", 0]);
});

test("a wrong strength goes from its field together with what was said of it", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const field = find<HTMLInputElement>(view, '[aria-label="exact strength"]');
  field.value = "nan";
  field.dispatchEvent(new Event("change"));
  for (const vector of kernel.state.vectors) vector.coefficient = 1;
  kernel.revision += 1;
  kernel.publish();
  expect([field.value, alertsOf(view).length]).toEqual(["nan", 1]);
  click(find(view, '[data-iw="vector"] .iw-alert-close'));
  expect([field.value, alertsOf(view).length]).toEqual(["+1.00", 0]);
});

test("a strength that the kernel refuses goes back to the kernel's, with its sentence beside the slider", async () => {
  const { root } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const field = find<HTMLInputElement>(view, '[aria-label="exact strength"]');
  field.value = "1e38";
  field.dispatchEvent(new Event("change"));
  expect(find(view, '[data-iw="vector"]').textContent).toContain("cannot be used");
  expect([Number(range(view).value), field.value]).toEqual([0, "1e38"]);
  move(range(view), "0.5", "change");
  expect([field.value, alertsOf(view)]).toEqual(["+0.50", []]);
});

test("settings are sent whole, so that no older message can undo a newer one", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const positions = find<HTMLSelectElement>(root("SteeringSliders"), '[aria-label="positions"]');
  positions.value = "generated";
  positions.dispatchEvent(new Event("change"));
  expect(kernel.handled.at(-1)?.args).toEqual({
    name: "sentiment",
    site: "L1",
    on: true,
    positions: "generated",
    mode: "add",
  });
});

test("a vector that cannot reach what is read is amber, with its reason", async () => {
  const { root } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const positions = find<HTMLSelectElement>(view, '[aria-label="positions"]');
  positions.value = "generated";
  positions.dispatchEvent(new Event("change"));
  move(range(view), "1", "change");
  const receipt = find(view, '[data-iw="receipt"]');
  expect(receipt.dataset.state).toBe("cannot reach");
  expect(receipt.textContent).toContain("generated positions only");
});

test("a vector's own curve stays fresh while its slider moves, and the others' become old", async () => {
  const { root, kernel, session } = await openPage(["SteeringSliders"]);
  kernel.sendPanel = () => {};
  const view = root("SteeringSliders");
  move(range(view, "sentiment"), "1", "change");
  const stale = [...view.querySelectorAll(".iw-curve")].map((node) => node.classList.contains("iw-stale"));
  expect(stale).toEqual([false, true]);
  expect(session.sent.length).toBeGreaterThan(0);
});

test("dragging reads the answer off the curve before the kernel has said anything", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  kernel.alive = false;
  const view = root("SteeringSliders");
  move(range(view), "0.6");
  expect(view.textContent).toContain("here 5.36");
});

test("generation starts, says so, can be stopped, and marks the first difference", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  click(buttonNamed(view, "Generate"));
  expect(kernel.handled.at(-1)?.args).toMatchObject({ action: "generate" });
  click(buttonNamed(view, "Stop"));
  expect(kernel.handled.at(-1)?.args).toMatchObject({ action: "stop" });
  expect([...view.querySelectorAll(".iw-divergence")].map((node) => node.textContent)).toEqual([" soft", " great"]);
});

test("without vectors the view says how to make one", async () => {
  const { root } = await openPage(["SteeringSliders"], { vectors: false });
  expect(root("SteeringSliders").textContent).toContain("iw.steering_vector(");
});

test("a vector may be called __proto__", () => {
  const data = JSON.parse('{"vectors": {"__proto__": {"strengths": [0, 1], "metric": [1, 2]}}}');
  const curves = readCurves({
    panel: "p",
    revision: 1,
    status: "done",
    progress: null,
    message: "",
    revisions: {},
    data,
  });
  expect([...curves.keys()]).toEqual(["__proto__"]);
});

test("the KL is drawn beside the metric, and the caption says how far it goes", async () => {
  const { root } = await openPage(["SteeringSliders"]);
  const row = find(root("SteeringSliders"), '[data-iw="vector"]');
  expect(find(row, ".iw-curve-second").getAttribute("d")).toMatch(/^M[\d.]+,[\d.]+L/);
  expect(row.textContent).toMatch(/dashed: KL, to \d/);
});

test("a strength is said in three units", async () => {
  const { kernel } = await openPage(["SteeringSliders"]);
  const vector = kernel.state.vectors[0];
  expect(vector && unitsOf({ ...vector, coefficient: 0.6 })).toBe(
    "+0.60 × difference = length 4.20 = 21 % of the residual norm at L1",
  );
});

test("a strength is a multiple of the difference that a scaled vector was made from, and of the vector where there is none", async () => {
  const { kernel } = await openPage(["SteeringSliders"]);
  const vector = kernel.state.vectors[0];
  if (vector === undefined) throw new Error("no vector");
  expect(unitsOf({ ...vector, norm: 14, coefficient: 0.5 })).toContain("+1.00 × difference = length 7.00 = 35 %");
  const made = { ...vector, difference: null, source: "unembedding of ' different'", coefficient: 0.5 };
  expect(unitsOf(made)).toContain("+0.50 × vector = length 3.50");
});

test("modes that do not add say what they leave of the component along the vector", async () => {
  const { kernel } = await openPage(["SteeringSliders"]);
  const vector = kernel.state.vectors[0];
  if (vector === undefined) throw new Error("no vector");
  const out = { ...vector, mode: "project_out" };
  expect(unitsOf({ ...out, coefficient: 1, site: "L0–L3" })).toBe(
    "component along it taken out whole at L0, and again after every block to L3",
  );
  expect(unitsOf({ ...out, coefficient: 0.25 })).toBe("component along it × 0.75 at L1");
  expect(unitsOf({ ...out, coefficient: 0 })).toBe("component along it as it is at L1");
  expect(unitsOf({ ...vector, mode: "clamp", coefficient: 1 })).toBe(
    "component along it set to 5.50 = 28 % of the residual norm at L1",
  );
  expect(unitsOf({ ...vector, mode: "keep_norm", coefficient: 1 })).toContain(", the stream's own norm kept");
});

test("a vector can be taken out of every write, and then there is no last layer to choose", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const layer = find<HTMLSelectElement>(view, 'select[aria-label="layer"]');
  expect(layer.options[layer.options.length - 1]?.textContent).toBe("every write");
  layer.value = "writes";
  layer.dispatchEvent(new Event("change"));
  expect(kernel.handled.at(-1)?.args).toMatchObject({ name: "sentiment", site: "writes" });
  const last = find<HTMLSelectElement>(view, 'select[aria-label="last layer"]');
  expect([...last.options].map((option) => option.value)).toEqual([""]);
  expect(find(view, '[data-iw="vector"]').textContent).toContain("at every write");
});

test("the boundary between prompt and text is said where a vector acts on generated positions only", async () => {
  expect([boundaryWords("content"), boundaryWords("prompt[-1]")]).toEqual(["", ""]);
  const { root } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const note = find(view, '[data-iw="boundary"]');
  expect(note.hidden).toBe(true);
  for (const positions of ["gen[:8]", "generated"]) {
    const select = find<HTMLSelectElement>(view, 'select[aria-label="positions"]');
    select.value = positions;
    select.dispatchEvent(new Event("change"));
    expect(note.hidden).toBe(false);
    expect(note.textContent).toContain("first generated token is predicted at the last prompt position");
  }
});

test("a curve whose circumstances are not remembered any more counts as old", async () => {
  const { kernel } = await openPage(["SteeringSliders"]);
  const panel = {
    panel: "p",
    revision: 1,
    status: "done" as const,
    progress: null,
    message: "",
    data: {},
    revisions: { vectors: 1 },
  };
  expect(curveIsStale(panel, "sentiment", kernel.state, 9, () => undefined)).toBe(true);
  expect(curveIsStale(panel, "sentiment", kernel.state, 1, () => undefined)).toBe(false);
});

test("the first difference is where the token ids part", () => {
  const tokens = (ids: number[]) => ids.map((id) => ({ id, text: "", probability: 1 }));
  expect(firstDifference(tokens([1, 2, 3]), tokens([1, 2, 4]))).toBe(2);
  expect(firstDifference(tokens([1, 2]), tokens([1, 2, 4]))).toBeNull();
});

test("beyond the strengths that were tried as text the view warns, and says by what measure", async () => {
  const { root } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const line = find(view, '[data-iw="coherence"]');
  expect(line.textContent).toBe("text holds here: loss 2.00 nats, 0 % of 4-grams repeated");
  expect(line.classList.contains("iw-warns")).toBe(false);
  move(range(view), "1.5", "change");
  expect(line.textContent).toContain("text breaks here: loss 4.25 nats, 40 %");
  expect(line.classList.contains("iw-warns")).toBe(true);
  expect(line.title).toContain("outside 1.90 to 3.40 nats");
  expect(find(view, '[data-iw="breaks"] title').textContent).toBe(line.title);
});

test("layer, mode and typed positions are sent whole; a refused rule stays in its field", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const choose = (name: string, value: string): void => {
    const select = find<HTMLSelectElement>(view, `select[aria-label="${name}"]`);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  choose("layer", "L3");
  choose("mode", "keep_norm");
  expect(kernel.handled.at(-1)?.args).toMatchObject({ site: "L3", mode: "keep_norm", positions: "content" });
  const count = kernel.handled.length;
  choose("positions", "other…");
  expect(kernel.handled.length).toBe(count);
  const typed = find<HTMLInputElement>(view, '[aria-label="positions, typed"]');
  expect(typed.hidden).toBe(false);
  typed.value = "gen[:3]";
  typed.dispatchEvent(new Event("change"));
  expect(kernel.handled.at(-1)?.args).toMatchObject({ positions: "gen[:3]" });
  expect([typed.hidden, find<HTMLSelectElement>(view, 'select[aria-label="positions"]').value]).toEqual([
    true,
    "gen[:3]",
  ]);
});

test("all vectors are muted and unmuted together, their strengths kept", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  move(range(view), "1", "change");
  click(buttonNamed(view, "Mute all"));
  expect(kernel.state.vectors.map((one) => [one.on, one.coefficient])).toEqual([
    [false, 1],
    [false, 0],
  ]);
  click(buttonNamed(view, "Unmute all"));
  expect(kernel.state.vectors.every((one) => one.on)).toBe(true);
});

test("a map on request: a cell is read, and pressed it steers there", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const part = find(view, '[aria-label="Layer × strength"]');
  expect(part.hidden).toBe(true);
  click(buttonNamed(view, "Map"));
  expect(part.hidden).toBe(false);
  const picture = find(part, ".iw-heatmap");
  picture.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  expect(part.textContent).toContain("sentiment −1.00 at L1: logit difference 2.00, from 2.00");
  picture.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  expect(kernel.handled.slice(-2).map(({ name, args }) => [name, args.site ?? args.value])).toEqual([
    ["vector", "L1"],
    ["strength", -1],
  ]);
  click(buttonNamed(view, "Close"));
  expect(part.hidden).toBe(true);
});

test("a vector acts on a range of layers, said in its units, and one place again", async () => {
  const { root, kernel } = await openPage(["SteeringSliders"]);
  const view = root("SteeringSliders");
  const row = find(view, '[data-iw="vector"]');
  const [first, last] = ["layer", "last layer"].map((name) =>
    find<HTMLSelectElement>(row, `select[aria-label="${name}"]`),
  );
  const choose = (select: HTMLSelectElement | undefined, value: string): void => {
    if (select === undefined) throw new Error("no such menu");
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  expect([...(last?.options ?? [])].map((one) => one.text)).toEqual(["only there", "to L2", "to L3"]);
  choose(last, "L3");
  expect(kernel.handled.at(-1)?.args.site).toBe("L1–L3");
  expect([first?.value, last?.value]).toEqual(["L1", "L3"]);
  move(range(view), "0.5", "change");
  expect(row.textContent).toContain("of the residual norm at L1, and again after every block to L3");
  choose(first, "L0");
  expect(kernel.handled.at(-1)?.args.site).toBe("L0–L3");
  choose(last, "");
  expect(kernel.handled.at(-1)?.args.site).toBe("L0");
  choose(last, "L1");
  choose(first, "L3");
  expect(kernel.handled.at(-1)?.args.site).toBe("L3");
  expect(last?.hidden).toBe(true);
  choose(first, "embed");
  expect([kernel.handled.at(-1)?.args.site, last?.hidden]).toEqual(["embed", true]);
});
