import { expect, test } from "vitest";
import { encode, f32 } from "../tests/encode.ts";
import {
  alertsOf,
  buttonNamed,
  click,
  find,
  head,
  lastIntent,
  metricOf,
  openPage,
  type Page,
} from "../tests/harness.ts";
import { nameOfSet } from "./actions.ts";

const line = (root: Element): string => find(root, '[data-iw="fixed"]').textContent ?? "";
const keydown = (key: string, init = {}): void => {
  document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, ...init }));
};

function send(page: Page, status: string, data: Record<string, unknown> | null, extra = {}): void {
  const { json, buffers } = encode(data ?? {});
  page.session.receive(
    {
      kind: "panel",
      panel: "panel-HeadAblation",
      revision: page.kernel.revision,
      status,
      data: data && json,
      ...extra,
    },
    buffers,
  );
}

test("a click switches a head off in the kernel, and a second click restores the number exactly", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "L2H6"));
  expect(head(view, "L2H6").getAttribute("aria-pressed")).toBe("true");
  expect(kernel.state.interventions.map((one) => one.site)).toEqual(["L2H6"]);
  click(head(view, "L2H6"));
  expect(metricOf(view)).toBe(4.11);
});

test("each cell carries its effect, and the same effect is the same colour", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(kernel.effect("L2H6"), 5);
  expect(head(view, "L2H6").style.backgroundColor).toBe("rgb(179, 88, 6)");
  expect(head(view, "L3H1").style.backgroundColor).not.toBe(head(view, "L2H6").style.backgroundColor);
  expect(head(view, "L2.mlp").style.backgroundColor).toBe("rgb(179, 88, 6)");
});

test("hovering a head previews the answer from the table, in the fixed line, without the kernel", async () => {
  const { root, session } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  const before = session.sent.length;
  head(view, "L2H6").focus();
  expect(line(view)).toBe("L2H6 off: 4.11 → 2.00 · direct 1.90 · rank 1 of 32 · KL 1.34 · ␣Mary still ahead");
  expect(session.sent.length).toBe(before);
});

test("the preview is what the click then shows", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  head(view, "L0H2").focus();
  const promised = /→ ([\d.−]+)/.exec(line(view))?.[1];
  click(head(view, "L0H2"));
  expect(find(view, '[data-iw="metric"]').textContent).toBe(promised);
});

test("for a head that is off the line says what switching it back on would do", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "L2H6"));
  head(view, "L2H6").focus();
  expect(line(view)).toContain("L2H6 back on: 2.00 → 4.11");
});

test("a layer's header is one wish that names the layer", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  click(head(root("HeadAblation"), "all heads of layer 1"));
  const { name, key, args } = lastIntent({ kernel });
  expect([name, key, args.sites.length, args.off]).toEqual(["ablate_many", "heads:L1", 8, true]);
});

test("sets are named by what they are", () => {
  expect(nameOfSet(["L1H0", "L1H1"])).toBe("L1");
  expect(nameOfSet(["L0H3", "L1H3"])).toBe("*H3");
  expect(nameOfSet(["L0.mlp", "L1.mlp"])).toBe("*.mlp");
  expect(nameOfSet(["L0H1", "L0H2", "L1H1", "L1H2"])).toBe("L0H1-L1H2");
});

test("“keep only these” switches all other heads off and these back on", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "L2H6"));
  head(view, "L2H5").focus();
  keydown("ArrowRight", { shiftKey: true });
  expect(view.textContent).toContain("2 heads selected");
  click(buttonNamed(view, "Keep only these"));
  expect(kernel.state.interventions).toHaveLength(30);
  expect(kernel.state.interventions.some((one) => ["L2H5", "L2H6"].includes(one.site))).toBe(false);
});

