/** What every view keeps true: the connection, the question, undo and redo, one store for all. */

import { expect, test } from "vitest";
import headAblation from "../head_ablation/index.ts";
import { alertsOf, buttonNamed, click, find, head, lastIntent, metricOf, openPage, type } from "./harness.ts";
import { FakeHost, FakeModel } from "./host.ts";

test("a view whose session is not running says so, and what to do", async () => {
  document.body.replaceChildren();
  const el = document.createElement("div");
  document.body.append(el);
  await new FakeHost().show(
    headAblation,
    new FakeModel({ session: "anywidget:gone", panel: "p" }),
    el,
    new AbortController().signal,
  );
  expect(alertsOf(el)[0]).toContain("Run its cells again");
  expect(find(el, ".iw-root").dataset.widget).toBe("HeadAblation");
});

test("the metric carries its exact number and where it came from", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  click(head(root("HeadAblation"), "L2H6"));
  expect(metricOf(root("HeadAblation"))).toBe(kernel.metric());
  expect(find(root("HeadAblation"), ".iw-from").textContent).toBe("logit difference, from 4.11");
});

test("every view of a session shows the same answer after a click in one of them", async () => {
  const { root } = await openPage(["TokenAttribution", "HeadAblation", "SteeringSliders"]);
  click(head(root("HeadAblation"), "L2H6"));
  const metrics = (["TokenAttribution", "HeadAblation", "SteeringSliders"] as const).map((view) =>
    metricOf(root(view)),
  );
  expect(new Set(metrics).size).toBe(1);
  expect(metrics[0]).toBeCloseTo(2.0);
});

test("what is hovered in one view is hovered in all, without the kernel", async () => {
  const { root, session } = await openPage(["TokenAttribution", "HeadAblation"]);
  const before = session.sent.length;
  find(root("HeadAblation"), '[data-token="2"]').dispatchEvent(new Event("pointerover", { bubbles: true }));
  expect(find(root("TokenAttribution"), '[data-token="2"]').className).toContain("iw-hover");
  expect(session.sent.length).toBe(before);
});

test("a kernel that restarts disables every control and says what to do", async () => {
  const { root, lab } = await openPage(["HeadAblation", "SteeringSliders"]);
  lab.status("restarting");
  for (const view of ["HeadAblation", "SteeringSliders"] as const) {
    expect(find<HTMLFieldSetElement>(root(view), "fieldset").disabled).toBe(true);
    expect(alertsOf(root(view))[0]).toContain("was restarted");
    expect(root(view).getAttribute("aria-busy")).toBe("false");
  }
});

test("after a restart the last numbers stay readable", async () => {
  const { root, lab } = await openPage(["HeadAblation"]);
  lab.status("autorestarting");
  expect(metricOf(root("HeadAblation"))).toBe(4.11);
});

test("a dropped websocket is reconnecting, and its return brings the controls back", async () => {
  const { root, lab } = await openPage(["HeadAblation"]);
  lab.socket("disconnected");
  expect(alertsOf(root("HeadAblation"))[0]).toContain("reconnecting");
  lab.socket("connected");
  expect(find<HTMLFieldSetElement>(root("HeadAblation"), "fieldset").disabled).toBe(false);
  expect(alertsOf(root("HeadAblation"))).toEqual([]);
});

// @case D15
test("a kernel of another version is named, with what to do", async () => {
  const { root } = await openPage(["HeadAblation"], { version: "9.9.9" });
  expect(alertsOf(root("HeadAblation"))[0]).toContain("9.9.9");
});

test("undo and redo are there exactly when there is something to undo or redo", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  const [undo, redo, clear] = ["↶ Undo", "↷ Redo", "Clear"].map((name) => buttonNamed(view, name)) as [
    HTMLButtonElement,
    HTMLButtonElement,
    HTMLButtonElement,
  ];
  expect([undo.disabled, redo.disabled, clear.disabled]).toEqual([true, true, true]);
  click(head(view, "L0H2"));
  expect([undo.disabled, redo.disabled, clear.disabled]).toEqual([false, true, false]);
  click(undo);
  expect([metricOf(view), redo.disabled]).toEqual([4.11, false]);
  click(redo);
  expect(metricOf(view)).toBe(kernel.metric());
  expect(kernel.metric()).not.toBe(4.11);
});

