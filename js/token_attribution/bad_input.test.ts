import { expect, test } from "vitest";
import type { FakeKernel } from "../tests/fake_kernel.ts";
import { alertsOf, buttonNamed, click, find, openPage } from "../tests/harness.ts";

type Kind = "text" | "special" | "byte";

/** The prompt that the made-up kernel is asked, before the view opens. */
const asked =
  (texts: readonly string[], kind: (index: number) => Kind = () => "text") =>
  (kernel: FakeKernel): void => {
    if (kernel.state.question === null) throw new Error("no question");
    kernel.state.question.tokens = texts.map((text, id) => ({ id: 100 + id, text, kind: kind(id) }));
    kernel.state.question.position = texts.length - 1;
  };

const prompt = (view: Element): HTMLElement => find(view, '[aria-label="prompt"].iw-tokens');
const shown = (view: Element): string[] =>
  [...prompt(view).querySelectorAll("[data-token] bdi")].map((one) => one.textContent ?? "");

test("markup, half characters, right-to-left words and controls are shown literally, each with its score", async () => {
  const texts = ["<img src=x onerror=alert(1)>", "\ud83d", " שלום", "\u202eabc", "\n", "0xF0", "</span>"];
  const { root } = await openPage(
    ["TokenAttribution"],
    {},
    asked(texts, (index) => (index === 5 ? "byte" : "text")),
  );
  const view = root("TokenAttribution");
  expect(shown(view)).toEqual([
    "<img src=x onerror=alert(1)>",
    "⟨D83D⟩",
    " שלום",
    "⟨202E⟩abc",
    expect.stringMatching(/^[^\n]+$/),
    "⟨F0⟩",
    "</span>",
  ]);
  expect(view.querySelector("img")).toBeNull();
  expect(prompt(view).getAttribute("dir")).toBe("ltr");
  for (const one of prompt(view).querySelectorAll<HTMLElement>("[data-token]"))
    expect(Number.isFinite(Number(one.dataset.score))).toBe(true);
  find(view, '[data-token="0"]').focus();
  expect(find(view, '[data-iw="fixed"]').textContent).toContain("<img src=x onerror=alert(1)> (position 0)");
});

test("of two thousand tokens those in sight are in the page, with their scores, and words still join", async () => {
  const texts = Array.from({ length: 2000 }, (_, index) => ` w${index}`);
  const { root } = await openPage(["TokenAttribution"], {}, asked(texts));
  const view = root("TokenAttribution");
  const here = view.querySelectorAll("[data-token]");
  expect(here.length).toBeGreaterThan(20);
  expect(here.length).toBeLessThan(400);
  expect(view.querySelectorAll("[data-score]").length).toBe(here.length);
  const menu = find<HTMLSelectElement>(view, 'select[aria-label="Scores by"]');
  menu.value = "word";
  menu.dispatchEvent(new Event("change"));
  expect(find(view, '[data-token="20"]').dataset.score).toBe(find(view, '[data-token="21"]').dataset.score);
  expect(find(view, '[data-token="21"]').className).toContain("iw-token-joined");
});

test("a selection that reaches beyond the prompt takes what there is of it", async () => {
  const { root, models } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  models.TokenAttribution?.set("selection", [[13, 99]]);
  models.TokenAttribution?.set("spans", "selection");
  const tokens = [...prompt(view).querySelectorAll<HTMLElement>("[data-token]")];
  expect(tokens.map((one) => one.className.includes("iw-token-chosen"))).toEqual(tokens.map((_, index) => index >= 13));
});

