// SPDX-License-Identifier: Apache-2.0
// What no scheduler of these engines beats by much: all engines as one, with one queue in front of them and one cache that
// all can read. Whoever is free next takes the waiting prompt with the fewest uncached tokens. Nothing is known of the
// future, generation costs nothing, and no time is lost between engines and queue.

import { type EngineProfile, prefillMs } from "../../src/mock/engine_model.ts";
import { KvCache } from "../../src/mock/kv_cache.ts";
import { BLOCK_TOKENS, type TraceRequest } from "./trace.ts";

/** Prompts whose place in the queue is looked up anew when one is taken: caches change while they wait. */
const LOOKED_UP = 32;

interface Waiting {
  readonly request: TraceRequest;
  uncached: number;
}

/** Ms to the first token of every request. `share` of the fleet's cache blocks are there: Infinity keeps everything. */
export function boundTtft(profiles: readonly EngineProfile[], requests: readonly TraceRequest[], share = 1): number[] {
  const blocks = profiles.reduce((sum, { kvBlocks, blockTokens }) => sum + kvBlocks * blockTokens / BLOCK_TOKENS, 0);
  const cache = new KvCache(share === Infinity ? Infinity : Math.floor(blocks * share));
  const free = profiles.map(() => 0);
  const waiting: Waiting[] = [];
  const look = (one: Waiting) => {
    const { blocks, inputTokens } = one.request;
    one.uncached = Math.max(1, inputTokens - cache.match(blocks) * BLOCK_TOKENS);
  };
  const ttft: number[] = [];
  const take = (now: number, engine: number): void => {
    for (let looks = 0; looks < Math.min(LOOKED_UP, waiting.length); looks++) {
      const least = leastOf(waiting);
      const before = waiting[least].uncached;
      look(waiting[least]);
      if (waiting[least].uncached <= before) break;
    }
    const least = leastOf(waiting);
    const { request, uncached } = waiting[least];
    waiting[least] = waiting.at(-1)!;
    waiting.pop();
    const allocation = cache.allocate(request.blocks, 0);
    if (allocation) cache.release(allocation);
    free[engine] = now + prefillMs(profiles[engine], request.inputTokens, uncached);
    ttft.push(free[engine] - request.at);
  };
  let next = 0;
  while (next < requests.length || waiting.length > 0) {
    const engine = free.indexOf(Math.min(...free));
    const request = requests[next];
    if (request !== undefined && (waiting.length === 0 || request.at <= free[engine])) {
      const one = { request, uncached: 0 };
      look(one);
      waiting.push(one);
      next++;
      if (free[engine] <= request.at) take(request.at, engine);
    } else take(free[engine], engine);
  }
  return ttft;
}

function leastOf(waiting: readonly Waiting[]): number {
  let least = 0;
  for (let i = 1; i < waiting.length; i++) if (waiting[i].uncached < waiting[least].uncached) least = i;
  return least;
}
