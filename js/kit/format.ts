/** Numbers and tokens as people read them. The exact number goes into a data attribute beside them. */

const MINUS = "−";

/** Fixed digits with a real minus sign; what is not a number says so with a dash. */
export function num(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : `${MINUS}∞`;
  const magnitude = Math.abs(value);
  if (magnitude >= 1e6 || (magnitude > 0 && magnitude < 0.5 * 10 ** -digits)) return exponent(value);
  return fixed(value, digits);
}

function fixed(value: number, digits: number): string {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? MINUS : "") + text;
}

function exponent(value: number): string {
  const [mantissa, power] = Math.abs(value).toExponential(0).split("e");
  return `${value < 0 ? MINUS : ""}${mantissa}e${power?.replace("+", "").replace("-", MINUS)}`;
}

/** With its sign always shown: effects and strengths. */
export function signed(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return num(value, digits);
  const text = fixed(value, digits);
  return text.startsWith(MINUS) ? text : `+${text}`;
}

/** A probability in percent without the sign: more digits where they matter. */
export function percent(probability: number): string {
  const value = probability * 100;
  if (!Number.isFinite(value)) return "–";
  if (value > 0 && value < 0.01) return "<0.01";
  if (value < 1) return value.toFixed(2);
  if (value < 10 || (value > 99 && value < 99.95)) return value.toFixed(1);
  return value.toFixed(0);
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

type TokenLike = { text: string; kind?: string };

const ESCAPES: Record<string, string> = { "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };

/**
 * A token as text that can be looked at: special tokens in angle brackets, bytes as ⟨F0⟩, line breaks as ↵, and what would be
 * invisible or would rearrange the line (controls, direction marks, joiners at an edge) by its code point.
 */
export function visible(token: TokenLike): string {
  if (token.kind === "special") return `⟨${clean(token.text.replace(/^<\|?|\|?>$/g, "")) || "special"}⟩`;
  if (token.kind === "byte") return `⟨${clean(token.text.replace(/^<?0x|^⟨|[>⟩]$/gi, "")).toUpperCase()}⟩`;
  return clean(token.text);
}

// Controls, format characters (soft hyphen, direction marks and overrides, BOM), line separators, half a surrogate pair.
// Joiners and tags are left alone: emoji are made of them.
const UNSEEN = /(?!\u200c|\u200d|[\u{e0020}-\u{e007f}])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\u00a0]/gu;

function clean(text: string): string {
  return text.replace(UNSEEN, (char) => {
    return ESCAPES[char] ?? `⟨${(char.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(2, "0")}⟩`;
  });
}

/** The same with spaces shown, for chips and lines where a leading space would be lost: ␣Mary. */
export function named(token: TokenLike): string {
  const text = visible(token).replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
  return text === "" ? "⟨empty⟩" : text;
}

/** Several target tokens are read together by logsumexp; the list says so. */
export function namedList(tokens: readonly TokenLike[]): string {
  const shown = tokens.slice(0, 3).map(named).join(" | ");
  return tokens.length > 3 ? `${shown} | … (${tokens.length})` : shown;
}
