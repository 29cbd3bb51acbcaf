/** Token attribution: which tokens made it say that, and whether that is true. */

import "../kit/slider.css";
import "./view.css";
import { el } from "../kit/dom.ts";
import type { ViewContext } from "../session/shell.ts";
import { answerSection } from "./answer.ts";
import { deletionPart } from "./deletion.ts";
import { methodsPart } from "./methods.ts";
import type { Traits } from "./model.ts";
import { share } from "./shared.ts";
import { tokenPart } from "./token_part.ts";

export function build(context: ViewContext<Traits>): void {
  const shared = share(context);
  context.frame.content.append(
    el("div", "iw-top", {}, tokenPart(shared), context.parts.answer()),
    el(
      "div",
      "iw-columns",
      {},
      el("div", "iw-column", {}, deletionPart(shared)),
      el("div", "iw-column", {}, methodsPart(shared)),
    ),
    el("div", "iw-below", {}, answerSection(shared)),
  );
}