test("the mode is the session's, and a click carries it", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "Zero"));
  click(head(view, "L0H0"));
  expect([kernel.state.mode, kernel.handled.at(-1)?.args.mode]).toEqual(["zero", "zero"]);
  expect(buttonNamed(view, "Zero").getAttribute("aria-pressed")).toBe("true");
});

test("a table measured before the last change is shown at half strength and said to be old", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  page.kernel.revision += 1;
  page.session.receive({ kind: "state", revision: page.kernel.revision, acks: {}, state: page.kernel.state });
  expect(head(view, "L0H0").className).toContain("iw-cell-stale");
  expect(view.textContent).toContain("measured before your last change");
  send(page, "done", page.kernel.sweep());
  expect(head(view, "L0H0").className).not.toContain("iw-cell-stale");
});

test("while a sweep fills from the last layer down, cells not done yet show their value of before, half", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  page.kernel.revision += 1;
  page.session.receive({ kind: "state", revision: page.kernel.revision, acks: {}, state: page.kernel.state });
  const effects = page.kernel.effects.map((row, layer) => row.map((effect) => (layer === 3 ? effect : Number.NaN)));
  send(page, "partial", { effects: f32(effects.flat(), [4, 8]) }, { progress: 0.25 });
  expect(head(view, "L0H0").className).toContain("iw-cell-stale");
  expect(Number(head(view, "L0H0").dataset.effect)).toBeCloseTo(page.kernel.effect("L0H0"), 5);
  expect(head(view, "L3H0").className).not.toContain("iw-cell-stale");
  expect(view.getAttribute("aria-busy")).toBe("true");
});

test("a first sweep that has only begun leaves the rest empty, not neutral", async () => {
  const page = await openPage(["HeadAblation"], {}, (kernel) => {
    kernel.sendPanel = () => {};
  });
  const view = page.root("HeadAblation");
  send(page, "partial", {
    effects: f32(
      page.kernel.effects.flat().map((effect, index) => (index < 24 ? Number.NaN : effect)),
      [4, 8],
    ),
  });
  expect(head(view, "L0H0").className).toContain("iw-empty");
  expect(head(view, "L3H1").className).not.toContain("iw-empty");
  head(view, "L0H0").focus();
  expect(line(view)).toContain("not measured yet");
});

test("a sweep that failed says why where its colours would be", async () => {
  const page = await openPage(["HeadAblation"]);
  send(page, "failed", null, {
    message: "The sweep ran out of memory at 12 rows. Close other models, or use a shorter prompt.",
  });
  expect(alertsOf(page.root("HeadAblation"))[0]).toContain("ran out of memory");
});

test("a long sweep asks first, and Compute says yes", async () => {
  const page = await openPage(["HeadAblation"]);
  send(page, "asking", null, { message: "All 32 heads take about 40 s." });
  const view = page.root("HeadAblation");
  expect(view.textContent).toContain("about 40 s");
  click(buttonNamed(view, "Compute"));
  expect(page.kernel.handled.at(-1)?.args).toMatchObject({ action: "compute", panel: "panel-HeadAblation" });
});

test("where the kernel knows how long it would take, the button says so", async () => {
  const page = await openPage(["HeadAblation"]);
  send(page, "asking", { estimate_seconds: 41.7 });
  click(buttonNamed(page.root("HeadAblation"), "Compute (about 42 s)"));
  expect(page.kernel.handled.at(-1)?.args).toMatchObject({ action: "compute" });
});

test("a head that is refused is shown as the kernel has it, with the sentence", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  page.kernel.alive = false;
  click(head(view, "L1H3"));
  expect(head(view, "L1H3").getAttribute("aria-pressed")).toBe("true");
  const { client, seq, key } = page.session.sent.at(-1) as { client: string; seq: number; key: string };
  page.session.receive({
    kind: "refused",
    client,
    seq,
    key,
    message: "L1H3 cannot be ablated: resample needs a corrupt prompt. Pass corrupt=.",
  });
  expect(head(view, "L1H3").getAttribute("aria-pressed")).toBe("false");
  expect(alertsOf(view)[0]).toContain("corrupt prompt");
});

