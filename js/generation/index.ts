import { defineView } from "../session/define.ts";
import type { Traits } from "./model.ts";
import { build } from "./view.ts";

export default defineView<Traits>("Generation", "Generation", build);
