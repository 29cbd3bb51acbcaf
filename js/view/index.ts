/**
 * What every view's own model carries: it has the view drawn by the code that one widget holds for all views of a kind. A page keeps
 * every module that it has ever loaded, so code that each view brought along would stay each time a cell is run again.
 */

import type { AnyModel, Host } from "@anywidget/types";
import { failure, NEEDS_HOST } from "../session/failure.ts";

type Props = { model: AnyModel<{ code: string; panel: string }>; el: HTMLElement; signal?: AbortSignal; host?: Host };
type Code = { render(props: Props): Promise<() => void> };

export default {
  async render(props: Props): Promise<() => void> {
    const { model, el, host } = props;
    const gone = new AbortController();
    try {
      if (host === undefined) throw new Error(NEEDS_HOST);
      return await (await host.getWidget<Code>(model.get("code"))).exports.render(props);
    } catch (error) {
      el.append(failure(model.get("panel").replace(/-.*/, ""), error, gone.signal));
      return () => gone.abort();
    }
  },
};