test("receipts say what was done and with what effect", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "L0H2"));
  const receipt = find(view, '[data-iw="receipt"]');
  expect([receipt.dataset.state, receipt.textContent]).toEqual(["acted", "ablate L0H2, mean15 pos · 34 %"]);
});

test("48 × 64 heads are usable: one button, painted on a canvas, toggled by the keyboard", async () => {
  const { root, kernel } = await openPage(["HeadAblation"], { layers: 48, heads: 64 });
  const view = root("HeadAblation");
  const proxy = find<HTMLButtonElement>(view, ".iw-grid-proxy");
  proxy.focus();
  keydown("ArrowDown");
  keydown("ArrowRight");
  click(proxy);
  expect(kernel.state.interventions.map((one) => one.site)).toEqual(["L1H1"]);
  expect(proxy.getAttribute("aria-pressed")).toBe("true");
});

const menu = (root: Element, name: string): HTMLSelectElement => find(root, `select[aria-label="${name}"]`);
function choose(root: Element, name: string, value: string): void {
  const select = menu(root, name);
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}
const cellColour = (view: Element, site: string): string => head(view, site).style.backgroundColor;

test("the cells show what is chosen, and the legend and the honest line say what that is", async () => {
  const { root, models, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  expect(view.textContent).toContain("cells do not add up to the answer");
  choose(view, "colour", "direct effect");
  expect(models.HeadAblation?.saved.at(-1)?.colour).toBe("direct effect");
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(kernel.effect("L2H6") * 0.9, 5);
  expect(view.textContent).toContain("cells and the rest add up to the answer");
  choose(view, "colour", "induction");
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(2.11 / 2.2, 5);
  expect(view.textContent).toContain("induction score");
  expect(head(view, "L2.mlp").className).toContain("iw-empty");
});

test("the same sweep is read as a probability, without the kernel", async () => {
  const { root, session, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  const before = session.sent.length;
  choose(view, "read", "probability");
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(kernel.effect("L2H6") / 10, 5);
  expect(session.sent.length).toBe(before);
});

test("while a long sweep is under way, direct effects stand in hollow, are no effects, and the pointer asks for its head", async () => {
  const page = await openPage(["HeadAblation"], {}, (kernel) => {
    kernel.sendPanel = () => {};
  });
  const view = page.root("HeadAblation");
  const effects = page.kernel.effects.flat().map((effect, index) => (index < 24 ? Number.NaN : effect));
  send(page, "partial", {
    ...page.kernel.sweep(),
    effects: f32(effects, [4, 8]),
    meanwhile: "direct",
    estimate_seconds: 12,
  });
  expect(head(view, "L0H2").className).toContain("iw-hollow");
  expect(head(view, "L0H2").dataset.effect).toBeUndefined();
  expect(head(view, "L3H1").className).not.toContain("iw-hollow");
  expect(view.textContent).toContain("hollow: direct effects, until the sweep has come to them");
  head(view, "L0H2").focus();
  expect(lastIntent(page).args).toMatchObject({ action: "first", layer: 0, head: 2 });
  expect(line(view)).toBe("L0H2: not measured yet · direct effect 0.64");
  click(buttonNamed(view, "Stop"));
  expect(lastIntent(page).args).toMatchObject({ action: "stop" });
});

test("chosen tokens are where a click switches off, and a second click on a token lets it go", async () => {
  const { root, models, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "At chosen tokens"));
  click(find(view, '[data-token="4"]'));
  click(find(view, '[data-token="2"]'));
  expect(models.HeadAblation?.saved.at(-1)?.positions).toEqual([2, 4]);
  expect(find(view, '[data-token="4"]').className).toContain("iw-token-chosen");
  click(head(view, "L1H1"));
  expect(lastIntent({ kernel }).args.positions).toEqual([2, 4]);
  click(find(view, '[data-token="2"]'));
  expect(models.HeadAblation?.saved.at(-1)?.positions).toEqual([4]);
  click(buttonNamed(view, "Everywhere"));
  click(head(view, "L1H2"));
  expect(lastIntent({ kernel }).args.positions).toBe("all");
});

test("effects measured at other positions than those chosen are shown to be old", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "At chosen tokens"));
  click(find(view, '[data-token="4"]'));
  expect(head(view, "L0H0").className).toContain("iw-cell-stale");
});

