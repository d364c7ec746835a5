// SPDX-License-Identifier: Apache-2.0
// The layout of the one shared memory, defined here and nowhere else.
//
//   0 ┌────────┬──────────┬──────────────────┬────────────┬──────────┬─────────┬────────┐
//     │ header │ clusters │ endpoint columns │ identities │ requests │ waiting │ prefix │
//     │ 256 B  │ 128 each │ 4 × rows each    │ 272 each   │ 192 each │ bits    │ index  │
//     ├────────┴┬─────────┼─────────┬────────┬┴───────────┬──────────┼─────────┼────────┘
//     │ scratch │ metric  │ save    │ stored │ predictors │ samples  │ tenants │
//     │ /worker │ /worker │ /worker │ 16 ea. │ 384 each   │ /worker  │ 128 ea. │
//     └─────────┴─────────┴─────────┴────────┴────────────┴──────────┴─────────┘
//     and the block index
//
// Sizes come from the limits in the config, which stand in the header: `plan` computes them, `format` completes the header,
// `attach` refuses a memory of another layout. The memory never grows. Worker area 0 is the control plane's.
//
// The fields themselves stand in the files beside this one.

import { BLOCK_BYTES } from "./block";
import { CLASS_QUEUE_BYTES, CLUSTER_BYTES, CLUSTER_CLASSES, CLUSTER_FIRST_GROUP, ClusterRow } from "./cluster";
import { GROUP_ROWS, ENDPOINT_COLUMNS, IDENTITY_BYTES } from "./endpoint";
import { header, HEADER_BYTES, LAYOUT_VERSION, MAGIC } from "./header";
import { AVERAGES, PREDICTOR_BYTES } from "./predictor_row";
import { BUCKET_SLOTS, CHUNK_BYTES, ENTRY_BYTES, EPOCHS, HOLDERS, Match, MATCH_BYTES, matchAt } from "./prefix";
import { HISTOGRAM_BYTES, Question, QUESTION_BYTES, QUESTION_MATCH } from "./question";
import { REQUEST_BYTES, REQUEST_MATCH, RequestRow } from "./request_row";
import {
  RESPONSE_BUCKET_ENTRIES,
  RESPONSE_BYTES,
  RING_EPOCH,
  RING_HEADER_BYTES,
  RING_WALKING,
  SAMPLE_RING_BYTES,
} from "./rings";
import { TENANT_BYTES, TenantRow } from "./tenant";

