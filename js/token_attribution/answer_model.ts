/** A whole answer, every token of it to every token before it. Pure. */

import { asArray, type NdArray } from "../kit/codec.ts";
import type { Matrix } from "../kit/heatmap.ts";
import type { Panel } from "../session/panels.ts";
import type { Token } from "../session/protocol.ts";
import { fields, listOf, numberOf, text, tokensOf } from "./model.ts";

export type Likely = Token & { probability: number };
export type Instead = { output: number; token: Token; scores: ArrayLike<number>; metric: number; method: string };
export type WholeAnswer = {
  method: string;
  /** The prompt and the answer, all of it: what is before a token may have moved it. */
  tokens: Token[];
  prompt: number;
  outputs: Token[];
  scores: NdArray;
  metrics: ArrayLike<number>;
  tops: Likely[][];
  instead: Instead | null;
  line: string;
};

export function readAnswer(panel: Panel | null): WholeAnswer | null {
  const data = fields(panel?.data.answer);
  const [scores, metrics] = [asArray(data.scores), asArray(data.metrics)];
  if (scores === null || metrics === null) return null;
  const outputs = tokensOf(data.outputs);
  const prompt = numberOf(data.n_prompt);
  return {
    method: text(data.method),
    tokens: [...tokensOf(data.inputs).slice(0, prompt), ...outputs],
    prompt,
    outputs,
    scores,
    metrics: metrics.data,
    tops: listOf(data.tops).map((one) => listOf(one) as unknown as Likely[]),
    instead: readInstead(panel),
    line: text(data.line),
  };
}

/** Why there is no answer. */
export function answerNote(panel: Panel | null): string {
  return text(fields(panel?.data.answer).note);
}

function readInstead(panel: Panel | null): Instead | null {
  const data = fields(panel?.data.instead);
  const scores = asArray(data.scores);
  if (scores === null) return null;
  const token = { id: numberOf(data.id), text: text(data.text), kind: text(data.kind) as Token["kind"] };
  return {
    output: numberOf(data.output),
    token,
    scores: scores.data,
    metric: numberOf(data.metric),
    method: text(data.method),
  };
}

/** What an input was worth to an output; not a number where it does not come before it. */
export function scoreAt(
  { scores, prompt, instead }: WholeAnswer,
  output: number,
  input: number,
  other = false,
): number {
  if (input >= prompt + output || output < 0) return Number.NaN;
  if (other && instead?.output === output) return instead.scores[input] ?? Number.NaN;
  return scores.data[output * (scores.shape[1] ?? 0) + input] ?? Number.NaN;
}

/**
 * What the whole text has to do with one token of it: the tokens before it by what they were worth to it (where it is an
 * output), the outputs after it by what it was worth to them.
 */
export function seenFrom(answer: WholeAnswer, picked: number, other: boolean): number[] {
  const { tokens, prompt } = answer;
  return tokens.map((_, index) => {
    if (index === picked) return Number.NaN;
    if (index < picked) return picked < prompt ? Number.NaN : scoreAt(answer, picked - prompt, index, other);
    return index < prompt ? Number.NaN : scoreAt(answer, index - prompt, picked);
  });
}

/** Rows are outputs, columns everything before the last of them. */
export function matrixOf(answer: WholeAnswer): Matrix {
  return {
    rows: answer.outputs.length,
    columns: answer.tokens.length - 1,
    at: (row, column) => scoreAt(answer, row, column),
  };
}

/** Tab-separated, a row per output. */
export function answerTable(answer: WholeAnswer): string {
  const columns = answer.tokens.slice(0, -1);
  const rows = answer.outputs.map((token, output) =>
    [
      JSON.stringify(token.text),
      answer.metrics[output] ?? "",
      ...columns.map((_, input) => numberCell(scoreAt(answer, output, input))),
    ].join("\t"),
  );
  return [
    ["output", "log-probability", ...columns.map((token) => JSON.stringify(token.text))].join("\t"),
    ...rows,
  ].join("\n");
}

function numberCell(value: number): string {
  return Number.isNaN(value) ? "" : String(value);
}
