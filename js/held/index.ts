/**
 * What a widget that holds code carries itself: it loads the code once for a page, however many widgets come with the same: with each
 * session that is opened, after each restart. A page never lets go of a module that it has loaded.
 */

import type { AnyModel } from "@anywidget/types";

type Props = { model: AnyModel<{ text: string }>; signal: AbortSignal };
type Widget = { initialize(props: Props): unknown };
type Module = { default: Widget | (() => Widget | Promise<Widget>) };

/** By the code itself, so that two versions of the package in one page have nothing in common. */
const LOADED = Symbol.for("interp_widgets.loaded");

function load(text: string): Promise<Module> {
  const page = globalThis as { [LOADED]?: Map<string, Promise<Module>> };
  page[LOADED] ??= new Map();
  const loaded = page[LOADED];
  const known = loaded.get(text);
  if (known !== undefined) return known;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const module: Promise<Module> = import(/* @vite-ignore */ url).finally(() => URL.revokeObjectURL(url));
  loaded.set(text, module);
  module.catch(() => loaded.delete(text)); // whoever asks next may have more luck
  return module;
}

export default {
  async initialize(props: Props): Promise<unknown> {
    const { default: made } = await load(props.model.get("text"));
    return (typeof made === "function" ? await made() : made).initialize(props);
  },
};
