/** Where cells are, which one the pointer or an arrow key means, and what a rectangle holds. No DOM in here. */

/** Row -1 is the line of column headers, column -1 the row headers, column `columns` the MLPs. */
export type Position = { row: number; column: number };
export type Shape = { heads: readonly number[]; mlp: boolean };
export type Layout = {
  cell: number;
  gap: number;
  header: number;
  top: number;
  aside: number;
  rows: number;
  columns: number;
  mlp: boolean;
};

export const MIN_CELL = 12;
const BEST_CELL = 30;
const HEADER = 30;

/** Asked for with every cell: counted once per model. */
const widths = new WeakMap<readonly number[], number>();

export function columnsOf({ heads }: Shape): number {
  let most = widths.get(heads);
  if (most === undefined) {
    most = Math.max(0, ...heads);
    widths.set(heads, most);
  }
  return most;
}

/** As large as fits into the width, between 12 and 30 px; below 12 the grid scrolls in its own frame. */
export function layoutOf(shape: Shape, width: number): Layout {
  const columns = columnsOf(shape);
  const gap = columns > 24 ? 1 : columns > 16 ? 2 : 3;
  const aside = shape.mlp ? 14 : 0;
  const slots = columns + (shape.mlp ? 1 : 0);
  const fit = slots > 0 ? Math.floor((width - HEADER - aside) / slots) - gap : BEST_CELL;
  const cell = Math.max(MIN_CELL, Math.min(BEST_CELL, fit));
  return { cell, gap, header: HEADER, top: 20, aside, rows: shape.heads.length, columns, mlp: shape.mlp };
}

export function sizeOf(layout: Layout): { width: number; height: number } {
  const pitch = layout.cell + layout.gap;
  return {
    width: layout.header + layout.columns * pitch + (layout.mlp ? layout.aside + pitch : 0),
    height: layout.top + layout.rows * pitch,
  };
}

export type Box = { x: number; y: number; width: number; height: number };

export function boxOf(layout: Layout, { row, column }: Position): Box {
  const pitch = layout.cell + layout.gap;
  const aside = column >= layout.columns ? layout.aside : 0;
  return {
    x: column < 0 ? 0 : layout.header + aside + column * pitch,
    y: row < 0 ? 0 : layout.top + row * pitch,
    width: column < 0 ? layout.header : layout.cell,
    height: row < 0 ? layout.top : layout.cell,
  };
}

/** The cell under a point; null in the corner, in the aside and outside. */
export function positionAt(layout: Layout, x: number, y: number): Position | null {
  const pitch = layout.cell + layout.gap;
  const row = y < layout.top ? -1 : Math.floor((y - layout.top) / pitch);
  let column = x < layout.header ? -1 : Math.floor((x - layout.header) / pitch);
  if (column >= layout.columns) {
    const past = x - layout.header - layout.columns * pitch - layout.aside;
    if (!layout.mlp || past < 0 || past >= pitch) return null;
    column = layout.columns;
  }
  if (row < 0 && column < 0) return null;
  return row >= layout.rows || x < 0 || y < 0 ? null : { row, column };
}

export function exists(shape: Shape, { row, column }: Position): boolean {
  const columns = columnsOf(shape);
  if (row < -1 || column < -1 || row >= shape.heads.length || (row < 0 && column < 0)) return false;
  if (column === columns) return shape.mlp;
  if (column > columns) return false;
  return row < 0 || column < 0 || column < (shape.heads[row] ?? 0);
}

export function siteAt(shape: Shape, position: Position): string | null {
  if (position.row < 0 || position.column < 0 || !exists(shape, position)) return null;
  return position.column === columnsOf(shape) ? `L${position.row}.mlp` : `L${position.row}H${position.column}`;
}

/** What a cell or a header is called. */
export function nameOf(shape: Shape, position: Position): string {
  const site = siteAt(shape, position);
  if (site !== null) return site;
  if (position.column < 0) return `all heads of layer ${position.row}`;
  return position.column === columnsOf(shape) ? "all MLPs" : `head ${position.column} of every layer`;
}

export function positionOf(shape: Shape, site: string): Position | null {
  const head = /^L(\d+)(?:H(\d+)|\.mlp)$/.exec(site);
  if (head === null) return null;
  const position = { row: Number(head[1]), column: head[2] === undefined ? columnsOf(shape) : Number(head[2]) };
  return siteAt(shape, position) === site ? position : null;
}

/** All sites that a header stands for: a layer's heads, one head index in every layer, or the MLPs. */
export function sitesOfHeader(shape: Shape, { row, column }: Position): string[] {
  const columns = columnsOf(shape);
  const rows = row >= 0 ? [row] : shape.heads.map((_, index) => index);
  const across = row >= 0 ? Array.from({ length: columns }, (_, index) => index) : [column];
  return rows.flatMap((r) => across.flatMap((c) => siteAt(shape, { row: r, column: c }) ?? []));
}

/** The heads inside a rectangle; MLPs only when both corners are in their column. */
export function rectangle(shape: Shape, a: Position, b: Position): string[] {
  const columns = columnsOf(shape);
  const [top, bottom] = [Math.max(0, Math.min(a.row, b.row)), Math.max(a.row, b.row)];
  const left = Math.max(0, Math.min(a.column, b.column));
  const right = left === columns ? columns : Math.min(columns - 1, Math.max(a.column, b.column));
  const sites: string[] = [];
  for (let row = top; row <= bottom; row += 1) {
    for (let column = left; column <= right; column += 1) {
      const site = siteAt(shape, { row, column });
      if (site !== null) sites.push(site);
    }
  }
  return sites;
}

export function allHeads(shape: Shape): string[] {
  return shape.heads.flatMap((count, row) => Array.from({ length: count }, (_, column) => `L${row}H${column}`));
}

const ARROWS: Record<string, [number, number]> = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

/** Where a key leads from a cell, past holes; null when the key means nothing here. */
export function moved(shape: Shape, from: Position, key: string, ctrl = false): Position | null {
  const last = columnsOf(shape) - (shape.mlp ? 0 : 1);
  if (key === "Home") return nearest(shape, { row: ctrl ? 0 : from.row, column: 0 }, 0, 1);
  if (key === "End") return nearest(shape, { row: ctrl ? shape.heads.length - 1 : from.row, column: last }, 0, -1);
  if (key === "PageUp") return nearest(shape, { row: 0, column: from.column }, 1, 0);
  if (key === "PageDown") return nearest(shape, { row: shape.heads.length - 1, column: from.column }, -1, 0);
  const step = ARROWS[key];
  if (step === undefined) return null;
  return nearest(shape, { row: from.row + step[0], column: from.column + step[1] }, step[0], step[1]) ?? from;
}

function nearest(shape: Shape, start: Position, down: number, right: number): Position | null {
  const limit = shape.heads.length + columnsOf(shape) + 2;
  let { row, column } = start;
  for (let step = 0; step < limit; step += 1) {
    if (exists(shape, { row, column })) return { row, column };
    if (down === 0 && right === 0) return null;
    row += down;
    column += right;
  }
  return null;
}