test("a head's card says what it reads and writes, colours the prompt by source, and follows the lock", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "L2H6"));
  click(buttonNamed(view, "Open the card of L2H6"));
  expect(lastIntent({ kernel }).args).toMatchObject({ action: "card", layer: 2, head: 6 });
  const card = find(view, '[data-iw="card"]');
  expect(card.textContent).toContain("direct +1.90 · copying +0.31");
  expect(card.textContent).toContain("␣Mary +2.31");
  expect(card.textContent).toContain("shares its keys and values with L2H7");
  expect(Number(find(view, '[data-token="2"]').dataset.score)).toBeCloseTo(0.8 * 1.899, 3);
  click(head(view, "L0H1"));
  expect(kernel.handled.filter((one) => one.args.action === "card").at(-1)?.args).toMatchObject({ layer: 0, head: 1 });
  click(buttonNamed(view, "Close"));
  expect(find(view, '[data-token="2"]').dataset.score).toBeUndefined();
});

test("a prompt set shows every example, the mean and its interval; a dot shows one example's effects", async () => {
  const { root, kernel } = await openPage(["HeadAblation"], { examples: 6 });
  const view = root("HeadAblation");
  expect(view.querySelectorAll(".iw-example-dot")).toHaveLength(6);
  expect(view.textContent).toContain("mean of 6 prompts, 95 % interval ±0.42");
  expect(view.textContent).toContain("of example 1");
  const mean = cellColour(view, "L2H6");
  click(find(view, '[data-example="2"]'));
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(
    kernel.effect("L2H6") * (1 + 0.3 * Math.sin(2 * 2.4)),
    4,
  );
  expect(find(view, '[data-iw="example"]').textContent).toContain("shown in the grid: example 3");
  click(buttonNamed(view, "Mean of 6"));
  expect(cellColour(view, "L2H6")).toBe(mean);
});

test("a layer that is off as a whole says what its cells mean", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(head(view, "all heads of layer 1"));
  expect(view.textContent).toContain("all heads of 1 layer are off");
});

test("several draws are said to be several: their mean and spread, while the arrow is what a click gives", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  const flat = page.kernel.effects.flat();
  const effects = f32(
    flat.map((effect) => effect * 0.5),
    [4, 8],
  );
  const spread = f32(
    flat.map(() => 0.25),
    [4, 8],
  );
  send(page, "done", { ...page.kernel.sweep(), mode: "resample", effects, spread, draws: 4 });
  head(view, "L2H6").focus();
  expect(line(view)).toContain("4.11 → 2.00 · mean of 4 draws 1.05 ± 0.25");
  expect(view.textContent).toContain("mean of 4 draws, a click takes the first");
});

test("what changed is read at every token of the prompt, as a logit difference or as KL", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  const count = page.kernel.state.question?.tokens.length ?? 0;
  const places = (values: number[]): unknown => f32(values, [count]);
  const change = Array.from({ length: count }, (_, index) => (index < 3 ? 0 : -index / 10));
  send(page, "done", {
    places: {
      plain: places(change.map(() => 2)),
      edited: places(change.map((one) => 2 + one)),
      change: places(change),
      kl: places(change.map((one) => one * one)),
    },
  });
  expect(Number(find(view, '[data-token="4"]').dataset.score)).toBeCloseTo(-0.4, 5);
  find(view, '[data-token="4"]').dispatchEvent(new Event("pointerover", { bubbles: true }));
  expect(find(view, '[data-iw="place"]').textContent).toContain("(4): 2.00 → 1.60 · KL 0.16");
  click(buttonNamed(view, "KL"));
  expect(Number(find(view, '[data-token="4"]').dataset.score)).toBeCloseTo(0.16, 5);
  click(buttonNamed(view, "Plain"));
  expect(find(view, '[data-token="4"]').dataset.score).toBeUndefined();
  send(page, "done", { places: {} });
  expect((find(view, '[data-iw="place"]').closest(".iw-where") as HTMLElement).hidden).toBe(true);
});

