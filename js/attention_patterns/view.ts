/** Attention patterns: where every head looks; what it looks at from a token; what happens when it cannot. */

import "./view.css";
import { button, el, setAttributes, setText, show, strong } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import { legend } from "../kit/legend.ts";
import { segment } from "../kit/segment.ts";
import { sequentialLegend } from "../kit/sequential.ts";
import { tokenIndex } from "../kit/tokens.ts";
import { isEdited } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { cellLine, edgeList } from "./edges.ts";
import { large } from "./large.ts";
import { blockOf, lineOf, nameOf, type Patterns, type Show, scoreWords, type Traits, tokenOf } from "./model.ts";
import { followLock, isStill, type Shared, share } from "./shared.ts";
import { thumbs } from "./thumbs.ts";

const SHOWS = [
  { value: "now", text: "Now" },
  { value: "difference", text: "Difference" },
  { value: "value-weighted", text: "Value-weighted" },
];
const COLOURS = [
  { value: "", text: "None" },
  { value: "previous-token", text: "Previous" },
  { value: "duplicate-token", text: "Duplicate" },
  { value: "induction", text: "Induction" },
];

export function build(context: ViewContext<Traits>): void {
  const shared = share(context);
  followLock(context, shared);
  const left = el("div", "iw-column", {}, thumbPart(context, shared));
  const right = el("div", "iw-column", {}, largePart(context, shared));
  const still = isStill(context);
  context.frame.root.classList.toggle("iw-still", still);
  context.frame.content.append(
    still
      ? el("div", "iw-top iw-top-whole", {}, tokenPart(context, shared))
      : el("div", "iw-top", {}, tokenPart(context, shared), context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
  );
}

function tokenPart(context: ViewContext<Traits>, shared: Shared): HTMLElement {
  const { question, theme, hover, lock, watch, signal } = context;
  const part = section("Tokens", "where the large head looks");
  const to = signal("from");
  const direction = segment("direction", (value) => {
    to.value = value;
  });
  const form = context.parts.questionForm();
  const strip = context.parts.tokenStrip("prompt", context.parts.stripActions());
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed-token" });
  const unlock = button("Unlock", "iw-link");
  unlock.addEventListener("click", () => {
    lock.value = null;
  });
  part.aside.append(unlock);
  if (!isStill(context)) part.aside.append(form.toggle);
  part.body.append(el("div", "iw-section-tools", {}, direction.node), form.node, strip.node, line);

  const index = context.derive(() => {
    const { patterns, hovered, locked, drawn } = shared;
    const row = hovered.value?.row ?? locked.value?.row;
    const count = patterns.value?.tokens.length ?? 0;
    if (row !== undefined && drawn.value !== null) return tokenOf(row, count, drawn.value.size);
    return tokenIndex(hover.value) ?? tokenIndex(lock.value) ?? question.value?.position ?? null;
  });
  watch(() => {
    const [patterns, drawn, at] = [shared.patterns.value, shared.drawn.value, index.value];
    const tokens = question.value?.tokens ?? patterns?.tokens ?? [];
    const ours = patterns !== null && drawn !== null && at !== null && same(patterns, tokens);
    strip.paint({
      tokens,
      scores: ours ? lineOf(drawn, tokens.length, at, to.value === "to") : null,
      scale: patterns?.scale ?? { limit: 1, knee: 1, max: 1, floor: 0 },
      ramp: theme.value.ramp,
      position: question.value?.position ?? null,
      stale: ours && shared.stale.value,
    });
    const token = at === null ? undefined : tokens[at];
    const what = drawn === null ? "" : nameOf(patterns, drawn.site);
    line.replaceChildren(
      ...(token === undefined || drawn === null
        ? ["Hover a token to see where it looks; click it to keep it, click again to let go."]
        : [
            strong(what),
            to.value === "to" ? " · who looks at " : " · where it looks from ",
            strong(named(token)),
            ` (position ${at}); hover or click another token`,
          ]),
    );
  });
  watch(() => {
    const marks = [hover.value, lock.value];
    strip.mark(tokenIndex(marks[0] ?? null), tokenIndex(marks[1] ?? null));
    const mark = lock.value;
    show(unlock, mark !== null);
    const token = mark?.kind === "token" ? question.value?.tokens[mark.index] : undefined;
    setText(
      unlock,
      mark === null
        ? ""
        : `Unlock ${mark.kind === "head" ? nameOf(shared.patterns.peek(), mark.site) : token ? named(token) : ""}`,
    );
  });
  watch(() => {
    direction.paint(
      [
        { value: "from", text: "From this token" },
        { value: "to", text: "To this token" },
      ],
      to.value,
    );
  });
  return part.node;
}

function same(patterns: Patterns, tokens: readonly { id: number }[]): boolean {
  return patterns.tokens.length === tokens.length && patterns.tokens.every((token, at) => token.id === tokens[at]?.id);
}

function thumbPart(context: ViewContext<Traits>, shared: Shared): HTMLElement {
  const { model, watch, onTrait, signal, theme, hover, lock, point, panel, state, question } = context;
  const part = section("Heads", "where each one looks");
  const chosen = signal<string>(String(model.get("show") ?? "now"));
  const [score, sorted] = [signal<string>(""), signal(false)];
  const shows = segment("show", (value) => {
    model.set("show", value as Show);
    model.save_changes();
  });
  onTrait("show", () => {
    chosen.value = String(model.get("show") ?? "now");
  });
  const scores = segment("score", (value) => {
    score.value = value;
  });
  const sort = el("input", "", { type: "checkbox" });
  const sortBox = el("label", "iw-inline-check", {}, sort, "highest first");
  sort.addEventListener("change", () => {
    sorted.value = sort.checked;
  });
  const grid = thumbs(
    {
      hover: (site) => point(site === null ? null : { kind: "head", site }),
      press(site) {
        const now = lock.peek();
        lock.value = now?.kind === "head" && now.site === site ? null : { kind: "head", site };
      },
    },
    context.abort,
  );
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const [plain, diverging] = [sequentialLegend(), legend()];
  const about = honest();
  const failed = alertLine();
  const tools = el("div", "iw-section-tools", {}, el("span", "iw-inline-check", {}, "Score"), scores.node, sortBox);
  if (!isStill(context)) part.aside.append(shows.node);
  part.body.append(
    tools,
    grid.node,
    line,
    failed.node,
    plain.node,
    diverging.node,
    about.node,
    context.parts.panelNote("tokens"),
  );
  watch(() => shows.paint(SHOWS, chosen.value));
  watch(() => {
    scores.paint(COLOURS, score.value);
    show(sortBox, score.value !== "");
    show(tools, (shared.patterns.value?.scores.size ?? 0) > 0);
  });
  watch(() => {
    const [patterns, ramp] = [shared.patterns.value, theme.value.ramp];
    show(grid.node, patterns !== null);
    show(plain.node, patterns !== null && !patterns.signed);
    show(diverging.node, patterns?.signed === true);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
    if (patterns === null) return;
    grid.paint({ patterns, score: score.value || null, sorted: sorted.value, ramp });
    grid.node.classList.toggle("iw-stale", shared.stale.value);
    plain.paint(
      patterns.limit,
      ramp,
      patterns.show === "value-weighted" ? "attention × ‖value through W_O‖" : "attention",
    );
    if (patterns.signed)
      diverging.paint(
        patterns.scale,
        ramp,
        isStill(context) ? "below ↔ above zero" : "less ↔ more than in the plain run",
      );
    const edited = state.value !== null && isEdited(state.value);
    about.paint(
      isStill(context)
        ? ["as given", "saved, not live", ...cellNote(patterns)]
        : aboutParts(patterns, edited, question.value?.examples ?? 1),
    );
  });
  watch(() => {
    const [hovered, locked] = [hover.value, lock.value].map((mark) => (mark?.kind === "head" ? mark.site : null));
    grid.mark(hovered ?? null, locked ?? shared.patterns.value?.large?.site ?? null, locked != null);
    const site = hovered ?? locked ?? null;
    line.classList.toggle("iw-fixed-on", site !== null);
    if (site === null || shared.patterns.value === null) setText(line, HINT);
    else {
      const words = scoreWords(shared.patterns.value, site);
      line.replaceChildren(strong(nameOf(shared.patterns.value, site)), words === "" ? "" : `: ${words}`);
    }
  });
  return part.node;
}

const HINT = "Hover a head to see it large; click to keep it, click again to let go.";

function aboutParts(patterns: Patterns, edited: boolean, examples: number): string[] {
  const { show: shown } = patterns;
  const run =
    shown === "difference" ? "this run less the plain run" : edited ? "under your interventions" : "plain run";
  return [
    shown === "difference" && !edited ? "nothing is changed, so the difference is zero everywhere" : run,
    ...cellNote(patterns),
    examples > 1 ? `first of ${examples} prompts` : "",
    "attention is not importance: cut an edge, or switch the head off, to see what it does",
  ].filter(Boolean);
}

function cellNote({ size, tokens, large: drawn }: Patterns): string[] {
  const n = tokens.length;
  const side = drawn?.size ?? n;
  return [
    size < n ? `small: ${size} × ${size} cells for ${n} tokens, each the largest it covers` : "",
    side < n ? `large: ${side} × ${side} cells, each the largest it covers; edges are cut from Python there` : "",
  ].filter(Boolean);
}

function largePart(context: ViewContext<Traits>, shared: Shared): HTMLElement {
  const { watch, theme, hover, lock, point } = context;
  const { patterns, drawn, hovered, locked } = shared;
  const part = section("Pattern", "rows look at columns");
  const title = el("span", "iw-large-here-is", { "data-iw": "large-head" });
  const map = large(
    {
      hover(cell) {
        if (JSON.stringify(cell) === JSON.stringify(hovered.value)) return;
        hovered.value = cell;
        const now = drawn.peek();
        const count = patterns.peek()?.tokens.length ?? 0;
        point(cell === null || now === null ? null : { kind: "token", index: tokenOf(cell.column, count, now.size) });
      },
      press(cell) {
        const now = locked.peek();
        const again = now !== null && now.row === cell.row && now.column === cell.column;
        locked.value = again || Number.isNaN(drawn.peek()?.at(cell.row, cell.column)) ? null : cell;
        const site = drawn.peek()?.site;
        // Locking a cell locks its head: else the next head hovered would take its place.
        if (locked.value !== null && site !== undefined && lock.peek() === null) keep(site);
      },
    },
    context.abort,
  );

  function keep(site: string): void {
    const cell = locked.peek();
    lock.value = { kind: "head", site };
    locked.value = cell;
  }

  const line = cellLine(context, shared);
  const none = el("div", "iw-muted", {}, "The pattern comes with the first answer.");
  part.aside.append(title);
  part.body.append(none, map.node, line, edgeList(context, shared));
  watch(() => {
    const [now, head] = [patterns.value, drawn.value];
    show(none, now === null || head === null);
    show(map.node, now !== null && head !== null);
    if (now === null || head === null) return;
    setText(title, nameOf(now, head.site));
    setAttributes(title, { "data-exact": String(head.exact) });
    map.paint({ tokens: now.tokens, drawn: head, scale: now.scale, ramp: theme.value.ramp });
    map.node.classList.toggle("iw-stale", shared.stale.value);
  });
  watch(() => {
    const [now, head] = [patterns.value, drawn.value];
    const count = now?.tokens.length ?? 0;
    const cut = shared.edges.value
      .filter((edge) => edge.site === head?.site && edge.dest < count)
      .map(({ dest, src }) => ({
        row: blockOf(dest, count, head?.size ?? count),
        column: blockOf(src, count, head?.size ?? count),
      }));
    map.mark({
      cell: hovered.value,
      locked: locked.value,
      token: hovered.value === null ? (tokenIndex(hover.value) ?? tokenIndex(lock.value)) : null,
      cut,
    });
  });
  return part.node;
}
