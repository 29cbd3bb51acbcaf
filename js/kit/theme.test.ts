import { afterEach, expect, test } from "vitest";
import { followTheme, isDark } from "./theme.ts";

afterEach(() => {
  document.body.removeAttribute("data-jp-theme-light");
  document.body.removeAttribute("style");
  document.documentElement.className = "";
  document.body.replaceChildren();
});

function place(): HTMLElement {
  const root = document.createElement("div");
  root.className = "iw-root";
  document.body.append(root);
  return root;
}

test("JupyterLab's word comes before everything else", () => {
  document.documentElement.className = "dark";
  document.body.setAttribute("data-jp-theme-light", "true");
  expect(isDark(place())).toBe(false);
  document.body.setAttribute("data-jp-theme-light", "false");
  expect(isDark(place())).toBe(true);
});

test("a mark on an ancestor decides, also from outside a shadow root", () => {
  document.documentElement.className = "dark";
  const outer = document.createElement("div");
  document.body.append(outer);
  const inner = document.createElement("div");
  outer.attachShadow({ mode: "open" }).append(inner);
  expect(isDark(inner)).toBe(true);
});

test("without a mark the background behind the widget decides", () => {
  document.body.style.backgroundColor = "rgb(17, 19, 24)";
  expect(isDark(place())).toBe(true);
  document.body.style.backgroundColor = "rgb(255, 255, 255)";
  expect(isDark(place())).toBe(false);
});

test("the root follows a change of theme until its view is gone", async () => {
  document.body.setAttribute("data-jp-theme-light", "true");
  const controller = new AbortController();
  const root = place();
  const theme = followTheme(root, controller.signal);
  expect(theme.value.dark).toBe(false);
  document.body.setAttribute("data-jp-theme-light", "false");
  await new Promise((done) => setTimeout(done, 10));
  expect([theme.value.dark, root.classList.contains("iw-dark")]).toEqual([true, true]);
  controller.abort();
  document.body.setAttribute("data-jp-theme-light", "true");
  await new Promise((done) => setTimeout(done, 10));
  expect(theme.value.dark).toBe(true);
});
