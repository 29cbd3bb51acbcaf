import { expect, test } from "vitest";
import { buttonNamed, click, find, head, openPage } from "../tests/harness.ts";
import { methodTitle, readAttribution } from "./model.ts";

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

test("until the chosen method has answered, the scores of the last one are half as strong", async () => {
  const { root } = await openPage(["TokenAttribution"]);
  click(buttonNamed(root("TokenAttribution"), "Gradient"));
  expect(find(root("TokenAttribution"), ".iw-tokens").className).toContain("iw-stale");
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

test("the honest line is the kernel's, or made of its parts", () => {
  const panel = { panel: "p", revision: 1, status: "done" as const, progress: null, message: "", revisions: {} };
  const parts = {
    explains: "plain run",
    total: 2.73,
    error: -2e-4,
    baseline: { name: "mean embedding", metric: 0.24 },
  };
  expect(readAttribution({ ...panel, data: parts })?.line).toBe(
    "explains the plain run · baseline mean embedding (0.24) · sums to 2.73 ± 2e−4 (arithmetic)",
  );
  expect(readAttribution({ ...panel, data: { ...parts, line: "as said" } })?.line).toBe("as said");
});

test("a method that nobody has named yet is shown by its own name", () => {
  expect([methodTitle("integrated_gradients"), methodTitle("my_method"), methodTitle("constructor")]).toEqual([
    "Integrated",
    "My method",
    "Constructor",
  ]);
});
