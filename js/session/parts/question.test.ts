/** The form of the question: what was typed is lost to nobody but the one who dismisses it, and what was not touched is not changed. */

import { expect, test } from "vitest";
import type { FakeOptions } from "../../tests/fake_kernel.ts";
import { alertsOf, buttonNamed, click, find, head, lastIntent, openPage, type } from "../../tests/harness.ts";
import type { Question, Token } from "../protocol.ts";

const NEW = "A new prompt, typed with care";

async function openForm(options: Partial<FakeOptions> = {}, question: Partial<Question> = {}) {
  const page = await openPage(["HeadAblation"], options, ({ state }) => {
    if (state.question !== null) Object.assign(state.question, question);
  });
  const view = page.root("HeadAblation");
  const form = find(view, ".iw-form");
  const field = (name: string): HTMLInputElement => find<HTMLInputElement>(form, `[aria-label="${name}"]`);
  const press = (name: string): void => click(buttonNamed(view, name));
  press("Edit question");
  return {
    ...page,
    view,
    form,
    press,
    prompt: field("prompt"),
    target: field("target"),
    foil: field("foil"),
    /** The wishes sent from now on lie in the wire, until they are handed over. */
    hold(): () => void {
      page.kernel.alive = false;
      const before = page.session.sent.length;
      return () => {
        page.kernel.alive = true;
        for (const message of page.session.sent.slice(before)) page.kernel.receive(message as never);
      };
    },
    asked: () => lastIntent(page).args,
  };
}

const key = (target: HTMLElement, init: KeyboardEventInit): boolean =>
  target.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...init }));

test("what is typed after an earlier question stays, whatever else is wished meanwhile", async () => {
  const { view, form, prompt, press } = await openForm();
  type(prompt, NEW);
  press("Ask");
  expect(form.hidden).toBe(true);
  press("Edit question");
  type(prompt, "half a thou");
  click(head(view, "L2H6"));
  expect([form.hidden, prompt.value]).toEqual([false, "half a thou"]);
});

test("who types on while a question is on its way keeps the form and the text", async () => {
  const { form, kernel, prompt, press, hold } = await openForm();
  const deliver = hold();
  type(prompt, NEW);
  press("Ask");
  type(prompt, `${NEW}, and more`);
  deliver();
  expect(kernel.state.question?.prompt).toBe(NEW);
  expect([form.hidden, prompt.value]).toEqual([false, `${NEW}, and more`]);
});

test("a question that is lost with the connection stays in its form, and no later wish passes for it", async () => {
  const { view, form, kernel, lab, prompt, press, hold } = await openForm();
  hold();
  type(prompt, NEW);
  press("Ask");
  lab.socket("disconnected");
  expect([form.hidden, prompt.value]).toEqual([false, NEW]);
  kernel.alive = true;
  lab.socket("connected");
  click(head(view, "L2H6"));
  expect(kernel.state.question?.prompt).not.toBe(NEW);
  expect([form.hidden, prompt.value, buttonNamed(view, "Ask").disabled]).toEqual([false, NEW, false]);
  press("Edit question");
  expect(form.hidden).toBe(true);
  press("Edit question");
  expect([form.hidden, prompt.value]).toEqual([false, NEW]);
  press("Ask");
  expect([form.hidden, kernel.state.question?.prompt]).toEqual([true, NEW]);
});

test("a question that was folded away unasked comes back as it was typed, and a dismissed one does not", async () => {
  const { form, kernel, prompt, press } = await openForm();
  const before = prompt.value;
  type(prompt, "half a thou");
  press("Edit question");
  kernel.revision += 1;
  kernel.publish();
  press("Edit question");
  expect(prompt.value).toBe("half a thou");
  press("Cancel");
  press("Edit question");
  expect(prompt.value).toBe(before);
  type(prompt, "another");
  key(prompt, { key: "Escape" });
  expect(form.hidden).toBe(true);
  press("Edit question");
  expect(prompt.value).toBe(before);
});

test("a question that was only looked at shows the newest one when it is opened again", async () => {
  const { kernel, prompt, press } = await openForm();
  press("Edit question");
  if (kernel.state.question !== null) kernel.state.question.prompt = "asked from Python";
  kernel.revision += 1;
  kernel.publish();
  press("Edit question");
  expect(prompt.value).toBe("asked from Python");
});