test("the history marks where we are", async () => {
  const { root } = await openPage(["HeadAblation"]);
  click(head(root("HeadAblation"), "L0H2"));
  const steps = [...root("HeadAblation").querySelectorAll(".iw-step")];
  expect(steps.map((step) => step.textContent)).toEqual(["4.11asked", "3.40L0H2 off"]);
  expect(steps.map((step) => step.getAttribute("aria-current"))).toEqual([null, "step"]);
});

test("a question that is refused keeps every letter typed, says why, and can be asked again", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "Edit question"));
  const field = (name: string): HTMLInputElement => find<HTMLInputElement>(view, `[aria-label="${name}"]`);
  expect(field("target").value).toBe(" Mary");
  type(field("target"), " gave it");
  type(field("prompt"), "A new prompt, typed with care");
  click(buttonNamed(view, "Ask"));
  expect(alertsOf(view)[0]).toContain("2 tokens");
  expect([field("target").value, field("prompt").value]).toEqual([" gave it", "A new prompt, typed with care"]);
  expect(kernel.state.question?.prompt).toContain("When Mary");
  type(field("target"), " Anna");
  click(buttonNamed(view, "Ask"));
  expect(alertsOf(view)).toEqual([]);
  expect(find(view, ".iw-form").hidden).toBe(true);
  expect(kernel.state.question?.prompt).toBe("A new prompt, typed with care");
});

test("the focus goes back to where the question was opened from: else the next key is the notebook's", async () => {
  const { root } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  const toggle = buttonNamed(view, "Edit question");
  const press = (key: string): void => {
    const target = find<HTMLElement>(view, '[aria-label="target"]');
    target.focus();
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  };
  for (const key of ["Escape", "Enter"]) {
    click(toggle);
    press(key);
    expect(find(view, ".iw-form").hidden, key).toBe(true);
    expect(document.activeElement, key).toBe(toggle);
  }
});

test("a message is asked as a chat where the tokenizer has a template, and comes back as it was typed", async () => {
  for (const has of [false, true]) {
    const { root, kernel } = await openPage(["HeadAblation"], {}, (made) => {
      made.state.model.chat = has;
    });
    const view = root("HeadAblation");
    click(buttonNamed(view, "Edit question"));
    const box = view.querySelector<HTMLInputElement>('.iw-form input[type="checkbox"]');
    expect(box !== null).toBe(has);
    const prompt = find<HTMLTextAreaElement>(view, 'textarea[aria-label="prompt"]');
    if (box === null) continue;
    expect(box.checked).toBe(false);
    box.checked = true;
    prompt.value = "Who is there?";
    click(buttonNamed(view, "Ask"));
    expect(kernel.handled.at(-1)?.args).toMatchObject({ prompt: "Who is there?", chat: true });
    if (kernel.state.question !== null)
      Object.assign(kernel.state.question, { prompt: "<user> Who is there? <end>", message: "Who is there?" });
    kernel.publish();
    click(buttonNamed(view, "Edit question"));
    expect([prompt.value, box.checked]).toEqual(["Who is there?", true]);
  }
});

test("a refusal that comes after the form has closed opens it again with its text", async () => {
  const { root, session, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "Edit question"));
  type(find(view, '[aria-label="prompt"]'), "kept");
  click(buttonNamed(view, "Ask"));
  expect(find(view, ".iw-form").hidden).toBe(true);
  const { client, seq } = lastIntent({ kernel });
  session.receive({
    kind: "refused",
    client,
    seq,
    key: "ask",
    message: "Too long: 900 tokens, and the model reads 512. Shorten it.",
  });
  expect(find(view, ".iw-form").hidden).toBe(false);
  expect(find<HTMLTextAreaElement>(view, '[aria-label="prompt"]').value).toBe("kept");
  expect(alertsOf(view)[0]).toContain("Shorten it");
});

test("an empty target is null, a JSON list is several tokens, and a bracket is a bracket", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  const view = root("HeadAblation");
  click(buttonNamed(view, "Edit question"));
  const ask = (target: string, foil: string): unknown[] => {
    type(find(view, '[aria-label="target"]'), target);
    type(find(view, '[aria-label="foil"]'), foil);
    click(buttonNamed(view, "Ask"));
    const { args } = lastIntent({ kernel });
    click(buttonNamed(view, "Edit question"));
    return [args.target, args.foil];
  };
  expect(ask("", '[" Mary", " Anna"]')).toEqual([null, [" Mary", " Anna"]]);
  expect(ask("[", "[x]")).toEqual(["[", "[x]"]);
});

