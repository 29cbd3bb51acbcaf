import { defineView } from "../session/define.ts";
import type { Traits } from "./model.ts";
import { build } from "./view.ts";

export default defineView<Traits>("SelfRepair", "Self-repair", build);
