/** A text field over a value that others change too. */

import { on } from "./dom.ts";

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
