/** A text field over a value that others change too. */

import { on } from "./dom.ts";
import { isComposing } from "./keyboard.ts";

/**
 * The function to call when the value has changed. What is being typed stays, and so does what is said to be wrong: the field shows
 * the value when it is left, and when nothing is said of it any more.
 */
export function followed(
  field: HTMLInputElement,
  value: () => string,
  isWrong: () => boolean,
  options?: AddEventListenerOptions,
): () => void {
  function write(): void {
    const text = value();
    if (field.value !== text && !isWrong()) field.value = text;
  }
  on(field, "blur", write, options);
  return () => {
    if (field.ownerDocument.activeElement !== field) write();
  };
}

/** Calls `take` once for whatever has been typed: at Enter too, which JupyterLab keeps for itself, so that no change follows. */
export function entered(field: HTMLInputElement, take: () => void, options?: AddEventListenerOptions): void {
  let taken: string | null = null;
  const end = (atEnter: boolean): void => {
    if (atEnter || field.value !== taken) take();
    taken = atEnter ? field.value : null;
  };
  on(field, "keydown", (event) => event.key !== "Enter" || isComposing(event) || end(true), options);
  on(field, "change", () => end(false), options);
}
