// SPDX-License-Identifier: Apache-2.0
// Mock engines in one process for bench:streams. Usage: engines.ts FIRST_PORT ENGINES STREAMS_EACH TOKENS_PER_SECOND

import { startMockEngine } from "../../src/mock/server.ts";

const [firstPort, engines, streams, rate] = Deno.args.map(Number);
for (let i = 0; i < engines; i++) {
  startMockEngine({
    address: { hostname: "127.0.0.1", port: firstPort + i },
    profile: {
      maxRunning: streams * 2,
      stepBaseMs: 1_000 / rate,
      stepPerRunningMs: 0,
      prefillTokensPerSecond: 1e9,
      prefillChunkTokens: 1e9,
      kvBlocks: 10_000_000,
    },
  });
}
