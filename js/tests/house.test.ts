/** Rules of the house that no linter knows. */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
// @ts-expect-error a build script without types
import { LIMIT, out, root, widgets } from "../build.mjs";

const sources = (readdirSync(join(root, "js"), { recursive: true }) as string[]).filter((file) =>
  /\.(ts|css|mjs)$/.test(file),
);
const read = (file: string): string => readFileSync(join(root, "js", file), "utf8");
const shipped = sources.filter(
  (file) => file.endsWith(".ts") && !file.startsWith("tests") && !file.endsWith(".test.ts"),
);

const FORBIDDEN =
  /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\s*\(|new Function|createContextualFragment|DOMParser|setAttribute\(\s*["'](style|on)/;

test("no source and no bundle turns text into markup or code", () => {
  for (const file of shipped) expect(FORBIDDEN.test(read(file)), file).toBe(false);
  for (const name of widgets) expect(FORBIDDEN.test(readFileSync(join(out, `${name}.js`), "utf8")), name).toBe(false);
});

test("every bundle is at most 40 kB and stands alone", () => {
  for (const name of widgets) {
    const bundle = readFileSync(join(out, `${name}.js`), "utf8");
    expect(statSync(join(out, `${name}.js`)).size, name).toBeLessThanOrEqual(LIMIT);
    expect(bundle, name).not.toMatch(/^import |\bimport\(["'`]|require\(/m);
    // What holds the others' code loads the text that its own kernel gave it, as anywidget does with any widget's.
    expect(bundle.match(/\bimport\(/g)?.length ?? 0, name).toBe(name === "held" ? 1 : 0);
  }
});

test("nothing in a bundle points to another machine", () => {
  for (const file of readdirSync(out) as string[]) {
    const addresses =
      readFileSync(join(out, file), "utf8").match(/(https?:)?\/\/[a-z][a-z0-9.-]+\.[a-z]{2,}[^"'`\s)]*/g) ?? [];
    expect(
      addresses.filter((address) => address !== "http://www.w3.org/2000/svg"),
      file,
    ).toEqual([]);
  }
});

test("every style is ours alone: each selector begins with an iw- class", () => {
  for (const file of sources.filter((name) => name.endsWith(".css"))) {
    const rules = read(file)
      .replace(/\/\*[\s\S]*?\*\//g, "")
      .replace(/@import[^;]+;|@(container|media)[^{]+\{/g, "")
      .replace(/@keyframes[^{]+\{(?:[^{}]*\{[^{}]*\}\s*)*\}/g, "");
    for (const [, selectors] of rules.matchAll(/([^{}@]+)\{/g)) {
      for (const selector of (selectors ?? "").split(","))
        if (selector.trim() !== "") expect(selector.trim(), file).toMatch(/^\.iw-/);
    }
  }
});

test("what a view says about looks is said of that view alone: no other view on the page is changed by it", () => {
  const classes = (file: string): string[] => read(file).match(/\.iw-[\w-]+/g) ?? [];
  const styles = sources.filter((name) => name.endsWith(".css"));
  const shared = new Set(styles.filter((name) => /^(kit|session)/.test(name)).flatMap(classes));
  for (const view of widgets.filter((name: string) => styles.some((file) => file.startsWith(`${name}/`)))) {
    if (view === "session") continue;
    const own = styles.filter((file) => file.startsWith(`${view}/`)).flatMap(classes);
    const built = readFileSync(join(out, `${view}.css`), "utf8");
    for (const name of new Set(own.filter((one) => !shared.has(one))))
      for (const [selector] of built.matchAll(new RegExp(`[^{},]*\\${name}(?![\\w-])[^{},]*(?=[,{])`, "g")))
        expect(selector, view).toMatch(/^\.iw-root\[data-widget=\w+\] /);
  }
});

test("the kit knows no widget by name", () => {
  for (const file of shipped.filter((name) => name.startsWith("kit"))) {
    expect(read(file), file).not.toMatch(
      /TokenAttribution|HeadAblation|SteeringSliders|from "\.\.\/(session|head_|token_|steering_)/,
    );
  }
});

test("layers point down: the session knows no view", () => {
  for (const file of shipped.filter((name) => name.startsWith("session")))
    expect(read(file), file).not.toMatch(/from "\.\.\/(\.\.\/)?(head_|token_|steering_)/);
});

test("the lock file names no address to download from", () => {
  expect(readFileSync(join(root, "package-lock.json"), "utf8")).not.toContain('"resolved"');
});

test("files stay readable: none over four hundred lines", () => {
  for (const file of shipped) expect(read(file).split("\n").length, file).toBeLessThanOrEqual(400);
});

test("the package and the front end have one version", () => {
  const python = /__version__\s*=\s*"([^"]+)"/.exec(
    readFileSync(join(root, "interp_widgets", "version.py"), "utf8"),
  )?.[1];
  expect(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version).toBe(python);
  expect(readFileSync(join(out, "session.js"), "utf8")).toContain(`"${python}"`);
});
