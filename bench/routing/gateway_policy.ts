// SPDX-License-Identifier: Apache-2.0
// The gateway's own policies in the simulation: the real kernel, tables, prefix index and accounting decide.

import { policyOf } from "../../src/scheduler/policy.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { PolicyName } from "../../src/config/sections.ts";
import { DecisionMaker, type HashedPrompt } from "../../src/scheduler/decision.ts";
import { type Placement, placementSalt } from "../../src/scheduler/placement.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { type RequestRow, RequestTable } from "../../src/tables/request_table.ts";
import { freshKernel } from "../../test/support/kernel.ts";
import type { Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";

const BYTES_PER_TOKEN = 4;
const CHUNK_BYTES = 512;
const CHUNKS_A_BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN / CHUNK_BYTES;

export class GatewayPolicy implements RoutingPolicy {
  readonly #decisions: DecisionMaker;
  readonly #requests: RequestTable;
  readonly #placement: Placement;
  readonly #rows: number[];
  readonly #open = new Map<Job, { row: RequestRow; prompt: HashedPrompt }>();

  constructor(readonly fleet: Fleet, seed: number, algorithm: PolicyName) {
    const { engines } = fleet;
    const kernel = freshKernel({
      endpoints: engines.length + 16,
      requestsPerWorker: 65_536,
      prefixes: 1_048_576,
      promptChunks: 4_096,
      ringWords: 1_024,
    }, seed);
    const table = new EndpointTable(kernel);
    const capacity = Math.floor(engines[0].profile.kvBlocks * CHUNKS_A_BLOCK);
    this.#rows = engines.map((_, i) => table.add(0, { hostname: "engine", port: 1 + i }, capacity, 0));
    this.#decisions = new DecisionMaker(kernel);
    this.#requests = new RequestTable(kernel);
    const policy = policyOf(parseConfig({ algorithm }), "m");
    this.#placement = { cluster: 0, eligibility: 1, salt: placementSalt("c", ""), adapter: 0, policy };
  }

  arrive(job: Job): void {
    const prompt = promptOf(job, this.#placement.policy.cacheAware);
    const row = this.#requests.tryOpen(0, 0, prompt.bytes, this.fleet.now)!;
    this.#decisions.resume(prompt, this.#placement, []);
    const endpoint = this.#decisions.choose(this.#placement, prompt.bytes);
    row.grant(endpoint, this.#decisions.matchedChunks);
    row.dispatch();
    this.#decisions.remember(prompt, this.#placement.salt, endpoint);
    this.#open.set(job, { row, prompt });
    this.fleet.send(job, this.#rows.indexOf(endpoint));
  }

  firstToken(job: Job): void {
    this.#open.get(job)!.row.firstToken();
  }

  end(job: Job): void {
    this.#open.get(job)!.row.release();
    this.#open.delete(job);
  }
}

// Hashes of chunks of 512 bytes, made of the ids of the blocks that they are in.
function promptOf({ blocks, inputTokens }: Job, hashed: boolean): HashedPrompt {
  const bytes = inputTokens * BYTES_PER_TOKEN;
  const chunks = hashed ? Math.min(Math.ceil(bytes / CHUNK_BYTES), 4_096) : 0;
  const hashes = new Int32Array(2 * chunks);
  for (let i = 0; i < chunks; i++) {
    const id = (blocks[Math.floor(i / CHUNKS_A_BLOCK)] + 1) * CHUNKS_A_BLOCK + i % CHUNKS_A_BLOCK;
    hashes[2 * i] = Math.imul(id, 0x9e3779b1);
    hashes[2 * i + 1] = Math.imul(id ^ 0x5bd1e995, 0x85ebca6b);
  }
  return { bytes, chunks, hashes };
}