@inline
function up(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// Region offsets: instance globals, set by `layOut`.
export let clusterBase: usize = 0;
export let nextGroupBase: usize = 0; // u32 a group: number + 1 of the cluster's next group
export let ordinalBase: usize = 0; // u32 a group: its place in the cluster's list
export let endpointBase: usize = 0;
export let identityBase: usize = 0;
export let requestBase: usize = 0;
export let waitingBase: usize = 0; // a bit for each request row, set while it waits
export let tenantBase: usize = 0;
export let averageBase: usize = 0;
export let keyBase: usize = 0;
export let entryBase: usize = 0;
export let epochBase: usize = 0; // u32 an epoch of each endpoint
export let blockKeyBase: usize = 0;
export let blockEntryBase: usize = 0;
export let scratchBase: usize = 0;
export let scratchBytes: usize = 0;
export let metricBase: usize = 0;
export let ringBase: usize = 0;
export let responseBase: usize = 0;
export let predictorBase: usize = 0;
export let sampleBase: usize = 0;

export let workers: u32 = 0;
export let clusters: u32 = 0;
export let endpoints: u32 = 0;
export let requestsPerWorker: u32 = 0;
export let buckets: u32 = 0;
export let blockBuckets: u32 = 0;
export let maxChunks: u32 = 0;
export let cells: u32 = 0;
export let ringWords: u32 = 0;
export let responseBuckets: u32 = 0;
export let predictors: u32 = 0;
export let tenants: u32 = 0;

// Regions inside one worker's scratch, from its start.
export let positionQueue: usize = 0; // f32 a position, +Inf when it is no candidate
export let positionPrompt: usize = 0; // f32
export let positionScore: usize = 0; // f32
export let positionGroup: usize = 0; // u32 a group of positions
export let allowedRows: usize = 0; // a bit for each endpoint row, where a choice is restricted
export let histogram: usize = 0;
export let hashes: usize = 0; // u64 a chunk
export let foundMatches: usize = 0; // HOLDERS of Match, while blocks are looked up
export let blockKeys: usize = 0; // u64 a block
export let promptText: usize = 0; // UTF-8
export let bodyText: usize = 0; // a request body, behind what was found in it

/** Bytes of the prompt text and of the region of the body. */
export let textBytes: u32 = 0;
export let bodyBytes: u32 = 0;

/** Most keys of blocks of one prompt, for each chunk of its text: one for 32 bytes. */
const KEYS_A_CHUNK: u32 = 16;
/** Most keys of blocks of one prompt. */
export let maxBlocks: u32 = 0;

/** What the region of the body has beside a body. */
const BODY_EXTRA: u32 = 256;

function layOut(): u64 {
  let at: u64 = HEADER_BYTES;
  clusterBase = <usize>at;
  at = up(at + <u64>clusters * CLUSTER_BYTES);
  const groups: u64 = endpoints / GROUP_ROWS;
  nextGroupBase = <usize>at;
  at = up(at + groups * 4);
  ordinalBase = <usize>at;
  at = up(at + groups * 4);
  endpointBase = <usize>at;
  at = up(at + <u64>endpoints * 4 * ENDPOINT_COLUMNS);
  identityBase = <usize>at;
  at = up(at + <u64>endpoints * IDENTITY_BYTES);
  requestBase = <usize>at;
  at = up(at + <u64>workers * requestsPerWorker * REQUEST_BYTES);
  waitingBase = <usize>at;
  at = up(at + (<u64>workers * requestsPerWorker + 31) / 32 * 4);
  keyBase = <usize>at;
  at = up(at + <u64>buckets * BUCKET_SLOTS * 8);
  entryBase = <usize>at;
  at = up(at + <u64>buckets * BUCKET_SLOTS * ENTRY_BYTES);
  epochBase = <usize>at;
  at = up(at + <u64>endpoints * EPOCHS * 4);
  let s: u64 = QUESTION_BYTES;
  positionQueue = <usize>s;
  s = up(s + <u64>endpoints * 4);
  positionPrompt = <usize>s;
  s = up(s + <u64>endpoints * 4);
  positionScore = <usize>s;
  s = up(s + <u64>endpoints * 4);
  positionGroup = <usize>s;
  s = up(s + groups * 4);
  allowedRows = <usize>s;
  s = up(s + <u64>endpoints / 8);
  histogram = <usize>s;
  s = up(s + HISTOGRAM_BYTES);
  hashes = <usize>s;
  s = up(s + <u64>maxChunks * 8);
  foundMatches = <usize>s;
  s = up(s + HOLDERS * MATCH_BYTES);
  blockKeys = <usize>s;
  maxBlocks = maxChunks * KEYS_A_CHUNK;
  s = up(s + <u64>maxBlocks * 8);
  promptText = <usize>s;
  textBytes = maxChunks * CHUNK_BYTES;
  s = up(s + textBytes);
  bodyText = <usize>s;
  bodyBytes = textBytes + BODY_EXTRA;
  s = up(s + bodyBytes);
  scratchBytes = <usize>s;
  scratchBase = <usize>at;
  at = up(at + <u64>workers * s);
  metricBase = <usize>at;
  at = up(at + <u64>workers * cells * 8);
  ringBase = <usize>at;
  at = up(at + <u64>workers * (RING_HEADER_BYTES + ringWords * 4));
  responseBase = <usize>at;
  at = up(at + <u64>responseBuckets * RESPONSE_BUCKET_ENTRIES * RESPONSE_BYTES);
  predictorBase = <usize>at;
  at = up(at + <u64>predictors * PREDICTOR_BYTES);
  sampleBase = <usize>at;
  at = up(at + <u64>workers * SAMPLE_RING_BYTES);
  tenantBase = <usize>at;
  at = up(at + <u64>tenants * TENANT_BYTES);
  averageBase = <usize>at;
  at = up(at + <u64>(predictors / 2) * AVERAGES * 4);
  blockKeyBase = <usize>at;
  at = up(at + <u64>blockBuckets * BUCKET_SLOTS * 8);
  blockEntryBase = <usize>at;
  at = up(at + <u64>blockBuckets * BUCKET_SLOTS * BLOCK_BYTES);
  return at;
}

// Takes the limits that stand in the header.
function readLimits(): void {
  workers = header().workers;
  clusters = header().clusters;
  endpoints = (header().endpoints + GROUP_ROWS - 1) & ~(GROUP_ROWS - 1);
  requestsPerWorker = header().requests;
  buckets = header().buckets;
  maxChunks = header().chunks;
  cells = header().cells;
  ringWords = header().ring;
  responseBuckets = header().responses;
  predictors = header().predictors;
  tenants = header().tenants;
  blockBuckets = header().blocks;
}

/**
 * Bytes that a memory takes for the limits that the caller wrote into the header, `workers` to `blocks`. The memory may
 * be a page that has no more than a header.
 */
export function plan(): f64 {
  readLimits();
  return <f64>layOut();
}

/** Completes the header of a fresh, zeroed memory that has the limits already, with the hash of its layout. */
export function format(hash: u32): void {
  header().total = <u32>plan();
  header().magic = MAGIC;
  header().version = LAYOUT_VERSION;
  header().hash = hash;
  header().endpoints = endpoints;
}

/** This instance's scratch. */
export let scratch: usize = 0;
/** The decision at its beginning. */
@inline
export function question(): Question {
  return changetype<Question>(scratch);
}
@inline
export function questionMatch(i: u32): Match {
  return matchAt(scratch + QUESTION_MATCH, i);
}
/** This instance's area. */
export let self: u32 = 0;
/** Address of the epoch of this instance's area, and its value when the instance attached. */
export let epochAt: usize = 0;
export let epoch: u32 = 0;
/** Address of the word that says whose groups this instance reads. */
let walkingAt: usize = 0;

/**
 * Binds this instance to a formatted memory, which is to have the layout of this hash, and one worker's area.
 * Returns 0, or what is wrong: 1 magic, 2 version, 3 layout hash, 4 no such worker, 5 size.
 */
export function attach(worker: u32, hash: u32): i32 {
  if (header().magic != MAGIC) return 1;
  if (header().version != LAYOUT_VERSION) return 2;
  if (header().hash != hash) return 3;
  if (worker >= header().workers) return 4;
  readLimits();
  const total = layOut();
  if (<u32>total != header().total || total > (<u64>memory.size() << 16)) return 5;
  scratch = scratchBase + <usize>worker * scratchBytes;
  self = worker;
  epochAt = ringOffset(worker) + RING_EPOCH;
  epoch = atomic.load<u32>(epochAt);
  walkingAt = ringOffset(worker) + RING_WALKING;
  leave();
  return 0;
}

/**
 * Says that this instance may read the groups of a cluster from now on, until it leaves: whoever takes the groups away
 * empties the list first and gives them to another cluster only when nobody is inside any more. The store is sequentially
 * consistent, and so is `firstGroupOf`: either the reader sees the empty list or the other one sees the reader.
 */
@inline
export function enter(cluster: u32): void {
  atomic.store<u32>(walkingAt, cluster + 1);
}

@inline
export function leave(): void {
  atomic.store<u32>(walkingAt, 0);
}

/** Group number + 1 of a cluster's first group, 0 for none. */
@inline
export function firstGroupOf(cluster: u32): u32 {
  return atomic.load<u32>(clusterAt(cluster), CLUSTER_FIRST_GROUP);
}

/** Group number + 1 of the group behind one in its cluster's list, 0 for none. */
@inline
export function groupAfter(group: u32): u32 {
  return load<u32>(nextGroupBase + (<usize>group << 2));
}

/** Byte offset of a worker's save ring. */
@inline
export function ringOffset(worker: u32): usize {
  return ringBase + <usize>worker * (RING_HEADER_BYTES + ringWords * 4);
}

/** Address of one cell of an endpoint column. */
@inline
export function cell(column: u32, row: u32): usize {
  return endpointBase + ((<usize>column * endpoints + row) << 2);
}

/** Address of a request row. */
@inline
export function requestAt(row: u32): usize {
  return requestBase + <usize>row * REQUEST_BYTES;
}

@inline
export function requestRow(row: u32): RequestRow {
  return changetype<RequestRow>(requestAt(row));
}

@inline
export function requestMatch(request: RequestRow, i: u32): Match {
  return matchAt(changetype<usize>(request) + REQUEST_MATCH, i);
}

/** Address of a tenant's row. */
@inline
export function tenantAt(tenant: u32): usize {
  return tenantBase + <usize>tenant * TENANT_BYTES;
}

@inline
export function tenantRow(tenant: u32): TenantRow {
  return changetype<TenantRow>(tenantAt(tenant));
}

/** Address of what waits of a cluster in a class of priority: a ClassQueue. */
@inline
export function classQueueAt(cluster: u32, itsClass: u32): usize {
  return clusterAt(cluster) + CLUSTER_CLASSES + <usize>itsClass * CLASS_QUEUE_BYTES;
}

/** Address of a cluster's row. */
@inline
export function clusterAt(cluster: u32): usize {
  return clusterBase + <usize>cluster * CLUSTER_BYTES;
}

@inline
export function clusterRow(cluster: u32): ClusterRow {
  return changetype<ClusterRow>(clusterAt(cluster));
}
