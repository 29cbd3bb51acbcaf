/** How one cell of a grid looks, whichever surface shows it. */

import type { Rgb } from "./colour.ts";
import type { Position } from "./grid_geometry.ts";

export type CellLook = {
  /** Null while there is no value yet. */
  colour: Rgb | null;
  value: number;
  off: boolean;
  stale: boolean;
  selected: boolean;
  /** Drawn hollow: another quantity stands in until this one is there. */
  hollow?: boolean;
};

/** How a cell looks: its site, and where that is. */
export type Look = (site: string, at: Position) => CellLook;
