import { expect, test } from "vitest";
import { encode, f32 } from "../tests/encode.ts";
import { attribution } from "../tests/fake_panels.ts";
import { buttonNamed, click, find, head, lastIntent, openPage } from "../tests/harness.ts";
import { HEIGHT } from "./bars.ts";
import { methodTitle, readAttribution, spansOf, tableOf } from "./model.ts";

const EMPTY = {
  panel: "p",
  revision: 1,
  status: "done" as const,
  progress: null,
  message: "",
  data: {},
  revisions: {},
};
const line = (root: Element): string => find(root, '[data-iw="fixed"]').textContent ?? "";

test("each token carries its exact score, and the largest is the strongest colour", async () => {
  const { root } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  expect(Number(find(view, '[data-token="2"]').dataset.score)).toBeCloseTo(1.61, 5);
  expect(find(view, '[data-token="2"] .iw-token-bar').style.backgroundColor).toBe("rgb(179, 88, 6)");
});

test("the number of a token is read in the fixed line on hover and on focus", async () => {
  const { root } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  find(view, '[data-token="4"]').focus();
  expect(line(view)).toBe("␣John (position 4): −0.840, away from it · rank 3 of 15");
});

test("a locked token stays read after the pointer has left", async () => {
  const { root } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  click(find(view, '[data-token="2"]'));
  find(view, ".iw-tokens").dispatchEvent(new Event("pointerleave"));
  expect(line(view)).toContain("␣Mary (position 2)");
  click(find(view, '[data-token="2"]'));
  find(view, ".iw-tokens").dispatchEvent(new Event("pointerleave"));
  expect(line(view)).toContain("Hover or focus");
});

test("choosing a method writes the view's own trait and saves it", async () => {
  const { root, models } = await openPage(["TokenAttribution"]);
  click(buttonNamed(root("TokenAttribution"), "Occlusion"));
  expect(models.TokenAttribution?.saved.at(-1)?.method).toBe("occlusion");
  expect(buttonNamed(root("TokenAttribution"), "Occlusion").getAttribute("aria-pressed")).toBe("true");
});

test("a baseline is chosen from a menu, and only where the method compares with one", async () => {
  const { root, models } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  const menu = find<HTMLSelectElement>(view, 'select[aria-label="Baseline"]');
  expect([...menu.options].map(({ value }) => value)).toEqual(["auto", "mean", "zero", "corrupt"]);
  menu.value = "corrupt";
  menu.dispatchEvent(new Event("change"));
  expect(models.TokenAttribution?.saved.at(-1)?.baseline).toBe("corrupt");
  click(buttonNamed(view, "Gradient"));
  expect((menu.closest("label") as HTMLElement).hidden).toBe(true);
});

test("until the chosen method has answered, the scores of the last one are half as strong", async () => {
  const { root } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  expect(view.textContent).not.toContain("meanwhile");
  click(buttonNamed(view, "Gradient"));
  expect(find(view, ".iw-tokens").className).toContain("iw-stale");
  expect(view.textContent).toContain("meanwhile Integrated");
  expect(view.textContent).not.toContain("measured before your last change");
});

test("scores are summed over words, and the fixed line says which tokens they are", async () => {
  const { root, models } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  const menu = find<HTMLSelectElement>(view, 'select[aria-label="Scores by"]');
  menu.value = "word";
  menu.dispatchEvent(new Event("change"));
  expect(models.TokenAttribution?.saved.at(-1)?.spans).toBe("word");
  expect(Number(find(view, '[data-token="3"]').dataset.score)).toBeCloseTo(1.61 + 0.11, 5);
  expect(find(view, '[data-token="2"]').dataset.score).toBe(find(view, '[data-token="3"]').dataset.score);
  find(view, '[data-token="3"]').focus();
  expect(line(view)).toContain("(positions 2 to 3): +1.720, toward the target · rank 1 of 8 · of it ␣and +0.110");
});

