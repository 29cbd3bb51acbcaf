/**
 * One self-contained bundle per widget into interp_widgets/static: a widget's code is one blob in the page, so nothing may be
 * imported from elsewhere. Deterministic: the same sources give the same bytes. `--watch` rebuilds on save.
 */

import { mkdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, context } from "esbuild";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const out = join(root, "interp_widgets", "static");
export const widgets = [
  "session",
  "token_attribution",
  "head_ablation",
  "steering_sliders",
  "attention_patterns",
  "generation",
  "self_repair",
  "colored_tokens",
  "still",
  "view",
  "held",
];
/** A page loads each once, and a notebook that is saved with its widgets' state keeps each once. */
export const LIMIT = 40_000;

export function version() {
  const text = readFileSync(join(root, "interp_widgets", "version.py"), "utf8");
  const found = /__version__\s*(?::\s*str\s*)?=\s*["']([^"']+)["']/.exec(text)?.[1];
  if (found === undefined) throw new Error("interp_widgets/version.py does not say __version__");
  return found;
}

/**
 * A page has one style sheet for all views. So what a view says about looks is said of that view alone, and above what the kit says,
 * whichever of them the page loads first.
 */
export const ownStyles = {
  name: "own-styles",
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, ({ path }) => {
      const view = basename(dirname(path));
      if (view === "session" || !widgets.includes(view)) return undefined;
      const widget = view.replace(/(?:^|_)(\w)/g, (_, letter) => letter.toUpperCase());
      const rules = readFileSync(path, "utf8").replaceAll(".iw-root ", "");
      return { contents: `.iw-root[data-widget="${widget}"] {\n${rules}\n}`, loader: "css" };
    });
  },
};

function options(names, extra = {}) {
  return {
    entryPoints: Object.fromEntries(names.map((name) => [name, join(root, "js", name, "index.ts")])),
    outdir: out,
    absWorkingDir: root,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
    plugins: [ownStyles],
    // Its other builds keep short names apart that this one leaves to our minifier: a tenth of a kilobyte in every bundle.
    alias: { "@preact/signals-core": join(root, "node_modules/@preact/signals-core/dist/signals-core.mjs") },
    supported: { nesting: false },
    define: { __IW_VERSION__: JSON.stringify(version()), "define.amd": "false" },
    ...extra,
  };
}

/** The session has no view and so no styles of its own: those of the parts it makes travel with each view. */
export function builds(extra = {}) {
  const [session, ...views] = widgets;
  return [options([session], { loader: { ".css": "empty" }, ...extra }), options(views, extra)];
}

function report() {
  let tooLarge = false;
  for (const name of widgets) {
    const size = statSync(join(out, `${name}.js`)).size;
    tooLarge ||= size > LIMIT;
    process.stdout.write(
      `${name}.js ${(size / 1000).toFixed(1)} kB${size > LIMIT ? ` is over ${LIMIT / 1000} kB` : ""}\n`,
    );
  }
  if (tooLarge) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(out, { recursive: true });
  if (process.argv.includes("--watch")) {
    for (const one of builds({ logLevel: "info" })) await (await context(one)).watch();
  } else {
    for (const one of builds()) await build(one);
    report();
  }
}
