/** What the parts of the view share: the attribution, how it is read, the token meant, the tokens taken away. */

import { tokenIndex } from "../kit/tokens.ts";
import type { ViewContext } from "../session/shell.ts";
import { type Attribution, readAttribution, sameTokens, spansOf, type Traits } from "./model.ts";
import { type Range, readRanges, type Span } from "./spans.ts";

type Readable<T> = { readonly value: T; peek(): T };
export type Setting<T> = { value: T; peek(): T };

export type Shared = {
  context: ViewContext<Traits>;
  result: Readable<Attribution | null>;
  /** Whether the scores are those of the prompt on screen. */
  ours: Readable<boolean>;
  stale: Readable<boolean>;
  /** Whether the scores are another method's than the one chosen: they stand in until it has answered. */
  instead: Readable<boolean>;
  spans: Readable<readonly Span[]>;
  method: Setting<string>;
  baseline: Setting<string>;
  by: Setting<string>;
  pattern: Setting<string>;
  selection: Setting<readonly Range[]>;
  answer: Setting<number>;
  /** The token under the pointer or the focus, else the one that is locked, else the last. */
  token: Readable<number | null>;
  /** Tokens that the deletion test has replaced. */
  gone: Setting<ReadonlySet<number>>;
  /** Looks for a pattern. What is typed is no trait: a page's traits are saved with the notebook. */
  look(pattern: string): void;
  /** Sets a trait and saves it. */
  choose<K extends keyof Traits>(name: K, value: Traits[K]): void;
};

export function share(context: ViewContext<Traits>): Shared {
  const { model, panel, panelId, intent, snapshot, question, signal, derive, hover, lock, watch, onTrait } = context;

  /** A trait as a signal. */
  function setting<T>(name: keyof Traits & string, read: (value: unknown) => T): Setting<T> {
    const now = signal(read(model.get(name)));
    onTrait(name, () => {
      now.value = read(model.get(name));
    });
    return now;
  }

  const method = setting("method", (value) => String(value ?? ""));
  const by = setting("spans", (value) => String(value ?? "token"));
  const selection = setting("selection", readRanges);
  const result = derive(() => readAttribution(panel.value));
  const instead = derive(() => {
    const now = result.value;
    return now !== null && now.method !== "" && method.value !== "" && now.method !== method.value;
  });
  const pattern = signal("");
  const told = derive(() => result.value?.pattern ?? "");
  watch(() => {
    pattern.value = told.value;
  });
  const last = signal<number | null>(null);
  watch(() => {
    const now = tokenIndex(hover.value) ?? tokenIndex(lock.value);
    if (now !== null) last.value = now;
  });
  const count = derive(() => question.value?.tokens.length ?? 0);
  return {
    context,
    result,
    ours: derive(() => {
      const [now, tokens] = [result.value, question.value?.tokens];
      return now !== null && (tokens === undefined || sameTokens(now.tokens, tokens));
    }),
    // Scores of another method than the one chosen are as old as those of another state.
    stale: derive(() => instead.value || (result.value?.revision ?? 0) < (snapshot.value?.revision ?? 0)),
    instead,
    spans: derive(() => {
      const now = result.value;
      return now?.scores == null ? [] : spansOf(now, now.scores.data, by.value, selection.value);
    }),
    method,
    baseline: setting("baseline", (value) => String(value ?? "")),
    by,
    pattern,
    selection,
    answer: setting("answer", (value) => Number(value ?? 0)),
    token: derive(() => {
      const now = tokenIndex(hover.value) ?? tokenIndex(lock.value) ?? last.value;
      return now !== null && now < count.value ? now : null;
    }),
    gone: signal<ReadonlySet<number>>(new Set()),
    look(text) {
      pattern.value = text;
      intent("panel", `pattern:${panelId}`, { panel: panelId, action: "pattern", pattern: text });
    },
    choose(name, value) {
      model.set(name, value);
      model.save_changes();
    },
  };
}