test("one example of a prompt set is shown in every reading, its MLPs too, and named by its prompt", async () => {
  const page = await openPage(["HeadAblation"], { examples: 3 });
  const view = page.root("HeadAblation");
  const flat = page.kernel.effects.flat();
  const three = (by: number, values: number[]): number[] =>
    [0, 1, 2].flatMap((n) => values.map((one) => one * by * (n + 1)));
  const [heads, mlps] = [three(0.1, flat), three(0.1, [1, 2, 3, 4])];
  const readings = (values: number[], shape: number[]): Record<string, unknown> =>
    Object.fromEntries(["chance", "rank", "KL"].map((name) => [name, f32(values, shape)]));
  send(page, "done", {
    ...page.kernel.sweep(),
    each_read: readings(heads, [3, 4, 8]),
    each_mlp: { ...readings(mlps, [3, 4]), metric: f32(mlps, [3, 4]) },
    prompts: ["first", "second", "third prompt"],
  });
  click(find(view, '[data-example="2"]'));
  expect(Number(head(view, "L1.mlp").dataset.effect)).toBeCloseTo(0.6, 5);
  expect(find(view, '[data-iw="example"]').textContent).toContain("third prompt");
  choose(view, "read", "rank");
  expect(Number(head(view, "L2H6").dataset.effect)).toBeCloseTo(page.kernel.effect("L2H6") * 0.3, 5);
  expect(Number(head(view, "L1.mlp").dataset.effect)).toBeCloseTo(0.6, 5);
  head(view, "L2H6").focus();
  expect(line(view)).toContain("example 3");
  click(buttonNamed(view, "Mean of 3"));
  head(view, "L0H0").focus();
  head(view, "L2H6").focus();
  expect(line(view)).toMatch(/mean effect −?\d+\.\d\d ± \d+\.\d\d \(95 %\)/);
});

test("switching an edited head back on promises what taking its edits away gives", async () => {
  const page = await openPage(["HeadAblation"]);
  const view = page.root("HeadAblation");
  click(head(view, "L2H6"));
  send(page, "done", { ...page.kernel.sweep(), restored: [[2, 6, 3.33]] });
  head(view, "L0H0").focus();
  head(view, "L2H6").focus();
  expect(line(view)).toContain("→ 3.33");
});

test("the number of draws is set where heads are resampled, and nowhere else", async () => {
  const { root, models, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  const field = find<HTMLInputElement>(view, ".iw-draws");
  const room = field.closest("label") as HTMLElement;
  expect([field.value, room.hidden]).toEqual(["4", true]);
  click(buttonNamed(view, "Resample"));
  expect(kernel.state.mode).toBe("resample");
  expect(room.hidden).toBe(false);
  field.value = "16";
  field.dispatchEvent(new Event("change", { bubbles: true }));
  expect(models.HeadAblation?.saved.at(-1)?.draws).toBe(16);
  const saves = models.HeadAblation?.saved.length;
  for (const wrong of ["", "0", "65", "2.5"]) {
    field.value = wrong;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  expect(models.HeadAblation?.saved.length).toBe(saves);
  models.HeadAblation?.set("draws", 8);
  expect(field.value).toBe("8");
  field.value = "3";
  kernel.publish();
  expect(field.value).toBe("3");
});
