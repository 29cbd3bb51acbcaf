/** Making elements. Text goes in as text only; there is no way here to hand over HTML, a style string or a handler. */

type Attribute = string | number | boolean | null | undefined;
export type Attributes = Record<string, Attribute>;
type Child = Node | string | null;

const SVG = "http://www.w3.org/2000/svg";

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  setAttributes(node, attributes);
  for (const child of children) if (child !== null) node.append(child);
  return node;
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const node = document.createElementNS(SVG, tag);
  setAttributes(node, attributes);
  for (const child of children) if (child !== null) node.append(child);
  return node;
}

/** Sets, or with null/false removes. `style` and `on…` are refused: colours and sizes are numbers, set as properties. */
export function setAttributes(node: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style" || name.startsWith("on")) throw new TypeError(`the attribute ${name} is never set from data`);
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Writes only what differs, so that a live region speaks once per change and a selection survives a repaint. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node: HTMLElement, visible: boolean): void {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Listens on an element. */
export function on<K extends keyof HTMLElementEventMap>(
  node: Element,
  type: K,
  run: (event: HTMLElementEventMap[K]) => void,
  options?: AddEventListenerOptions,
): void {
  node.addEventListener(type, run as EventListener, options);
}

/** A button that says what it does. */
export function button(text: string, className = "iw-btn", attributes: Attributes = {}): HTMLButtonElement {
  return el("button", className, { type: "button", ...attributes }, text);
}

/** A run of text with some of it in bold monospace: `rich("L2H6", " off")` with strong parts marked. */
export function strong(text: string): HTMLElement {
  return el("b", "iw-num", {}, text);
}

/** Keeps a list of nodes in step with a list of items: makes the missing, drops the surplus, paints each. */
export function reconcile<T, N extends Element>(
  parent: Element,
  items: readonly T[],
  make: (index: number) => N,
  paint: (node: N, item: T, index: number) => void,
): void {
  while (parent.childElementCount > items.length) parent.lastElementChild?.remove();
  items.forEach((item, index) => {
    let node = parent.children[index] as N | undefined;
    if (node === undefined) {
      node = make(index);
      parent.append(node);
    }
    paint(node, item, index);
  });
}
