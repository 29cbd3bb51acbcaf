/** What holds after every test: the next one finds the real clock, whether or not it runs in a page of its own. */

import { afterEach, expect, vi } from "vitest";

afterEach(() => {
  const fake = vi.isFakeTimers();
  vi.useRealTimers();
  expect(fake, "a test has left a fake clock behind; call vi.useRealTimers() in afterEach").toBe(false);
});
