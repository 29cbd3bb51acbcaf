/** The diverging ramp, purple – the panel's grey – orange, read from CSS variables so that a host or a user can change it. */

export type Rgb = readonly [number, number, number];
export type Ramp = readonly Rgb[];

export const RAMP_VARIABLES = [
  "--iw-neg-3",
  "--iw-neg-2",
  "--iw-neg-1",
  "--iw-zero",
  "--iw-pos-1",
  "--iw-pos-2",
  "--iw-pos-3",
];

const FALLBACK: Record<"light" | "dark", readonly string[]> = {
  light: ["#542788", "#8073ac", "#cfcbe8", "#f4f4f6", "#fdd9a9", "#e08214", "#b35806"],
  dark: ["#b9acff", "#8d7fd0", "#38305a", "#20242d", "#5a3a17", "#d9822b", "#ffb45c"],
};

export function parseColour(text: string): Rgb | null {
  const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.exec(text.trim())?.[1];
  if (hex !== undefined) {
    const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
    return [0, 2, 4].map((at) => Number.parseInt(full.slice(at, at + 2), 16)) as unknown as Rgb;
  }
  const rgb = /^rgba?\(\s*([\d.]+)[\s,]+([\d.]+)[\s,]+([\d.]+)\s*(?:[,/]\s*([\d.]+)\s*)?\)$/.exec(text.trim());
  if (rgb === null || Number(rgb[4] ?? 1) === 0) return null;
  return [Number(rgb[1]), Number(rgb[2]), Number(rgb[3])];
}

export function readRamp(read: (variable: string) => string, dark: boolean): Ramp {
  const fallback = FALLBACK[dark ? "dark" : "light"];
  return RAMP_VARIABLES.map((name, index) => parseColour(read(name)) ?? (parseColour(fallback[index] ?? "") as Rgb));
}

/** The colour at a position -1 … 1. Not a number has no colour. */
export function colourAt(ramp: Ramp, position: number): Rgb | null {
  if (Number.isNaN(position)) return null;
  const x = ((Math.max(-1, Math.min(1, position)) + 1) / 2) * (ramp.length - 1);
  const index = Math.min(ramp.length - 2, Math.floor(x));
  const low = ramp[index];
  const high = ramp[index + 1];
  if (low === undefined || high === undefined) return null;
  return mix(low, high, x - index);
}

export function mix(a: Rgb, b: Rgb, t: number): Rgb {
  return [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];
}

export function css(colour: Rgb | null, alpha = 1): string {
  if (colour === null) return "transparent";
  const [r, g, b] = colour.map(Math.round) as unknown as Rgb;
  return alpha >= 1 ? `rgb(${r}, ${g}, ${b})` : `rgba(${r}, ${g}, ${b}, ${Math.max(0, alpha).toFixed(3)})`;
}

/** Relative luminance, 0 (black) … 1 (white), as WCAG defines it. */
export function luminance(colour: Rgb): number {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  }) as unknown as Rgb;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Contrast ratio of two colours, 1 … 21. */
export function contrast(a: Rgb, b: Rgb): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number];
  return (high + 0.05) / (low + 0.05);
}