test("a likely next token becomes the target at a click", async () => {
  const { root, kernel } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  click(find(view, '.iw-alternative[data-id="2"]'));
  expect(lastIntent({ kernel }).args).toEqual({ panel: "panel-TokenAttribution", action: "target", id: 2 });
});

test("the table that is copied has a row per span, quoted, with exact sums", () => {
  const scores = { shape: [3], data: [1, 2, 4] };
  const tokens = [" a", "\t", "\n"].map((text, id) => ({ id, text, kind: "text" as const }));
  const whole = { ...readAttribution(EMPTY), tokens, scores, groups: { word: { shape: [3], data: [0, 0, 1] } } };
  expect(tableOf(whole as never, spansOf(whole as never, scores.data, "token"), "token").split("\n")).toEqual([
    "position\ttoken\tid\tscore",
    '0\t" a"\t0\t1',
    '1\t"\\t"\t1\t2',
    '2\t"\\n"\t2\t4',
  ]);
  expect(tableOf(whole as never, spansOf(whole as never, scores.data, "word"), "word").split("\n")[1]).toBe(
    '0\t" a\\t"\t0 1\t3',
  );
});

test("a head switched off elsewhere recolours the tokens", async () => {
  const { root } = await openPage(["TokenAttribution", "HeadAblation"]);
  const before = find(root("TokenAttribution"), '[data-token="2"]').dataset.score;
  click(head(root("HeadAblation"), "L2H6"));
  expect(find(root("TokenAttribution"), '[data-token="2"]').dataset.score).not.toBe(before);
});

test("scores of another prompt are never painted on this one", async () => {
  const { root, kernel, session } = await openPage(["TokenAttribution"]);
  const question = kernel.state.question;
  if (question === null) throw new Error("no question");
  question.tokens = question.tokens.map((token) => ({ ...token, id: token.id + 1000, text: " new" }));
  kernel.revision += 1;
  session.receive({ kind: "state", revision: kernel.revision, acks: {}, state: kernel.state });
  const tokens = [...root("TokenAttribution").querySelectorAll<HTMLElement>("[data-token]")];
  expect(tokens.every((token) => token.dataset.score === undefined)).toBe(true);
  expect(tokens[0]?.textContent).toContain("new");
});

test("scores from before the last change are half as strong and said to be old", async () => {
  const { root, kernel, session } = await openPage(["TokenAttribution"]);
  kernel.revision += 1;
  session.receive({ kind: "state", revision: kernel.revision, acks: {}, state: kernel.state });
  const view = root("TokenAttribution");
  expect(find(view, ".iw-tokens").className).toContain("iw-stale");
  expect(view.textContent).toContain("measured before your last change");
});

test("a method that nobody has named yet is shown by its own name", () => {
  expect([methodTitle("integrated_gradients"), methodTitle("my_method"), methodTitle("constructor")]).toEqual([
    "Integrated",
    "My method",
    "Constructor",
  ]);
});

test("methods that come one after another are all drawn, whoever is told of them first", async () => {
  const { root, kernel } = await openPage(["TokenAttribution"]);
  const methods = ["integrated_gradients", "gradient_x_input", "occlusion", "lrp", "direct"];
  for (const count of [1, 2, 5]) {
    const size = kernel.state.question?.tokens.length ?? 0;
    const compare = {
      methods: methods.slice(0, count),
      scores: f32(
        Array.from({ length: count * size }, (_, index) => index),
        [count, size],
      ),
      lines: methods.map((name) => `line of ${name}`),
      correlations: null,
    };
    const { json, buffers } = encode({ ...attribution(kernel), compare });
    const panel = { kind: "panel", panel: "panel-TokenAttribution", status: "partial", progress: null, message: null };
    kernel.model.receive({ ...panel, revision: kernel.revision, data: json }, buffers);
    const pictures = [...root("TokenAttribution").querySelectorAll<HTMLCanvasElement>(".iw-bars > canvas")];
    expect(pictures.map(({ height }) => height)).toEqual(Array(count).fill(HEIGHT));
  }
});
