import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FakeModel } from "../tests/host.ts";
import held from "./index.ts";

/** What the page would load: node knows no `blob:` addresses. */
const modules: string[] = [];
const code = (name: string): string =>
  `export default { initialize: ({ model }) => ({ ${name}: model.get("text") }) };`;

beforeEach(() => {
  modules.length = 0;
  vi.stubGlobal(
    "Blob",
    class {
      readonly text: string;
      constructor(parts: string[]) {
        this.text = parts.join("");
      }
    },
  );
  vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
    modules.push((blob as unknown as { text: string }).text);
    return `data:text/javascript,${encodeURIComponent((blob as unknown as { text: string }).text)}`;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

async function start(text: string): Promise<unknown> {
  return held.initialize({ model: new FakeModel({ text }) as never, signal: new AbortController().signal });
}

test("the same code is loaded once for all widgets that hold it, and each is started for itself", async () => {
  const [first, second] = [await start(code("a")), await start(code("a"))];
  expect(first).toEqual({ a: code("a") });
  expect(second).toEqual(first);
  expect(second).not.toBe(first);
  expect(modules).toEqual([code("a")]);
});

test("another version of the code is another module", async () => {
  expect(await start(code("b"))).toEqual({ b: code("b") });
  expect(await start(code("c"))).toEqual({ c: code("c") });
  expect(modules).toEqual([code("b"), code("c")]);
});

// @case D14
test("code that could not be loaded is tried again, and the reason is told", async () => {
  await expect(start("export default {")).rejects.toThrow();
  await expect(start("export default {")).rejects.toThrow();
  expect(modules).toHaveLength(2);
});
