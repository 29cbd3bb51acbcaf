/** What is shown where a view cannot be. */

export const NEEDS_HOST =
  "This view needs anywidget 0.11 or newer: upgrade it (pip install -U anywidget) and reload the page.";

/** One sentence where the view would be; without the session there is nothing else to show. */
export function failure(widget: string, error: unknown, abort: AbortSignal): HTMLElement {
  const reason = error instanceof Error ? error.message : String(error);
  const root = document.createElement("div");
  root.className = "iw-root";
  root.dataset.widget = widget;
  root.dataset.connection = "dead";
  root.setAttribute("aria-busy", "false");
  const banner = document.createElement("div");
  banner.className = "iw-banner";
  banner.setAttribute("role", "alert");
  banner.textContent = reason.startsWith("This view")
    ? reason
    : `This view could not reach its session (${reason}). Run its cells again.`;
  root.append(banner);
  abort.addEventListener("abort", () => root.remove());
  return root;
}
