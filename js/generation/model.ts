/** The traits of Generation, and its texts as the view reads them. */

import type { Decoded } from "../kit/codec.ts";
import { named, percent } from "../kit/format.ts";
import type { Panel } from "../session/panels.ts";

export type Traits = {
  session: string;
  panel: string;
  tokens: number;
  temperature: number;
  top_k: number;
  top_p: number;
  seed: number;
  on_change: "restart" | "from here";
};

export type Choice = [id: number, text: string, probability: number, kind?: string];
export type Word = {
  id: number;
  text: string;
  kind: string;
  probability: number;
  /** What the other run gives this token. */
  other: number | null;
  top: Choice[];
};
export type Branch = {
  id: number;
  parent: number | null;
  at: number;
  run: "plain" | "edited";
  label: string;
  tokens: Word[];
  ended: string;
  note: string;
  marks: number[];
  stale: boolean;
};
export type Texts = { branches: Branch[]; divergence: number | null; running: boolean; note: string };

export function readTexts(panel: Panel | null): Texts | null {
  const { order, divergence, running, note, ...each } = (panel?.data ?? {}) as { [key: string]: Decoded };
  if (!Array.isArray(order)) return null;
  return {
    // Each comes under a name of its own, when it has changed; one that has just been dropped may come before the new order.
    branches: order.map((id) => each[`branch:${id}`] as unknown as Branch | null).filter((one) => one != null),
    divergence: typeof divergence === "number" ? divergence : null,
    running: running === true,
    note: typeof note === "string" ? note : "",
  };
}

/** The two texts, and under each the branches that leave it, deeper ones further in. */
export function inTree(branches: readonly Branch[]): { branch: Branch; depth: number }[] {
  const under = (parent: number | null, depth: number): { branch: Branch; depth: number }[] =>
    branches
      .filter((one) => one.parent === parent)
      .flatMap((branch) => [{ branch, depth }, ...under(branch.id, depth + 1)]);
  return under(null, 0);
}

/** How many bits the edits added to a token's probability: positive, they made it likelier; NaN while that is not known. */
export function bits({ probability, other }: Word, run: Branch["run"]): number {
  if (other === null || !(other > 0) || !(probability > 0)) return Number.NaN;
  const change = Math.log2(probability / other);
  return run === "edited" ? change : -change;
}

/** "␣great · edited 45 %, as it is 3.1 % (14 times as likely)" */
export function wordWords(word: Word, run: Branch["run"]): string {
  const name = named(word);
  if (word.other === null) return `${name} · ${percent(word.probability)} %`;
  const [edited, plain] = run === "edited" ? [word.probability, word.other] : [word.other, word.probability];
  return `${name} · edited ${percent(edited)} %, as it is ${percent(plain)} %${timesWords(edited, plain)}`;
}

function timesWords(edited: number, plain: number): string {
  if (!(edited > 0) || !(plain > 0)) return "";
  const times = Math.max(edited, plain) / Math.min(edited, plain);
  if (times < 1.05) return " (as likely)";
  const figure = times >= 1000 ? "over 1000" : times >= 10 ? times.toFixed(0) : times.toFixed(1);
  return ` (${figure} times as ${edited > plain ? "likely" : "unlikely"})`;
}

/** Why a text ends where it does, when there is something to say. */
export function endWords({ ended, note }: Branch): string {
  const why = { "": "", length: "", "end of text": "ends here", stop: "stopped at a stop text" }[ended] ?? ended;
  return [why, note].filter(Boolean).join(" · ");
}
