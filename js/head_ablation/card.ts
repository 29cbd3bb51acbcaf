/** A head's card: where it looks from the read position, what each source carries toward the answer, what it writes. */

import { asArray, type Decoded, type NdArray } from "../kit/codec.ts";
import { button, el, on, reconcile, setText, show } from "../kit/dom.ts";
import { alertLine } from "../kit/errors.ts";
import { named, num, signed } from "../kit/format.ts";
import { section } from "../kit/frame.ts";
import { partIsStale } from "../session/derive.ts";
import type { ViewContext } from "../session/shell.ts";
import { headOf, siteOf, type Traits } from "./model.ts";
import type { Settings } from "./settings.ts";

type Written = { text: string; kind: "text" | "special" | "byte"; logit: number };

export type Card = {
  site: string;
  contribution: NdArray | null;
  attention: NdArray | null;
  direct: number;
  copying: number;
  promotes: Written[];
  suppresses: Written[];
  siblings: string[];
  edited: boolean;
  error: string;
};

export function readCard(data: Decoded | undefined): Card | null {
  if (data === null || typeof data !== "object" || Array.isArray(data) || !("layer" in data)) return null;
  const card = data as Record<string, Decoded>;
  const list = (value: Decoded | undefined): Decoded[] => (Array.isArray(value) ? value : []);
  return {
    site: `L${Number(card.layer)}H${Number(card.head)}`,
    contribution: asArray(card.contribution),
    attention: asArray(card.attention),
    direct: Number(card.direct),
    copying: Number(card.copying),
    promotes: list(card.promotes) as unknown as Written[],
    suppresses: list(card.suppresses) as unknown as Written[],
    siblings: list(card.siblings).map(String),
    edited: card.edited === true,
    error: typeof card.error === "string" ? card.error : "",
  };
}

export function cardPart(context: ViewContext<Traits>, open: { value: string | null }): HTMLElement {
  const { panel, watch, derive, snapshot } = context;
  const part = section("Head", "what it reads and writes");
  const heading = part.node.querySelector("h3") as HTMLElement;
  const close = button("Close", "iw-link");
  const figures = el("div", "iw-card-figures");
  const [up, down] = [writes("raises"), writes("lowers")];
  const about = el("div", "iw-honest");
  const failed = alertLine();
  const body = el("div", "iw-card-body", { "data-iw": "card" }, figures, up.node, down.node, about);
  part.node.classList.add("iw-card");
  part.aside.append(close);
  part.body.append(body, failed.node);
  on(close, "click", () => {
    open.value = null;
  });
  const card = derive(() => readCard(panel.value?.data.card));
  watch(() => {
    const site = open.value;
    const now = card.value;
    const ours = now !== null && now.site === site;
    show(part.node, site !== null);
    setText(heading, site === null ? "Head" : `Head ${site}`);
    show(body, ours && now.error === "");
    failed.paint(ours && now.error !== "" ? now.error : null);
    if (!ours || now.error !== "") return;
    body.classList.toggle("iw-stale", partIsStale(panel.value, "card", snapshot.value?.revision ?? 0));
    setText(figures, figuresOf(now));
    up.paint(now.promotes);
    down.paint(now.suppresses);
    setText(about, aboutCard(now));
  });
  return part.node;
}

function figuresOf(card: Card): string {
  const kind = card.copying < 0 ? "suppresses what it attends to" : "copying";
  return `direct ${signed(card.direct)} · ${kind} ${signed(card.copying)}`;
}

function aboutCard({ siblings, edited, direct }: Card): string {
  return [
    `the prompt is coloured by attention × OV × (target − foil), which sums to ${num(direct)}`,
    siblings.length > 0 ? `shares its keys and values with ${siblings.join(", ")}` : "",
    edited ? "shown as it computes before what is done to it" : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

/** Tokens whose logits the head's whole write moves most. */
function writes(title: string): { node: HTMLElement; paint(tokens: readonly Written[]): void } {
  const list = el("span", "iw-writes", { role: "list", "aria-label": `tokens it ${title}` });
  const node = el("div", "iw-writes-line", {}, el("span", "iw-muted", {}, title), list);
  return {
    node,
    paint(tokens) {
      reconcile(
        list,
        tokens,
        () => el("span", "iw-chip", { role: "listitem" }, el("bdi"), el("span", "iw-muted iw-num")),
        (chip, token) => {
          setText(chip.children[0] as Element, named(token));
          setText(chip.children[1] as Element, ` ${signed(token.logit)}`);
        },
      );
    },
  };
}

/** A card is opened for the head that is locked, and then follows the lock. */
export function cardButton(
  { lock, watch, intent, panelId, panel, snapshot }: ViewContext<Traits>,
  settings: Settings,
): HTMLElement {
  const open = button("Card", "iw-link", { "data-iw": "open-card" });
  const node = el("div", "iw-card-open", {}, open);
  const wanted = (): string | null => {
    const site = siteOf(lock.value);
    return site !== null && headOf(site) !== null ? site : null;
  };
  function ask(site: string): void {
    const head = headOf(site);
    if (head !== null) intent("panel", `card:${panelId}`, { panel: panelId, action: "card", ...head });
  }
  on(open, "click", () => {
    const site = wanted();
    if (site === null) return;
    settings.card.value = site;
    ask(site);
  });
  watch(() => {
    const site = wanted();
    show(open, site !== null && site !== settings.card.value);
    setText(open, site === null ? "" : `Open the card of ${site}`);
    if (site !== null && settings.card.peek() !== null && settings.card.peek() !== site) {
      settings.card.value = site;
      ask(site);
    }
  });
  // A kernel that has just come to know this page does not know which card is open in it.
  watch(() => {
    const site = settings.card.value;
    const shown = readCard(panel.value?.data.card)?.site;
    if (site !== null && shown !== undefined && shown !== site && snapshot.value !== null) ask(site);
  });
  return node;
}
