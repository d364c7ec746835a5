// SPDX-License-Identifier: Apache-2.0
// The gateway's own policies in the simulation: the real kernel, tables, prefix index, queue, trainer and accounting
// decide, on the virtual clock.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { PolicyName } from "../../src/config/sections.ts";
import { DecisionMaker, type HashedPrompt, QUEUED } from "../../src/scheduler/decision.ts";
import { HiddenPrefills } from "../../src/scheduler/hidden_prefills.ts";
import { type Placement, placementSalt } from "../../src/scheduler/placement.ts";
import { policyOf } from "../../src/scheduler/policy.ts";
import { Trainer } from "../../src/control/trainer.ts";
import { TrainerState } from "../../src/control/trainer_state.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestPhase, type RequestRow, RequestTable } from "../../src/tables/request_table.ts";
import { SampleReader, SampleWriter } from "../../src/tables/sample_ring.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { Log } from "../../src/telemetry/log.ts";
import { freshKernels } from "../../test/support/kernel.ts";
import { GOOD_TPOT_MS, GOOD_TTFT_MS } from "./report.ts";
import type { Disturbance, Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";

const BYTES_PER_TOKEN = 4;
const CHUNK_BYTES = 512;
const CHUNKS_A_BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN / CHUNK_BYTES;
/** How often the trainer looks at its rings, and metrics are scraped. */
const TRAIN_MS = 100;
const SCRAPE_MS = 100;
/** How often waiting requests look their prompts up again. */
const REFRESH_MS = 50;
const MARGIN = 1.2;
/** Band of standard priority. */
const STANDARD = 1_000;

interface Open {
  readonly job: Job;
  readonly row: RequestRow;
  readonly prompt: HashedPrompt;
  pinned: number;
}

export interface GatewayOptions {
  readonly algorithm: PolicyName;
  readonly seed: number;
  readonly disturbance: Disturbance;
  /** Weights by tenant of the trace; one tenant without them. */
  readonly weights?: readonly number[];
  /** Overrides of the config's queue section. */
  readonly queue?: Record<string, number>;
}

export class GatewayPolicy implements RoutingPolicy {
  readonly #decisions: DecisionMaker;
  readonly #requests: RequestTable;
  readonly #endpoints: EndpointTable;
  readonly #placement: Placement;
  readonly #rows: number[];
  readonly #engineOf = new Map<number, number>();
  readonly #open = new Map<Job, Open>();
  readonly #waiting = new Map<Job, Open>();
  readonly #samples: SampleWriter;
  readonly #trainer: Trainer | undefined;
  readonly #hidden: HiddenPrefills;
  #refreshing = false;
  #refreshed = 0;

  readonly #tenants: boolean;
  readonly #kernel: AttachedKernel;

  constructor(readonly fleet: Fleet, { algorithm, seed, disturbance, queue, weights }: GatewayOptions) {
    const { engines } = fleet;
    const [control, kernel] = freshKernels({
      workers: 2,
      endpoints: engines.length + 16,
      requestsPerWorker: 131_072,
      prefixes: 1_048_576,
      promptChunks: 4_096,
      ringWords: 1_024,
      tenants: weights?.length ?? 1,
    }, seed);
    const config = parseConfig({ algorithm, queue: queue ?? {} });
    writeQueueParameters(control, config.queue, BYTES_PER_TOKEN);
    const shares = weights ?? [1];
    shares.forEach((weight, tenant) => writeTenant(control, tenant, { weight }));
    this.#tenants = weights !== undefined;
    this.#kernel = kernel;
    this.#endpoints = new EndpointTable(control);
    this.#rows = engines.map(({ profile }, i) =>
      this.#endpoints.add(0, { hostname: "engine", port: 1 + i }, profile.kvBlocks * CHUNKS_A_BLOCK, 0)
    );
    this.#rows.forEach((row, engine) => this.#engineOf.set(row, engine));
    this.#decisions = new DecisionMaker(kernel);
    this.#requests = new RequestTable(kernel);
    this.#samples = new SampleWriter(kernel);
    this.#hidden = new HiddenPrefills(control);
    this.#placement = {
      cluster: 0,
      eligibility: 1,
      salt: placementSalt("c", ""),
      adapter: 0,
      policy: policyOf(config, "m"),
    };
    const rows = () => this.#rows.map((row, i): [string, number] => [String(i), row]);
    const trainer = this.#trainer = new Trainer(
      new PredictorTable(control),
      new SampleReader(control),
      config,
      { table: this.#endpoints, rows },
      new ManualClock(),
      new TrainerState(undefined, new Log("error", "bench")),
    );
    trainer.setModels(new Map([["m", 0]]));
    trainer.endpointsChanged();
    if (disturbance.rateError !== undefined) {
      this.#rows.forEach((row, i) => {
        const { prefillTokensPerSecond } = engines[i].profile;
        const speed = disturbance.speeds[i] ?? 1;
        const rate = 1_000 / (prefillTokensPerSecond * speed * BYTES_PER_TOKEN);
        this.#endpoints.setRate(row, rate * disturbance.rateError!);
      });
      this.#trainer = undefined;
    } else this.#every(TRAIN_MS, () => this.#trainer!.train());
    if (disturbance.metricsAgeMs !== Infinity) {
      this.#every(Math.max(SCRAPE_MS, disturbance.metricsAgeMs), () => this.#scrape(disturbance.metricsAgeMs));
    }
  }

  #every(ms: number, call: () => void): void {
    this.fleet.after(ms, () => {
      call();
      if (this.fleet.busy) this.#every(ms, call);
    });
  }

  arrive(job: Job): void {
    const prompt = promptOf(job, this.#placement.policy.cacheAware);
    const row = this.#requests.tryOpen(0, 0, prompt.bytes)!;
    this.#decisions.resume(prompt, this.#placement, []);
    const open = { job, row, prompt, pinned: 0 };
    if (!this.#placement.policy.queued) {
      this.#decisions.setObjectives(GOOD_TTFT_MS, GOOD_TPOT_MS);
      const endpoint = this.#decisions.choose(this.#placement, prompt.bytes, 0, this.fleet.now);
      row.grant(endpoint, this.#decisions.matchedBytes, this.fleet.now);
      this.#send(open);
      return;
    }
    const standing = { band: STANDARD, tenant: this.#tenants ? job.tenant : 0, deadlineMs: 0 };
    if (this.#decisions.arrive(row, this.#placement, standing, this.fleet.now) === QUEUED) {
      this.#waiting.set(job, open);
      this.#refresh();
    } else this.#send(open);
  }

  #send(open: Open): void {
    const { job, row, prompt } = open;
    row.dispatch(this.fleet.now, job.hidden);
    // The metadata center tells the others which engine holds the prompt.
    const holder = this.#engineOf.get(row.endpoint)!;
    this.fleet.tellOthers((other) => (other as GatewayPolicy).saved(prompt, holder));
    open.pinned = this.#decisions.pin(prompt, this.#placement.salt, row.endpoint);
    this.#open.set(job, open);
    job.pendingTokens = Math.max(0, job.inputTokens - row.cachedBytes / BYTES_PER_TOKEN);
    const engine = this.#engineOf.get(row.endpoint)!;
    if (job.hidden) {
      const rate = this.#endpoints.rate(row.endpoint);
      this.fleet.after(MARGIN * rate * (row.uncachedBytes + row.aheadBytes), () => this.#presume(open));
    }
    this.fleet.send(job, engine);
  }

  #presume({ job, row }: Open): void {
    if (!this.#open.has(job)) return;
    row.firstToken(this.fleet.now);
    this.#fill(row.endpoint);
  }

  #fill(endpoint: number): void {
    if (this.#waiting.size > 0) this.#sendGranted(this.#decisions.fill(0, endpoint, this.fleet.now));
  }

  #sendGranted(count: number): void {
    if (count === 0) return;
    for (const [job, open] of this.#waiting) {
      if (open.row.phase !== RequestPhase.granted) continue;
      this.#waiting.delete(job);
      this.#send(open);
      if (--count === 0) return;
    }
  }

  // As the workers do: waiting requests look up again who holds their prompts, and nobody waits for an idle endpoint.
  #refresh(): void {
    if (this.#refreshing || this.#waiting.size === 0) return;
    this.#refreshing = true;
    this.fleet.after(REFRESH_MS, () => {
      this.#refreshing = false;
      const all = [...this.#waiting.values()];
      for (let i = 0; i < Math.min(64, all.length); i++) {
        const { row, prompt } = all[(this.#refreshed + i) % all.length];
        this.#decisions.refresh(row, prompt, this.#placement, this.fleet.now);
      }
      this.#refreshed += 64;
      this.#sendGranted(this.#decisions.fillAll(0, this.fleet.now));
      this.#refresh();
    });
  }

  // The engines' waiting counts tell which prefills are over whose first token was not seen.
  #scrape(ageMs: number): void {
    this.fleet.gauges.forEach(({ waiting, kvUsage }, engine) => {
      const row = this.#rows[engine];
      this.#endpoints.setGauges(row, { waiting, running: NaN, kvUsage });
      if (this.#hidden.observe(row, waiting, this.fleet.now - ageMs, this.fleet.now) > 0) this.#fill(row);
    });
  }

  firstToken(job: Job): void {
    const { row } = this.#open.get(job)!;
    const prefillMs = row.firstToken(this.fleet.now);
    if (this.#trainer) {
      this.#samples.write({
        model: 0,
        endpoint: row.endpoint,
        promptBytes: job.inputTokens * BYTES_PER_TOKEN,
        promptTokens: job.inputTokens,
        cachedTokens: job.cachedTokens,
        prefillMs,
        tpotMs: NaN,
        batch: NaN,
        predicted: NaN,
      });
    }
    this.#fill(row.endpoint);
  }

  end(job: Job): void {
    const { row, prompt, pinned } = this.#open.get(job)!;
    const { endpoint } = row;
    this.#decisions.unpin(prompt, pinned, this.#placement.salt, endpoint);
    row.release();
    if (this.#tenants) this.#kernel.exports.serve(job.tenant, job.outputTokens * BYTES_PER_TOKEN);
    this.#open.delete(job);
    if (job.hidden) this.#fill(endpoint);
  }

  /** An engine holds a prompt that went there through another gateway. */
  saved(prompt: HashedPrompt, engine: number): void {
    this.#decisions.remember(prompt, this.#placement.salt, this.#rows[engine]);
  }

  setRemote(inFlight: readonly number[], promptTokens: readonly number[]): void {
    this.#rows.forEach((row, engine) =>
      this.#endpoints.setRemote(row, inFlight[engine], promptTokens[engine] * BYTES_PER_TOKEN)
    );
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
