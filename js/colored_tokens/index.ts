import { defineView } from "../session/define.ts";
import { build, type Traits } from "./view.ts";

export default defineView<Traits>("ColoredTokens", "Tokens", build);
