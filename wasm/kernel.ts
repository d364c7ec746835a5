// SPDX-License-Identifier: Apache-2.0
// The only code that instantiates the kernel. The supervisor compiles the module once, plans and creates the shared
// memory; every thread then attaches an instance of its own to its worker area.

import type * as Kernel from "./kernel.wasm";

/** Sizes that the memory is planned from. All are fixed for the life of the process. */
export interface MemoryLimits {
  /** Worker areas, the control plane's area 0 included. */
  workers: number;
  clusters: number;
  /** Endpoint rows over all clusters; rounded up to groups of 16. */
  endpoints: number;
  requestsPerWorker: number;
  /** Prefix index slots; rounded up to a power of two buckets of 8. */
  prefixes: number;
  /** Most chunks of 512 bytes of one prompt that are hashed. */
  promptChunks: number;
  /** Metric cells (f64) of each worker. */
  metricCells: number;
  /** Words of each worker's save ring, a power of two. */
  ringWords: number;
  /** Stored responses whose engine is remembered; rounded up to a power of two buckets of 8. */
  responses: number;
  /** Models of latency that are learned: two for each model, TTFT and decode step. */
  predictors: number;
  /** Tenants; row 0 is for those without one. */
  tenants: number;
  /** Blocks of engines' caches that are known; rounded up to a power of two buckets of 8. */
  blocks: number;
}

/** The kernel's functions and layout constants over one attached memory. */
export type KernelExports = {
  readonly [Name in keyof typeof Kernel]: (typeof Kernel)[Name] extends (...values: never[]) => unknown
    ? (typeof Kernel)[Name]
    : number;
};

/** A kernel instance bound to a memory and a worker area. Not thread-safe: one per thread and area. */
export interface AttachedKernel {
  readonly exports: KernelExports;
  readonly buffer: SharedArrayBuffer;
  /** Worker area; 0 is the control plane's. */
  readonly worker: number;
}

/** Everything a worker thread needs to attach; structured-cloneable. */
export interface SharedKernel {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
}

const PAGE_BYTES = 65_536;
const MAX_BYTES = 4 * 1024 ** 3 - PAGE_BYTES;

/** Compiles the committed binary. */
export async function compileKernel(): Promise<WebAssembly.Module> {
  return await WebAssembly.compile(await Deno.readFile(new URL("./kernel.wasm", import.meta.url)));
}

/** Creates a zeroed shared memory for the limits and writes its header. Throws RangeError when they exceed 4 GiB. */
export function createSharedKernel(module: WebAssembly.Module, limits: MemoryLimits): SharedKernel {
  const bytes = planned(unattached(module), limits);
  if (bytes > MAX_BYTES) {
    const gib = (bytes / 1024 ** 3).toFixed(1);
    throw new RangeError(
      `The limits ask for ${gib} GiB of shared memory, at most 4 GiB can be addressed: lower limits.endpoints, limits.requests_in_flight, limits.prefixes, limits.kv_blocks or limits.prompt_chunks`,
    );
  }
  const pages = Math.ceil(bytes / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const formatter = instantiate(module, memory);
  writeLimits(formatter, memory, limits);
  formatter.format(layoutHash(module));
  return { module, memory };
}

// The header of a memory is what the kernel reads its limits from.
function writeLimits(k: KernelExports, memory: WebAssembly.Memory, limits: MemoryLimits): void {
  const words = new Uint32Array(memory.buffer);
  words[k.HEADER_WORKERS] = limits.workers;
  words[k.HEADER_CLUSTERS] = limits.clusters;
  words[k.HEADER_ENDPOINTS] = limits.endpoints;
  words[k.HEADER_REQUESTS] = limits.requestsPerWorker;
  words[k.HEADER_BUCKETS] = bucketsOf(limits.prefixes, k.BUCKET_SLOTS);
  words[k.HEADER_CHUNKS] = limits.promptChunks;
  words[k.HEADER_CELLS] = limits.metricCells;
  words[k.HEADER_RING] = limits.ringWords;
  words[k.HEADER_RESPONSES] = bucketsOf(limits.responses, k.RESPONSE_BUCKET_ENTRIES);
  words[k.HEADER_PREDICTORS] = limits.predictors;
  words[k.HEADER_TENANTS] = limits.tenants;
  words[k.HEADER_BLOCKS] = bucketsOf(limits.blocks, k.BUCKET_SLOTS);
}

function bucketsOf(entries: number, each: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, entries / each)));
}

const ATTACH_ERRORS = [
  "",
  "this is not a memory of AIGW (wrong magic)",
  "the memory has another layout version",
  "the memory was laid out by another build of the kernel",
  "there is no such worker area",
  "the memory is smaller than its header says",
];

/** Attaches an instance to a worker area; `seed` feeds its random choices. Throws when the memory is not of this layout. */
export function attachKernel(shared: SharedKernel, worker: number, seed: number): AttachedKernel {
  const kernel = instantiate(shared.module, shared.memory);
  const code = kernel.attach(worker, layoutHash(shared.module));
  if (code !== 0) throw new Error(`Cannot attach to the shared memory as worker ${worker}: ${ATTACH_ERRORS[code]}`);
  kernel.seedRandom(seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0);
  return { exports: kernel, buffer: shared.memory.buffer as unknown as SharedArrayBuffer, worker };
}

/** Limits of the memory that a layout is looked at with. */
const SAMPLE_LIMITS: MemoryLimits = {
  workers: 2,
  clusters: 2,
  endpoints: 32,
  requestsPerWorker: 2,
  prefixes: 16,
  promptChunks: 2,
  metricCells: 2,
  ringWords: 16,
  responses: 16,
  predictors: 4,
  tenants: 2,
  blocks: 16,
};

const hashes = new WeakMap<WebAssembly.Module, number>();

/** Hash of a build's layout: two builds that place anything elsewhere have different ones. */
export function layoutHash(module: WebAssembly.Module): number {
  const known = hashes.get(module);
  if (known !== undefined) return known;
  const hash = hashOf(layoutOf(module));
  hashes.set(module, hash);
  return hash;
}

/** Every exported constant by its name, and where every region and its second row begin. */
export function layoutOf(module: WebAssembly.Module): Map<string, number> {
  const kernel = unattached(module);
  planned(kernel, SAMPLE_LIMITS);
  const layout = new Map<string, number>();
  for (const [name, value] of Object.entries(kernel.exports as Record<string, unknown>)) {
    if (typeof value === "number") layout.set(name, value);
    else if (typeof value === "function" && name.endsWith("Offset")) {
      for (const row of [0, 1]) layout.set(`${name} ${row}`, value(row));
    }
  }
  return layout;
}

/** FNV-1a over the lines of a layout. */
export function hashOf(layout: ReadonlyMap<string, number>): number {
  let hash = 0x811c9dc5;
  for (const [name, value] of layout) {
    for (const character of `${name} ${value}\n`) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  }
  return hash >>> 0;
}

interface Unattached {
  exports: KernelExports;
  memory: WebAssembly.Memory;
}

/** A kernel over a page of its own. */
function unattached(module: WebAssembly.Module): Unattached {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  return { exports: instantiate(module, memory), memory };
}

/** Bytes that a memory of these limits takes; the kernel's offsets are those of such a memory. */
function planned({ exports, memory }: Unattached, limits: MemoryLimits): number {
  writeLimits(exports, memory, limits);
  return exports.plan();
}

function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): KernelExports {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const flat: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(exports)) {
    flat[name] = value instanceof WebAssembly.Global ? value.value : value;
  }
  return flat as KernelExports;
}
