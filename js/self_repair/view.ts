/** Self-repair: what an ablation cost, who made up for it, and what happens when the backups go too. */

import "./view.css";
import { colourAt } from "../kit/colour.ts";
import { button, el, reconcile, setAttributes, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { num, signed } from "../kit/format.ts";
import { honest, section } from "../kit/frame.ts";
import type { Shape } from "../kit/grid_geometry.ts";
import { headGrid } from "../kit/headgrid.ts";
import { legend } from "../kit/legend.ts";
import { fraction, place } from "../kit/scale.ts";
import { segment } from "../kit/segment.ts";
import { modeOf } from "../session/derive.ts";
import { promptStrip } from "../session/parts/prompt_strip.ts";
import type { ViewContext } from "../session/shell.ts";
import { type Account, type Bar, partOf, readAccount, type Step, siteWords, type Traits, waterfall } from "./model.ts";

const COLOURS = [
  { value: "change", text: "Change" },
  { value: "suppression", text: "Copy suppression" },
];
type Shared = {
  account: { readonly value: Account | null; peek(): Account | null };
  stale: { readonly value: boolean };
};

export function build(context: ViewContext<Traits>): void {
  const { frame, panel, snapshot, derive } = context;
  const account = derive(() => readAccount(panel.value));
  const stale = derive(() => (panel.value?.revisions.ablated ?? 0) < (snapshot.value?.revision ?? 0));
  const shared: Shared = { account, stale };
  const question = section("Question", "what the model is asked");
  const form = context.parts.questionForm();
  question.aside.append(form.toggle);
  question.body.append(form.node, promptStrip(context));
  const left = el("div", "iw-column", {}, gridPart(context, shared));
  const right = el("div", "iw-column", {}, sumPart(context, shared), logPart(context, shared));
  frame.content.append(
    el("div", "iw-top", {}, question.node, context.parts.answer()),
    el("div", "iw-columns", {}, left, right),
  );
}

function gridPart(context: ViewContext<Traits>, { account, stale }: Shared): HTMLElement {
  const { state, stable, off, theme, watch, hover, lock, point, intent, pending, panel, signal, refusals, store } =
    context;
  const part = section("Heads", "who restores, who erodes");
  const colour = signal("change");
  const colours = segment("colour", (value) => {
    colour.value = value;
  });
  const grid = headGrid(
    {
      toggle(sites, isOff) {
        const now = state.peek();
        if (now === null) return;
        const mode = modeOf(now, pending.peek());
        const [site] = sites;
        if (sites.length === 1 && site !== undefined) intent("ablate", `head:${site}`, { site, off: isOff, mode });
        else intent("ablate_many", `heads:${sites[0]}-${sites.at(-1)}`, { sites, off: isOff, mode });
      },
      hover: (site) => point(site === null ? null : { kind: "head", site }),
      select: () => {},
    },
    "heads by layer",
    context.abort,
  );
  const line = el("div", "iw-fixed", { "aria-live": "polite", "data-iw": "fixed" });
  const [key, mlpKey] = [legend(), legend()];
  const about = honest();
  const failed = alertLine();
  const refused = alertLine(() => {
    for (const one of refusals.peek().keys()) if (one.startsWith("head")) store.dismiss(one);
  });
  part.aside.append(colours.node);
  part.body.append(
    grid.node,
    line,
    refused.node,
    failed.node,
    key.node,
    mlpKey.node,
    about.node,
    context.parts.panelNote("ablated"),
  );
  const heads = stable(() => state.value?.model.heads ?? []);
  const shape = (): Shape => ({ heads: heads.value, mlp: heads.value.length > 0 });

  watch(() => colours.paint(COLOURS, colour.value));
  watch(() => {
    const [now, suppression, ramp] = [account.value, colour.value === "suppression", theme.value.ramp];
    const scale = suppression ? now?.suppressionScale : now?.scale;
    const isMlp = (site: string): boolean => site.endsWith(".mlp");
    const there = shape();
    grid.paint({
      shape: there,
      isOff: (site) => off.value.has(site),
      look(site) {
        const value = partOf(now, there, site, suppression);
        const own = isMlp(site) ? now?.mlpScale : scale;
        return {
          colour: own === undefined ? null : colourAt(ramp, place(own, value)),
          value,
          off: off.value.has(site),
          stale: stale.value,
          selected: now?.candidates.includes(site) === true,
        };
      },
    });
    show(key.node, now?.heads != null);
    show(mlpKey.node, now?.mlps != null && !suppression);
    if (now !== null) mlpKey.paint(now.mlpScale, ramp, "MLPs");
    if (scale !== undefined)
      key.paint(scale, ramp, suppression ? "copies ↔ suppresses what it attends to" : "erodes ↔ restores the answer");
    about.paint([
      now !== null && now.ablated.length > 0 && `${now.mode}${now.reference ? ` over ${now.reference}` : ""}`,
      "changes of direct effect, the final norm’s scale held",
      now !== null && now.candidates.length > 0 && "framed: the backups",
    ]);
    failed.paint(panel.value?.status === "failed" ? panel.value.message : null);
  });
  watch(() => refused.paint([...refusals.value].find(([name]) => name.startsWith("head"))?.[1].message ?? null));
  watch(() => {
    const [hovered, locked] = [hover.value, lock.value].map((mark) => (mark?.kind === "head" ? mark.site : null));
    grid.mark(hovered ?? null, locked ?? null);
    const site = hovered ?? locked ?? null;
    line.classList.toggle("iw-fixed-on", site !== null);
    const now = account.value;
    if (site === null || now === null) setText(line, HINT);
    else if (now.ablated.length === 0) setText(line, `${site}: click to switch it off and see who makes up for it`);
    else setText(line, siteWords(now, shape(), site));
  });
  return part.node;
}

const HINT = "Click a head to switch it off; hover the others to read what they restore.";

function sumPart(context: ViewContext<Traits>, { account, stale }: Shared): HTMLElement {
  const { watch, panelId, intent } = context;
  const part = section("The sum", "lost directly, made up for, lost in all");
  const bars = el("div", "iw-waterfall", { role: "list", "aria-label": "the sum" });
  const words = el("p", "iw-repair-words", { "data-iw": "words", "aria-live": "polite" });
  const none = el("div", "iw-muted", {}, "Nothing is switched off. Click a head on the left.");
  const once = button("Also ablate the backups", "iw-btn iw-btn-main");
  const loop = button("Until nothing restores");
  const say = el("span", "iw-honest");
  const actions = el("div", "iw-section-tools", {}, once, loop, say);
  part.body.append(none, bars, words, actions);
  const key = `panel:${panelId}`;
  once.addEventListener("click", () => intent("panel", key, { panel: panelId, action: "backups", rounds: 1 }));
  loop.addEventListener("click", () => intent("panel", key, { panel: panelId, action: "backups", rounds: 8 }));
  watch(() => {
    const now = account.value;
    const there = now !== null && now.ablated.length > 0;
    show(none, !there);
    for (const node of [bars, words, actions]) show(node, there);
    if (!there) return;
    bars.classList.toggle("iw-stale", stale.value);
    words.classList.toggle("iw-stale", stale.value);
    setText(words, now.words);
    paintBars(bars, waterfall(now));
    once.disabled = loop.disabled = now.candidates.length === 0 || stale.value;
    setText(say, now.candidates.length > 0 ? now.candidates.join(", ") : "no head restores 5 % of what was lost");
  });
  return part.node;
}

function paintBars(list: HTMLElement, bars: readonly Bar[]): void {
  const ends = bars.flatMap(({ from, to }) => [from, to]).filter(Number.isFinite);
  const domain: [number, number] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const x = (value: number): number => fraction(domain, value) * 100;
  reconcile(
    list,
    bars,
    () =>
      el(
        "div",
        "iw-fall",
        { role: "listitem" },
        el("span", "iw-fall-name"),
        el("span", "iw-fall-track", { "aria-hidden": "true" }, el("i", "iw-fall-zero"), el("i", "iw-fall-bar")),
        el("span", "iw-fall-value iw-num"),
      ),
    (row, bar) => {
      const [name, track, value] = row.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
      const [zero, mark] = track.children as unknown as [HTMLElement, HTMLElement];
      setText(name, bar.name);
      setText(value, bar.kind === "whole" ? num(bar.value, 3) : signed(bar.value, 3));
      zero.style.left = `${x(0)}%`;
      mark.style.left = `${Math.min(x(bar.from), x(bar.to))}%`;
      mark.style.width = `${Math.abs(x(bar.from) - x(bar.to))}%`;
      setAttributes(row, {
        "data-kind": bar.kind === "whole" ? "whole" : bar.value >= 0 ? "restores" : "erodes",
        "data-part": bar.name,
        "data-value": bar.value,
      });
    },
  );
}

/** Less than nothing made up for is more lost. */
function repairedWords(share: number): string {
  return share < 0 ? ` · ${num(-share, 0)} % more` : ` · ${num(share, 0)} % repaired`;
}

function logPart(context: ViewContext<Traits>, { account }: Shared): HTMLElement {
  const { watch, panelId, intent } = context;
  const part = section("Log", "what the total did");
  const clear = button("Clear log", "iw-link");
  const list = el("div", "iw-repair-log", { role: "list", "aria-label": "log" });
  part.aside.append(clear);
  part.body.append(list);
  clear.addEventListener("click", () => intent("panel", `panel:${panelId}`, { panel: panelId, action: "clear" }));
  watch(() => {
    const log = account.value?.log ?? [];
    show(part.node, log.length > 0);
    const most = Math.max(1e-9, ...log.flatMap(({ total, direct }) => [Math.abs(total), Math.abs(direct)]));
    clear.disabled = log.length < 2;
    reconcile(
      list,
      log,
      () =>
        el(
          "div",
          "iw-repair-step",
          { role: "listitem" },
          el("bdi", "iw-num"),
          el("span", "iw-fall-track", { "aria-hidden": "true" }, el("i", "iw-step-direct"), el("i", "iw-step-total")),
          el("span", "iw-num iw-muted"),
        ),
      (row, step: Step) => {
        const [name, track, figures] = row.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
        const [direct, total] = track.children as unknown as [HTMLElement, HTMLElement];
        setText(name, step.label);
        setAttributes(name, { title: step.label });
        direct.style.width = `${(Math.abs(step.direct) / most) * 100}%`;
        total.style.width = `${(Math.abs(step.total) / most) * 100}%`;
        const share =
          Math.abs(step.direct) > 1e-9 ? repairedWords(Math.round((100 * step.repaired) / step.direct) || 0) : "";
        setText(figures, `lost ${num(step.total)} of ${num(step.direct)}${share}`);
        setAttributes(row, { "data-total": step.total });
      },
    );
  });
  return part.node;
}
