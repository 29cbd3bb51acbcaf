import { defineConfig } from "vitest/config";

export default defineConfig({
  define: { __IW_VERSION__: JSON.stringify("test") },
  test: {
    environment: "happy-dom",
    include: ["js/**/*.test.ts"],
    pool: "threads",
    maxWorkers: 2,
    testTimeout: 20_000,
    setupFiles: ["js/tests/setup.ts"],
    // Tests clean up after themselves, and one page for all files of a worker takes half the time.
    isolate: false,
  },
});
