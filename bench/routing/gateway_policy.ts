// SPDX-License-Identifier: Apache-2.0
// The gateway's own policies in the simulation: the product's scheduler on a virtual clock, with its kernel, tables, queue,
// trainer and accounting. Only the prompts are the simulation's: they have block ids in place of text.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { type Clock, ManualClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { Random } from "../../src/base/random.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Config } from "../../src/config/schema.ts";
import type { PolicyName } from "../../src/config/sections.ts";
import { SlotLimit } from "../../src/control/slots.ts";
import { Trainer } from "../../src/control/trainer.ts";
import { TrainerState } from "../../src/control/trainer_state.ts";
import { type HashedPrompt, PresumedCaches } from "../../src/scheduler/cache_knowledge.ts";
import { DecisionMaker } from "../../src/scheduler/decision.ts";
import { HiddenPrefills } from "../../src/scheduler/hidden_prefills.ts";
import { type Placement, placementSalt } from "../../src/scheduler/placement.ts";
import { policyOf } from "../../src/scheduler/policy.ts";
import { presumeFirstToken, type Presumption } from "../../src/scheduler/presumption.ts";
import { queueLimits } from "../../src/scheduler/queue_limits.ts";
import type { Ask, Grant } from "../../src/scheduler/scheduler.ts";
import { SharedQueue } from "../../src/scheduler/shared_queue.ts";
import { BlockIndex } from "../../src/tables/block_index.ts";
import { EndpointPulse } from "../../src/tables/endpoint_pulse.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { GrantWatch } from "../../src/tables/grant_watch.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { SampleReader, SampleWriter } from "../../src/tables/sample_ring.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { Log } from "../../src/telemetry/log.ts";
import { freshKernels } from "../../test/support/kernel.ts";
import { blocksOf, type EventDelay, listen } from "./exact_caches.ts";
import { GOOD_TPOT_MS, GOOD_TTFT_MS } from "./report.ts";
import type { EngineProfile } from "../../src/mock/engine_model.ts";
import type { Disturbance, Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";

const BYTES_PER_TOKEN = 4;
const CHUNK_BYTES = 512;
/** Of a block of the trace. */
const CHUNKS_A_BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN / CHUNK_BYTES;
/** How often the trainer looks at its rings, and metrics are scraped. */
const TRAIN_MS = 100;
const SCRAPE_MS = 100;
/** Band of standard priority. */
const STANDARD = 1_000;

interface Open {
  readonly grant: Grant;
  readonly presumption: Presumption | undefined;
}

export interface GatewayOptions {
  readonly algorithm: PolicyName;
  readonly seed: number;
  readonly disturbance: Disturbance;
  /** The engines tell what they hold, so late; undefined: it is presumed. */
  readonly exact?: EventDelay;
  /** Weights by tenant of the trace; one tenant without them. */
  readonly weights?: readonly number[];
  /** Overrides of the config's queue section. */
  readonly queue?: Record<string, unknown>;
}

/** Time as the simulation has it. */
class FleetClock implements Clock {
  constructor(readonly fleet: Fleet) {}
  readonly now = (): number => this.fleet.now;
  readonly wall = (): number => this.fleet.now;
  readonly shared = (): number => this.fleet.now;
  after(ms: number, callback: () => void): () => void {
    let cancelled = false;
    this.fleet.after(ms, () => {
      if (!cancelled) callback();
    });
    return () => cancelled = true;
  }
}

/** Knows prompts by the names of their jobs. */
class JobCaches extends PresumedCaches {
  /** `blockTokens` of engines that tell what they hold; 0 when they do not. */
  constructor(kernel: AttachedKernel, readonly jobs: ReadonlyMap<string, Job>, readonly blockTokens: number) {
    super(kernel);
  }

  override keysOf(text: string, placement: Placement): HashedPrompt {
    const job = this.jobs.get(text)!;
    const prompt = promptOf(job, placement.policy.cacheAware);
    if (this.blockTokens > 0) prompt.asked = blocksOf(job, this.blockTokens);
    this.match(prompt, placement);
    return prompt;
  }

  // Hashes of jobs have arrays of their own.
  override retire(): void {}
}

export class GatewayPolicy implements RoutingPolicy {
  readonly #config: Config;
  readonly #decisions: DecisionMaker;
  readonly #scheduler: SharedQueue;
  readonly #deadlines: Deadlines;
  readonly #endpoints: EndpointTable;
  readonly #placement: Placement;
  readonly #rows: number[];
  readonly #engineOf = new Map<number, number>();
  /** Jobs that came and have not ended, by what stands for their prompts. */
  readonly #jobs = new Map<string, Job>();
  readonly #open = new Map<Job, Open>();
  readonly #samples: SampleWriter;
  readonly #trainer: Trainer | undefined;
  readonly #hidden: HiddenPrefills;
  readonly #slots: SlotLimit[];
  readonly #tenants: boolean;
  readonly #kernel: AttachedKernel;

  constructor(readonly fleet: Fleet, { algorithm, seed, disturbance, queue, weights, exact }: GatewayOptions) {
    const { engines } = fleet;
    const [control, kernel] = freshKernels({
      workers: 2,
      endpoints: engines.length + 16,
      requestsPerWorker: 131_072,
      prefixes: 1_048_576,
      promptChunks: 4_096,
      ringWords: 1_024,
      blocks: 524_288,
      tenants: weights?.length ?? 1,
    }, seed);
    // The bench measures every wait to its end, however long it is.
    const patient = { requests: 1_048_576, bytes: 1_073_741_824, max_wait_ms: 86_400_000 };
    const config = this.#config = parseConfig({
      algorithm,
      queue: queue ?? {},
      admission: { critical: patient, standard: patient, batch: patient },
    });
    writeQueueParameters(control, config.queue, BYTES_PER_TOKEN);
    (weights ?? [1]).forEach((weight, tenant) => writeTenant(control, tenant, { weight }));
    this.#tenants = weights !== undefined;
    this.#kernel = kernel;
    this.#endpoints = new EndpointTable(control);
    this.#rows = engines.map(({ profile }, i) =>
      this.#endpoints.add(0, { hostname: "engine", port: 1 + i }, chunksOf(profile), 0)
    );
    this.#rows.forEach((row, engine) => {
      this.#engineOf.set(row, engine);
      const { prefillChunkTokens, longPrefillTokens = prefillChunkTokens } = engines[engine].profile;
      this.#endpoints.limits.setParallel(row, Math.max(1, Math.floor(prefillChunkTokens / longPrefillTokens)));
    });
    if (exact !== undefined) listen(fleet, new BlockIndex(control), this.#rows, exact, new Random(seed));
    const clock = new FleetClock(fleet);
    this.#decisions = new DecisionMaker(
      kernel,
      new JobCaches(kernel, this.#jobs, exact ? engines[0].profile.blockTokens : 0),
    );
    this.#deadlines = new Deadlines(clock);
    this.#scheduler = new SharedQueue({
      pulse: new EndpointPulse(kernel),
      decisions: this.#decisions,
      requests: new RequestTable(kernel),
      endpoints: this.#endpoints,
      clock,
      deadlines: this.#deadlines,
      grants: new GrantWatch(kernel),
    });
    this.#samples = new SampleWriter(kernel);
    this.#hidden = new HiddenPrefills(control);
    this.#slots = engines.map(() => new SlotLimit(undefined));
    this.#placement = {
      cluster: 0,
      eligibility: 1,
      salt: placementSalt("c", ""),
      adapter: 0,
      policy: policyOf(config, "m"),
    };
    const rows = () => this.#rows.map((row, i): [string, number] => [String(i), row]);
    const trainer = this.#trainer = new Trainer({
      table: new PredictorTable(control),
      reader: new SampleReader(control),
      config,
      endpoints: { table: this.#endpoints, rows },
      clock: new ManualClock(),
      state: new TrainerState(undefined, new Log("error", "bench")),
    });
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
    this.#jobs.set(String(job.index), job);
    const ask: Ask = {
      placement: this.#placement,
      prompt: String(job.index),
      model: 0,
      flow: { band: STANDARD, tenant: this.#tenants ? job.tenant : 0, deadlineMs: 0 },
      reserved: { inputTokens: 0, outputTokens: 0 },
      queue: queueLimits(this.#config),
      objectives: { ttftMs: GOOD_TTFT_MS, tpotMs: GOOD_TPOT_MS },
      preempt() {},
      hidden: job.hidden,
    };
    this.#scheduler.acquire(ask, () => {}).then((grant) => this.#send(job, grant), () => {
      this.#jobs.delete(String(job.index));
      this.fleet.refuse(job);
    });
    this.fleet.unsettled();
  }

  #send(job: Job, grant: Grant): void {
    const { leg, prompt } = grant;
    const { row } = leg.endpoint;
    leg.sent();
    leg.remember();
    const engine = this.#engineOf.get(row)!;
    // The metadata center tells the others which engine holds the prompt.
    this.fleet.tellOthers((other) => (other as GatewayPolicy).saved(prompt, engine));
    job.pendingTokens = Math.max(0, job.inputTokens - leg.matchedBytes / BYTES_PER_TOKEN);
    const { first_token_margin } = this.#config.prediction;
    const presumption = job.hidden ? presumeFirstToken(grant, this.#deadlines, first_token_margin) : undefined;
    this.#open.set(job, { grant, presumption });
    this.fleet.send(job, engine);
  }

  // The engines' waiting counts tell which prefills are over whose first token was not seen, and how many they run at once.
  #scrape(ageMs: number): void {
    const table = this.#endpoints;
    const step = this.#config.queue.room_tokens * BYTES_PER_TOKEN;
    this.fleet.gauges.forEach(({ waiting, running, generated, kvUsage }, engine) => {
      const row = this.#rows[engine];
      table.setGauges(row, { waiting, running, kvUsage });
      const { now } = this.fleet;
      const done = this.#hidden.observe(row, waiting, now - ageMs, now);
      const oldestMs = this.#hidden.oldestMs(row, now - ageMs, now);
      const prefilling = table.uncachedBytes(row) + table.remotePromptBytes(row) >= step;
      const remote = table.remoteRequests(row);
      table.limits.set(
        row,
        "slots",
        this.#slots[engine].observe({
          waiting,
          running,
          generated,
          remote,
          prefilling,
          oldestMs,
          atMs: now,
        }),
      );
      if (done > 0 || waiting === 0) {
        this.#scheduler.roomAt(this.#placement.cluster, row);
      }
    });
    this.fleet.unsettled();
  }

  firstToken(job: Job): void {
    const { leg } = this.#open.get(job)!.grant;
    const prefillMs = leg.firstToken();
    if (this.#trainer) {
      this.#samples.write({
        model: 0,
        endpoint: leg.endpoint.row,
        promptBytes: job.inputTokens * BYTES_PER_TOKEN,
        promptTokens: job.inputTokens,
        cachedTokens: job.cachedTokens,
        prefillMs,
        tpotMs: NaN,
        batch: NaN,
        predicted: NaN,
      });
    }
    this.fleet.unsettled();
  }

  end(job: Job): void {
    const { grant, presumption } = this.#open.get(job)!;
    presumption?.[Symbol.dispose]();
    grant[Symbol.dispose]();
    if (this.#tenants) this.#kernel.exports.serve(job.tenant, job.outputTokens * BYTES_PER_TOKEN);
    this.#open.delete(job);
    this.#jobs.delete(String(job.index));
    this.fleet.unsettled();
  }

  close(): void {
    this.#scheduler.close();
    this.#deadlines.close();
  }

  /** An engine holds a prompt that went there through another gateway. */
  saved(prompt: HashedPrompt, engine: number): void {
    this.#decisions.caches.remember(prompt, this.#placement.salt, this.#rows[engine]);
  }

  setRemote(inFlight: readonly number[], promptTokens: readonly number[]): void {
    this.#rows.forEach((row, engine) =>
      this.#endpoints.setRemote(row, inFlight[engine], promptTokens[engine] * BYTES_PER_TOKEN)
    );
  }
}

// Chunks that a cache of this size holds.
function chunksOf({ kvBlocks, blockTokens }: EngineProfile): number {
  return Math.floor(kvBlocks * blockTokens * BYTES_PER_TOKEN / CHUNK_BYTES);
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
  return { bytes, chunks, hashes, known: false };
}