// @case E12
test("a pasted regular expression of megabytes is refused here with its length, stays in its field, and is never sent", async () => {
  const { root, kernel, models, session } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  models.TokenAttribution?.set("spans", "pattern");
  const asked = (): unknown =>
    session.sent
      .map((one) => one as { name?: string; args: { action: string; pattern: string } })
      .filter(({ name, args }) => name === "panel" && args.action === "pattern")
      .map(({ args }) => args.pattern);
  const field = find<HTMLInputElement>(view, '[aria-label="regular expression"]');
  const enter = (text: string): void => {
    field.value = text;
    field.dispatchEvent(new Event("change"));
  };
  enter("Mary");
  expect(asked()).toEqual(["Mary"]);
  enter("x".repeat(11_000_000));
  expect(alertsOf(view)[0]).toContain("11,000,000 letters");
  kernel.publish();
  expect([asked(), field.value.length]).toEqual([["Mary"], 11_000_000]);
  enter("John");
  expect([asked(), alertsOf(view)]).toEqual([["Mary", "John"], []]);
  expect(models.TokenAttribution?.saved ?? []).toEqual([]); // a trait would be in the notebook that is saved
});

test("a pattern that Python sets while its field has the focus is there when the field is left, unless it is too long to send", async () => {
  const { root, kernel, models, session } = await openPage(["TokenAttribution"]);
  models.TokenAttribution?.set("spans", "pattern");
  const field = find<HTMLInputElement>(root("TokenAttribution"), '[aria-label="regular expression"]');
  field.focus();
  field.value = "Jo";
  session.receive({
    kind: "panel",
    panel: "panel-TokenAttribution",
    revision: kernel.revision,
    status: "done",
    progress: 1,
    message: null,
    data: { pattern: "Mary" },
  });
  expect(field.value).toBe("Jo");
  field.blur();
  expect(field.value).toBe("Mary");
  field.focus();
  field.value = "x".repeat(2000);
  field.dispatchEvent(new Event("change"));
  field.blur();
  expect(field.value.length).toBe(2000);
});

test("a pattern that the kernel refuses stays in its field, with the reason beside it", async () => {
  const { root, models, session } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  models.TokenAttribution?.set("spans", "pattern");
  const field = find<HTMLInputElement>(view, '[aria-label="regular expression"]');
  field.value = "Jo";
  field.dispatchEvent(new Event("change"));
  const { client, seq, key } = session.sent.at(-1) as { client: string; seq: number; key: string };
  session.receive({ kind: "refused", client, seq, key, message: "The regular expression cannot be that." });
  expect([field.value, alertsOf(view)]).toEqual([
    "Jo",
    [expect.stringContaining("The regular expression cannot be that.")],
  ]);
});

test("why nothing is explained stands where the scores would be, as text", async () => {
  const { root, kernel, session } = await openPage(["TokenAttribution"], {}, asked(["<b>one</b>"]));
  const message =
    "The prompt is a single token <b>, so there is nothing to divide the answer among; write a few more words.";
  session.receive({
    kind: "panel",
    panel: "panel-TokenAttribution",
    revision: kernel.revision,
    status: "failed",
    progress: null,
    message,
    data: null,
  });
  expect(alertsOf(root("TokenAttribution"))).toContain(message);
  expect(root("TokenAttribution").querySelector("b b")).toBeNull();
});

test("a test that cannot be made says why, and the scores stay", async () => {
  const { root, kernel, session } = await openPage(["TokenAttribution"]);
  const view = root("TokenAttribution");
  const note = "The span 2:99 is outside the prompt, which has 15 tokens; give start < stop, both from 0 to 15.";
  session.receive({
    kind: "panel",
    panel: "panel-TokenAttribution",
    revision: kernel.revision,
    status: "done",
    progress: 1,
    message: null,
    data: {
      deletion: { note },
      carriers: { note: "no heads" },
      answer: { note: "The prompt fills the model's context." },
    },
  });
  expect(view.textContent).toContain(note);
  expect(Number(find(view, '[data-token="2"]').dataset.score)).toBeCloseTo(1.61, 5);
  click(find(view, '[data-token="2"]'));
  expect(find(view, '[data-iw="carriers"]').textContent).toContain("no heads");
  click(buttonNamed(view, "Write an answer and explain each of its tokens"));
  expect(view.textContent).toContain("The prompt fills the model's context.");
});
