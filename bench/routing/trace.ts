// SPDX-License-Identifier: Apache-2.0
// Request traces, read from files or made from a seed.

import { Random } from "../../src/base/random.ts";
import { BLOCK_TOKENS, type Trace, type TraceRequest } from "../../src/load/trace.ts";

export { BLOCK_TOKENS, readTrace, type Trace, type TraceRequest } from "../../src/load/trace.ts";

const exponential = (random: Random, mean: number) => -mean * Math.log(1 - random.next());
/** Log-normal with this median and shape. */
const lengths = (random: Random, median: number, sigma: number) => {
  const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
  return Math.max(1, Math.round(median * Math.exp(sigma * normal)));
};

class Prompts {
  #next = 1;
  fresh(tokens: number): number[] {
    return Array.from({ length: Math.ceil(tokens / BLOCK_TOKENS) }, () => this.#next++);
  }
}

/** Seeded workloads by name; each is about `count` requests at a mean of one every 100 ms. */
export const WORKLOADS: Record<string, (random: Random, count: number) => TraceRequest[]> = {
  /** One of 20 system prompts of 2,048 tokens before a short question. */
  shared_system(random, count) {
    const prompts = new Prompts();
    const systems = Array.from({ length: 20 }, () => prompts.fresh(2_048));
    let at = 0;
    return Array.from({ length: count }, () => {
      at += exponential(random, 100);
      const own = lengths(random, 400, 0.8);
      const blocks = [...systems[Math.floor(20 * random.next() ** 2)], ...prompts.fresh(own)];
      return { at, inputTokens: 2_048 + own, outputTokens: lengths(random, 200, 0.7), blocks, tenant: 0 };
    });
  },
  /** Conversations: every turn is the last prompt, its answer and a new question. */
  multi_turn: (random, count) =>
    growing(random, count, { turns: 8, first: 800, more: 600, output: 250, pauseMs: 20_000 }),
  /** Agents: many quick turns over a context that grows long. */
  agents: (random, count) =>
    growing(random, count, { turns: 25, first: 4_000, more: 1_200, output: 120, pauseMs: 4_000 }),
  /** Agents of one kind: long sessions that all begin with the same prompt of 8,192 tokens. */
  agent_sessions: (random, count) =>
    growing(random, count, { turns: 20, first: 20_000, more: 3_000, output: 200, pauseMs: 5_000, shared: 8_192 }),
  /** Chat and autocompletion: many short prompts, of which nothing is shared. */
  short_prompts: (random, count) => apart(random, count, { most: 16_000, input: [500, 1.3], output: [60, 0.8] }),
  /** Short chats that all begin with the same prompt of 4,096 tokens. */
  shared_chats: (random, count) =>
    growing(random, count, { turns: 6, first: 400, more: 300, output: 200, pauseMs: 15_000, shared: 4_096 }),
  /** One tenant in ten sends half of the requests, with one long prompt. */
  hot_tenant(random, count) {
    const prompts = new Prompts();
    const systems = Array.from({ length: 10 }, () => prompts.fresh(6_144));
    let at = 0;
    return Array.from({ length: count }, () => {
      at += exponential(random, 100);
      const tenant = random.chance(0.5) ? 0 : 1 + random.below(9);
      const own = lengths(random, 500, 0.6);
      const blocks = [...systems[tenant], ...prompts.fresh(own)];
      return { at, inputTokens: 6_144 + own, outputTokens: lengths(random, 200, 0.7), blocks, tenant };
    });
  },
  /** Half of the requests come in bursts of fifty. */
  bursts(random, count) {
    const prompts = new Prompts();
    let at = 0;
    const requests: TraceRequest[] = [];
    const one = (time: number) => {
      const inputTokens = lengths(random, 2_000, 1);
      requests.push({
        at: time,
        inputTokens,
        outputTokens: lengths(random, 200, 0.7),
        blocks: prompts.fresh(inputTokens),
        tenant: 0,
      });
    };
    while (requests.length < count) {
      at += exponential(random, 200);
      one(at);
      if (random.chance(0.02)) { for (let i = 0; i < 50; i++) one(at + i * 2); }
    }
    return requests.sort((a, b) => a.at - b.at);
  },
  /** Everybody sends the same prompt. */
  identical(random, count) {
    const blocks = new Prompts().fresh(4_096);
    let at = 0;
    return Array.from({ length: count }, () => {
      at += exponential(random, 100);
      return { at, inputTokens: 4_096, outputTokens: lengths(random, 200, 0.5), blocks, tenant: 0 };
    });
  },
  /** Nothing shared, a few very long prompts. */
  heavy_tail: (random, count) => apart(random, count, { most: 120_000, input: [1_500, 1.6], output: [200, 1] }),
};

// Prompts that share nothing; their lengths by median and shape.
function apart(
  random: Random,
  count: number,
  { most, input, output }: { most: number; input: [number, number]; output: [number, number] },
): TraceRequest[] {
  const prompts = new Prompts();
  let at = 0;
  return Array.from({ length: count }, () => {
    at += exponential(random, 100);
    const inputTokens = Math.min(most, lengths(random, ...input));
    return { at, inputTokens, outputTokens: lengths(random, ...output), blocks: prompts.fresh(inputTokens), tenant: 0 };
  });
}

function growing(
  random: Random,
  count: number,
  { turns, first, more, output, pauseMs, shared = 0 }: {
    turns: number;
    first: number;
    more: number;
    output: number;
    pauseMs: number;
    /** Tokens that all begin with. */
    shared?: number;
  },
): TraceRequest[] {
  const prompts = new Prompts();
  const beginning = prompts.fresh(shared);
  const requests: TraceRequest[] = [];
  let start = 0;
  while (requests.length < count) {
    start += exponential(random, 100 * turns);
    let at = start;
    let tokens = shared + lengths(random, first, 0.6);
    let blocks = [...beginning, ...prompts.fresh(tokens - shared)];
    for (let turn = 0; turn < turns; turn++) {
      const outputTokens = lengths(random, output, 0.6);
      requests.push({ at, inputTokens: tokens, outputTokens, blocks, tenant: 0 });
      const added = outputTokens + lengths(random, more, 0.6);
      // The last block was not full: it changes with what follows.
      blocks = [...blocks.slice(0, Math.floor(tokens / BLOCK_TOKENS)), ...prompts.fresh(tokens % BLOCK_TOKENS + added)];
      tokens += added;
      at += outputTokens * 15 + exponential(random, pauseMs);
    }
  }
  return requests.sort((a, b) => a.at - b.at);
}

/** Each request comes up to half a second sooner or later: what differs less than such traces is not to be trusted. */
export function shaken({ name, requests }: Trace, seed: number): Trace {
  const random = new Random(seed);
  const moved = requests.map((request) => ({ ...request, at: Math.max(0, request.at + 1_000 * random.next() - 500) }));
  return { name, requests: moved.sort((a, b) => a.at - b.at) };
}

/** A workload by name. Throws Error for a name that there is not. */
export function makeTrace(name: string, seed: number, count = 4_000): Trace {
  const make = WORKLOADS[name];
  if (!make) throw new Error(`There is no workload ${name}; there are: ${Object.keys(WORKLOADS).join(" ")}`);
  return { name, requests: make(new Random(seed), count) };
}

/** Share of the prompt tokens that one infinite cache would hold. */
export function idealHitRatio(requests: TraceRequest[]): number {
  const seen = new Set<number>();
  let hits = 0;
  let tokens = 0;
  for (const { blocks, inputTokens } of requests) {
    let n = 0;
    while (n < blocks.length && seen.has(blocks[n])) n++;
    hits += Math.min(n * BLOCK_TOKENS, inputTokens);
    tokens += inputTokens;
    for (const block of blocks) seen.add(block);
  }
  return hits / tokens;
}
