/**
 * What the host tells about the kernel. JupyterLab's widget manager carries the notebook's session context (or, in a console,
 * the kernel connection); both speak through Lumino signals. Other hosts have neither, and then pings have to do.
 */

type Slot = (sender: unknown, status: unknown) => void;
type LuminoSignal = { connect(slot: Slot): unknown; disconnect(slot: Slot): unknown };
type Source = Record<string, unknown>;

export type KernelNews = { kernel(status: string): void; socket(status: string): void; changed(): void };

export function watchKernel(wire: unknown, news: KernelNews, abort: AbortSignal): void {
  const manager = property(wire, "widget_manager");
  const source = contextOf(manager) ?? kernelOf(manager);
  if (source === null) return;
  listen(source.statusChanged, (_, status) => news.kernel(String(status)), abort);
  listen(source.connectionStatusChanged, (_, status) => news.socket(String(status)), abort);
  // Another kernel under the same notebook knows nothing of our comm.
  listen(source.kernelChanged, () => news.changed(), abort);
  const status = kernelOf(manager)?.status;
  if (typeof status === "string") news.kernel(status);
}

function contextOf(manager: unknown): Source | null {
  const context = property(manager, "context");
  return asSource(property(context, "sessionContext"));
}

function kernelOf(manager: unknown): Source | null {
  return asSource(property(manager, "kernel"));
}

function property(holder: unknown, name: string): unknown {
  if (holder === null || typeof holder !== "object") return undefined;
  try {
    return (holder as Source)[name];
  } catch {
    return undefined; // a getter of a disposed context, or of a host that has none
  }
}

function asSource(value: unknown): Source | null {
  return value !== null && typeof value === "object" ? (value as Source) : null;
}

function listen(signal: unknown, slot: Slot, abort: AbortSignal): void {
  const lumino = asSource(signal) as LuminoSignal | null;
  if (typeof lumino?.connect !== "function") return;
  lumino.connect(slot);
  abort.addEventListener("abort", () => lumino.disconnect?.(slot));
}
