/** What a key means: in a row of things of which one has the focus, and in a text field. */

/** The index a key leads to, or null when the key means nothing here. Does not wrap: the ends are ends. */
export function stepInRow(key: string, index: number, count: number): number | null {
  if (count === 0) return null;
  const last = count - 1;
  if (key === "ArrowRight" || key === "ArrowDown") return Math.min(last, index + 1);
  if (key === "ArrowLeft" || key === "ArrowUp") return Math.max(0, index - 1);
  if (key === "Home") return 0;
  if (key === "End") return last;
  return null;
}

export function isPress(key: string): boolean {
  return key === "Enter" || key === " ";
}

/** Whether an input method is using the key: its Enter confirms a word that is being put together, and its Escape drops it. */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229; // in Safari the Enter comes after the composition has ended
}
