import { defineConfig } from "vitest/config";

export default defineConfig({
  define: { __IW_VERSION__: JSON.stringify("test") },
  test: {
    environment: "happy-dom",
    include: ["js/**/*.test.ts"],
    pool: "threads",
    maxWorkers: 2,
    testTimeout: 20_000,
  },
});