test("a question that is refused late is still there, though the form was opened meanwhile", async () => {
  const { view, session, kernel, prompt, press } = await openForm();
  const ask = kernel.receive;
  // Taken in, and not answered yet.
  kernel.receive = (message) =>
    message.kind === "intent"
      ? session.receive({
          kind: "state",
          revision: kernel.revision,
          acks: { [message.client]: message.seq },
          state: kernel.state,
        })
      : ask.call(kernel, message);
  type(prompt, NEW);
  press("Ask");
  press("Edit question");
  const { client, seq } = session.sent.at(-1) as { client: string; seq: number };
  session.receive({ kind: "refused", client, seq, key: "ask", message: "Too long. Shorten it." });
  expect([prompt.value, alertsOf(view)]).toEqual([NEW, ["Too long. Shorten it."]]);
});

test("what was said of a question that was dismissed is not said of the next", async () => {
  const { view, session, prompt, press, hold } = await openForm();
  hold();
  type(prompt, NEW);
  press("Ask");
  press("Cancel");
  const { client, seq } = session.sent.at(-1) as { client: string; seq: number };
  session.receive({ kind: "refused", client, seq, key: "ask", message: "Too long. Shorten it." });
  expect(view.querySelector<HTMLElement>(".iw-form")?.hidden).toBe(true);
  press("Edit question");
  expect([prompt.value === NEW, alertsOf(view)]).toEqual([false, []]);
});

test("keys that belong to an input method ask nothing and close nothing", async () => {
  const { form, kernel, target, prompt } = await openForm();
  type(target, "か");
  key(target, { key: "Enter", isComposing: true });
  key(target, { key: "Enter", keyCode: 229 });
  key(prompt, { key: "Enter", ctrlKey: true, isComposing: true });
  key(target, { key: "Escape", isComposing: true });
  expect([kernel.handled, form.hidden]).toEqual([[], false]);
  key(target, { key: "Enter" });
  expect(kernel.handled.map(({ args }) => args.target)).toEqual(["か"]);
});

const tokens = (...texts: string[]): Token[] => texts.map((text, index) => ({ id: 7 + index, text, kind: "text" }));

test("a target and a foil that were not touched go back as the tokens that they are", async () => {
  const { prompt, target, foil, press, asked } = await openForm({}, { target: tokens("�", " b"), foil: tokens("\n") });
  expect(JSON.parse(foil.value)).toEqual(["\n"]);
  type(prompt, NEW);
  press("Ask");
  expect([asked().target, asked().foil]).toEqual([[7, 8], [7]]);
  press("Edit question");
  type(target, " b");
  type(foil, "");
  press("Ask");
  expect([asked().target, asked().foil]).toEqual([" b", null]);
});

test("no target and no foil are none, not an empty list", async () => {
  const { press, asked } = await openForm({}, { target: [], foil: [] });
  press("Ask");
  expect([asked().target, asked().foil]).toEqual([null, null]);
});

test("tokens that were not touched are read out as what they are", async () => {
  const { form, target } = await openForm({}, { target: [{ id: 1, text: "<|end|>", kind: "special" }] });
  expect(form.textContent).toContain("⟨end⟩");
  type(target, "<|end|> ");
  expect(form.textContent).not.toContain("⟨end⟩");
});

test("a prompt that was not touched goes back letter by letter, also where a text field changes its line breaks", async () => {
  const { prompt, press, asked } = await openForm({}, { prompt: "one\r\ntwo" });
  type(prompt, "one\ntwo");
  press("Ask");
  expect(asked().prompt).toBe("one\r\ntwo");
});

test("where the question is a set, the form says that a new prompt is asked alone, while there is one", async () => {
  const { form, prompt, press } = await openForm({ examples: 5 });
  const note = find(form, '[data-iw="alone"]');
  const before = prompt.value;
  expect(note.hidden).toBe(true);
  type(prompt, NEW);
  expect([note.hidden, note.textContent]).toEqual([false, expect.stringContaining("asked alone")]);
  type(prompt, before);
  expect(note.hidden).toBe(true);
  type(prompt, NEW);
  press("Cancel");
  press("Edit question");
  expect(note.hidden).toBe(true);
});

test("where the question is one prompt, nothing stays behind, and nothing is said", async () => {
  const { form, prompt, view } = await openForm();
  type(prompt, NEW);
  expect(find(form, '[data-iw="alone"]').hidden).toBe(true);
  expect(alertsOf(view)).toEqual([]);
});
