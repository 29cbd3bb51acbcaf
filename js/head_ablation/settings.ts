/** The view's own settings as signals: what the cells show, where heads are switched off, which card and example are open. */

import type { ViewContext } from "../session/shell.ts";
import type { Choice } from "./cells.ts";
import type { Traits } from "./model.ts";

export type Settings = {
  readonly choice: { readonly value: Choice };
  set(name: "colour" | "read" | "draws", value: string | number): void;
  readonly draws: { readonly value: number };
  example: { value: number; peek(): number };
  /** Positions at which heads are switched off; empty is everywhere. */
  readonly positions: { readonly value: readonly number[]; peek(): readonly number[] };
  setPositions(positions: readonly number[]): void;
  /** Whether a click on a token chooses it. */
  choosing: { value: boolean; peek(): boolean };
  /** What the prompt's colours say: what changed of the metric, or of the whole answer, read at each token; or nothing. */
  places: { value: string };
  /** The head whose card is open. */
  card: { value: string | null; peek(): string | null };
};

export function settingsOf({ model, signal, derive, watch, onTrait, question }: ViewContext<Traits>): Settings {
  const read = <K extends keyof Traits>(name: K, otherwise: Traits[K]): Traits[K] => model.get(name) ?? otherwise;
  const colour = signal(read("colour", "total effect"));
  const reading = signal(read("read", "metric"));
  const draws = signal(read("draws", 4));
  const positions = signal<readonly number[]>(read("positions", []));
  const example = signal(-1);
  const choosing = signal(positions.peek().length > 0);
  onTrait("colour", () => {
    colour.value = read("colour", "total effect");
  });
  onTrait("read", () => {
    reading.value = read("read", "metric");
  });
  onTrait("draws", () => {
    draws.value = read("draws", 4);
  });
  onTrait("positions", () => {
    positions.value = read("positions", []);
  });
  watch(() => {
    const count = question.value?.examples ?? 1;
    if (example.peek() >= count || count === 1) example.value = -1;
  });
  return {
    choice: derive(() => ({ colour: colour.value, read: reading.value, example: example.value })),
    set(name, value) {
      model.set(name, value);
      model.save_changes();
    },
    draws,
    example,
    positions,
    setPositions(next) {
      model.set(
        "positions",
        [...next].sort((a, b) => a - b),
      );
      model.save_changes();
    },
    choosing,
    places: signal("change"),
    card: signal<string | null>(null),
  };
}
