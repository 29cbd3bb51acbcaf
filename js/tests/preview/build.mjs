/**
 * `npm run preview`: writes a page into a temporary folder that shows the built bundles over a made-up kernel, and prints its path.
 * ?theme=dark · ?only=HeadAblation · ?heads=48x64 · ?delay=200
 */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { builds, out, root, widgets } from "../../build.mjs";

for (const one of builds()) await build(one);
const read = (file) => {
  try {
    return readFileSync(join(out, file), "utf8");
  } catch {
    return "";
  }
};
const bundles = Object.fromEntries(widgets.map((name) => [name, { js: read(`${name}.js`), css: read(`${name}.css`) }]));
const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), "iw-preview-"));
await build({
  entryPoints: [join(root, "js", "tests", "preview", "page.ts")],
  outfile: join(folder, "page.js"),
  bundle: true,
  format: "iife",
  target: "es2022",
  define: { BUNDLES: JSON.stringify(bundles) },
});
const page = `<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>preview</title>
<style>body{margin:0;padding:16px;background:#fff}.dark body{background:#111318}.output{margin-bottom:18px}</style>
<body><script src="page.js"></script></body>`;
writeFileSync(join(folder, "index.html"), page);
process.stdout.write(`${join(folder, "index.html")}\n`);