test("an error of the run stands where the answer would be, and the last answer stays", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  kernel.state.error = "The model's logits are not finite from layer 2 on. Lower the strength.";
  kernel.revision += 1;
  kernel.publish();
  const view = root("HeadAblation");
  expect(alertsOf(view)).toContain("The model's logits are not finite from layer 2 on. Lower the strength.");
  expect(metricOf(view)).toBe(4.11);
  expect(view.getAttribute("aria-busy")).toBe("false");
});

test("while a run is on its way the view is busy, and its old number is marked", async () => {
  const { root, kernel } = await openPage(["HeadAblation"]);
  kernel.revision += 1;
  kernel.state.busy = true;
  kernel.publish();
  const view = root("HeadAblation");
  expect(view.getAttribute("aria-busy")).toBe("true");
  expect(find(view, ".iw-answer-numbers").className).toContain("iw-stale");
});

test("before the first question the view says how to ask one", async () => {
  const { root } = await openPage(["HeadAblation", "TokenAttribution"], {}, (kernel) => {
    kernel.state.question = null;
    kernel.state.answer = null;
  });
  for (const view of ["HeadAblation", "TokenAttribution"] as const) {
    expect(root(view).textContent).toContain("session.ask(");
    expect(root(view).getAttribute("aria-busy")).toBe("false");
  }
});

test("tokens, names and errors that are markup are shown as text", async () => {
  const evil = '<img src=x onerror="alert(1)">';
  const { root } = await openPage(["TokenAttribution", "HeadAblation", "SteeringSliders"], {}, (kernel) => {
    kernel.state.model.name = evil;
    kernel.state.error = evil;
    for (const token of kernel.state.question?.tokens ?? []) token.text = evil;
    for (const vector of kernel.state.vectors) vector.name = evil;
    kernel.state.answer?.top.splice(0, 5, {
      id: 1,
      text: evil,
      kind: "text",
      probability: 0.5,
      plain_probability: 0.5,
    });
  });
  expect(document.body.querySelectorAll("img, script, iframe")).toHaveLength(0);
  for (const view of ["TokenAttribution", "HeadAblation", "SteeringSliders"] as const)
    expect(root(view).textContent).toContain(evil);
});

test("a special token among the likely ones looks as it does in the prompt", async () => {
  const { root } = await openPage(["HeadAblation"], {}, (kernel) => {
    const end = { id: 1, text: "<|endoftext|>", kind: "special" as const, probability: 0.5, plain_probability: 0.5 };
    kernel.state.answer?.top.splice(0, 5, end);
  });
  expect(find(root("HeadAblation"), ".iw-dumbbell-name").textContent).toBe("⟨endoftext⟩");
});

test("a view that is removed leaves nothing behind and hears nothing more", async () => {
  const { abort, kernel } = await openPage(["TokenAttribution", "HeadAblation", "SteeringSliders"]);
  abort.abort();
  kernel.publish();
  expect(document.body.querySelectorAll(".iw-root")).toHaveLength(0);
});

test("a refusal that belongs to no control is shown in every view, and can be dismissed", async () => {
  const page = await openPage(["SteeringSliders", "HeadAblation"]);
  const { client } = page.session.sent[0] as { client: string };
  page.session.receive({ kind: "refused", client, seq: 1, key: "undo", message: "There is nothing to undo." });
  for (const view of ["SteeringSliders", "HeadAblation"] as const)
    expect(alertsOf(page.root(view))).toEqual(["There is nothing to undo.×"]);
  click(find(page.root("HeadAblation"), ".iw-alert-close"));
  for (const view of ["SteeringSliders", "HeadAblation"] as const) expect(alertsOf(page.root(view))).toEqual([]);
});

test("a refusal of what one panel was asked is shown in that view alone", async () => {
  const page = await openPage(["SteeringSliders", "HeadAblation"]);
  const { client } = page.session.sent[0] as { client: string };
  page.session.receive({
    kind: "refused",
    client,
    seq: 1,
    key: "panel:panel-SteeringSliders",
    message: "This view is closed.",
  });
  expect(alertsOf(page.root("SteeringSliders"))).toHaveLength(1);
  expect(alertsOf(page.root("HeadAblation"))).toEqual([]);
});
