// SPDX-License-Identifier: Apache-2.0
// Mock engines in one process, never the bottleneck: instant, or with so many ms between the tokens of every stream.
// Usage: engines.ts FIRST_PORT ENGINES [STEP_MS]

import { startMockEngine } from "../../src/mock/server.ts";

const [firstPort, engines, stepMs] = Deno.args.map(Number);
const paced = {
  maxRunning: 100_000,
  stepBaseMs: stepMs,
  stepPerRunningMs: 0,
  prefillTokensPerSecond: 1e9,
  prefillChunkTokens: 1e9,
  kvBlocks: 10_000_000,
};
for (let i = 0; i < engines; i++) {
  const common = { address: { hostname: "127.0.0.1", port: firstPort + i }, models: ["m"] };
  startMockEngine(
    Number.isNaN(stepMs) || stepMs === undefined ? { ...common, instant: true } : { ...common, profile: paced },
  );
}
