// SPDX-License-Identifier: Apache-2.0
// Request traces: arrival times, lengths, and which blocks of 512 tokens their prompts share. Read from the Mooncake and
// Azure formats, or made from a seed.

import { Random } from "../../src/base/random.ts";

export const BLOCK_TOKENS = 512;

export interface TraceRequest {
  /** Milliseconds from the trace's beginning. */
  at: number;
  inputTokens: number;
  outputTokens: number;
  /** Ids of the prompt's blocks; equal ids at the same place are equal prefixes. */
  blocks: number[];
  tenant: number;
}

export interface Trace {
  name: string;
  requests: TraceRequest[];
}

/** Reads a trace file by its ending: .jsonl is Mooncake's format, .csv Azure's. Throws Error for anything else. */
export async function readTrace(path: string): Promise<Trace> {
  const text = await Deno.readTextFile(path).catch((error: Error) => {
    throw new Error(`${path}: cannot be read: ${error.message}`);
  });
  const name = path.slice(path.lastIndexOf("/") + 1).replace(/\.[a-z]+$/, "");
  if (path.endsWith(".jsonl")) return { name, requests: checked(path, mooncake(path, text)) };
  if (path.endsWith(".csv")) return { name, requests: checked(path, azure(path, text)) };
  throw new Error(`${path}: expected a .jsonl file in Mooncake's format or a .csv file in Azure's`);
}

function checked(path: string, requests: TraceRequest[]): TraceRequest[] {
  if (requests.length === 0) throw new Error(`${path}: there is no request in it`);
  return requests;
}

/** Throws Error with file and line when a value is no number from 0 on. */
function count(path: string, line: number, name: string, value: unknown): number {
  const number = Number(value);
  if (value !== "" && value !== undefined && Number.isFinite(number) && number >= 0) return number;
  throw new Error(`${path}:${line}: expected a number as ${name}, found ${JSON.stringify(value) ?? "nothing"}`);
}

function mooncakeRow(path: string, text: string, line: number) {
  let row: Record<string, unknown>;
  try {
    row = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path}:${line}: ${(error as Error).message}`);
  }
  const number = (name: string) => count(path, line, name, row[name]);
  const ids = row.hash_ids;
  if (!Array.isArray(ids) || !ids.every(Number.isSafeInteger)) {
    throw new Error(`${path}:${line}: expected hash_ids, an array of whole numbers`);
  }
  return {
    timestamp: number("timestamp"),
    input_length: number("input_length"),
    output_length: number("output_length"),
    hash_ids: ids as number[],
  };
}

// Times are ticks of 3 s: the rows of one tick are spread evenly over it.
function mooncake(path: string, text: string): TraceRequest[] {
  const rows = text.trimEnd().split("\n").map((line, i) => mooncakeRow(path, line, i + 1));
  const requests: TraceRequest[] = [];
  for (let i = 0; i < rows.length;) {
    let end = i;
    while (end < rows.length && rows[end].timestamp === rows[i].timestamp) end++;
    const tick = (rows[end]?.timestamp ?? rows[i].timestamp + 3_000) - rows[i].timestamp;
    for (let k = i; k < end; k++) {
      const { timestamp, input_length, output_length, hash_ids } = rows[k];
      requests.push({
        at: timestamp + Math.min(tick, 3_000) * (k - i) / (end - i),
        inputTokens: Math.max(1, input_length),
        outputTokens: Math.max(1, output_length),
        blocks: hash_ids,
        tenant: 0,
      });
    }
    i = end;
  }
  return requests;
}

// Lengths only: no two prompts share anything.
function azure(path: string, text: string): TraceRequest[] {
  const lines = text.trimEnd().split(/\r?\n/).slice(1);
  let next = 1;
  const rows = lines.map((line, i) => {
    const [time, input, output] = line.split(",");
    const at = Date.parse(`${time.replace(" ", "T").slice(0, 23)}Z`);
    const inputTokens = Math.max(1, count(path, i + 2, "ContextTokens", input));
    return {
      at: count(path, i + 2, "TIMESTAMP, a date and time", Number.isNaN(at) ? undefined : at),
      inputTokens,
      outputTokens: Math.max(1, count(path, i + 2, "GeneratedTokens", output)),
      blocks: Array.from({ length: Math.ceil(inputTokens / BLOCK_TOKENS) }, () => next++),
      tenant: 0,
    };
  });
  return rows.map((row) => ({ ...row, at: row.at - rows[0].at }));
}

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
  heavy_tail(random, count) {
    const prompts = new Prompts();
    let at = 0;
    return Array.from({ length: count }, () => {
      at += exponential(random, 100);
      const inputTokens = Math.min(120_000, lengths(random, 1_500, 1.6));
      return { at, inputTokens, outputTokens: lengths(random, 200, 1), blocks: prompts.fresh(inputTokens), tenant: 0 };
    });
  },
};

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
