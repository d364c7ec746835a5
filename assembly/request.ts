// SPDX-License-Identifier: Apache-2.0
// The life of a request's load, one row a request:
//
//   FREE ─open─► WAITING ─grant─► GRANTED ─dispatch─► PREFILLING ─first token─► DECODING ─release─► FREE
//
// grant adds the request and its prompt bytes to the endpoint, the first token takes the prompt bytes off, release takes
// off what is left: each exactly once, from any phase. What moves a load is straight-line code, and V8 ends a terminated
// worker only at calls and loop ends, so a dead worker's rows and the counters always agree.
//
// Any worker may grant a waiting row. While it writes the grant, the row is GRANTING, and a release waits those
// nanoseconds. A row that is in the queue has its bit among the waiting ones; who takes the bit takes the row's work off
// the backlog, so that happens once.
//
// A worker that is given up may live on for a while. Its area's epoch and its rows' generations have moved on by then:
// it opens nothing more, and what it does to its old rows does nothing.

import { CLUSTER_HITS } from "./memory/cluster";
import {
  ENDPOINT_DISPATCHED,
  ENDPOINT_ELIGIBILITY,
  ENDPOINT_GENERATION,
  ENDPOINT_HEAD_AT,
  ENDPOINT_PREFILLS,
  ENDPOINT_PROMPT,
  ENDPOINT_REQUESTS,
  ENDPOINT_UNCACHED,
  SERVING,
  stampOf,
  TRIAL,
} from "./memory/endpoint";
import {
  cell,
  clusterAt,
  epoch,
  epochAt,
  question,
  requestAt,
  requestsPerWorker,
  ringOffset,
  self,
  tenantAt,
} from "./memory/plan";
import {
  PHASE_DECODING,
  PHASE_FREE,
  PHASE_GRANTED,
  PHASE_GRANTING,
  PHASE_PREFILLING,
  PHASE_WAITING,
  REQUEST_GENERATION,
  REQUEST_COUNTED,
  REQUEST_PHASE,
  RequestRow,
} from "./memory/request_row";
import { RING_EPOCH, RING_GRANTS } from "./memory/rings";
import { TENANT_CONCURRENCY } from "./memory/tenant";
import { knownOf, uncachedOf } from "./prefix/known";
import { dequeue, enqueue } from "./queue/enqueue";

/** Weight of a grant in the moving mean of hits. */
const HIT_PACE: f64 = 0.02;
/** Looks at a row that is being granted before its grant is taken for done: its granter was ended. */
const PATIENCE: u32 = 10_000_000;

// Takes the prompt's load off, once.
@inline
function dropPrompt(at: usize, endpoint: u32): bool {
  const request = changetype<RequestRow>(at);
  if (atomic.xchg<u32>(at, 0, REQUEST_COUNTED) == 0) return false;
  atomic.sub<u32>(cell(ENDPOINT_PROMPT, endpoint), request.prompt);
  atomic.sub<u32>(cell(ENDPOINT_UNCACHED, endpoint), request.uncached);
  atomic.sub<u32>(cell(ENDPOINT_PREFILLS, endpoint), 1);
  return true;
}

/**
 * Opens a free row of the caller's own area as waiting. Returns its generation, which every later call must name; 0 when
 * this area was taken from the caller.
 */
export function requestOpen(row: u32, cluster: u32, model: u32, promptBytes: u32): u32 {
  if (atomic.load<u32>(epochAt) != epoch) return 0;
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  request.cluster = cluster;
  request.model = model;
  request.prompt = promptBytes;
  request.counted = 0;
  request.cached = 0;
  request.uncached = promptBytes;
  request.hidden = 0;
  request.admitted = 0;
  request.preempted = 0;
  request.reservedInput = 0;
  request.reservedOutput = 0;
  request.tenant = 0;
  request.band = 0;
  request.deadline = 0;
  let generation = atomic.add<u32>(at, 1, REQUEST_GENERATION) + 1;
  // 0 says that the row was not opened.
  if (generation == 0) generation = atomic.add<u32>(at, 1, REQUEST_GENERATION) + 1;
  atomic.store<u32>(at, PHASE_WAITING, REQUEST_PHASE);
  return generation;
}

/**
 * Grants a waiting row the endpoint that the question chose, and tells its owner; any worker may. Returns 1, or 0 when
 * the row is no longer waiting, or -1 when the endpoint stopped serving meanwhile (the row still waits: choose again).
 */
export function requestGrant(row: u32, generation: u32, now: f64): i32 {
  const endpoint = question().row;
  const matched = question().matched;
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  if (atomic.cmpxchg<u32>(at, PHASE_WAITING, PHASE_GRANTING, REQUEST_PHASE) != PHASE_WAITING) return 0;
  // From here on nobody else changes the row. It may have become another request's before.
  if (atomic.load<u32>(at, REQUEST_GENERATION) != generation) {
    atomic.store<u32>(at, PHASE_WAITING, REQUEST_PHASE);
    return 0;
  }
  const waited = dequeue(row);
  const prompt = request.prompt;
  request.endpoint = endpoint;
  request.cached = matched;
  const uncached = uncachedOf(prompt, matched);
  request.uncached = uncached;
  request.counted = 1;
  atomic.add<u32>(cell(ENDPOINT_REQUESTS, endpoint), 1);
  atomic.add<u32>(cell(ENDPOINT_PROMPT, endpoint), prompt);
  const ahead = atomic.add<u32>(cell(ENDPOINT_UNCACHED, endpoint), uncached);
  atomic.add<u32>(cell(ENDPOINT_PREFILLS, endpoint), 1);
  request.ahead = ahead;
  // Nothing is ahead of it: the endpoint is at its prefill from now on.
  if (ahead == 0) store<u32>(cell(ENDPOINT_HEAD_AT, endpoint), stampOf(now));
  // The control plane frees a row only when it serves no more and its count is zero, in this order; so after the
  // addition a row that still serves is not being freed.
  const eligibility = atomic.load<u32>(cell(ENDPOINT_ELIGIBILITY, endpoint));
  let serves = (eligibility & SERVING) != 0;
  // An endpoint on trial takes one request: the first to take its serving bit away.
  if ((eligibility & TRIAL) != 0) serves = (atomic.and<u32>(cell(ENDPOINT_ELIGIBILITY, endpoint), ~SERVING) & SERVING) != 0;
  if (!serves) {
    atomic.sub<u32>(cell(ENDPOINT_REQUESTS, endpoint), 1);
    dropPrompt(at, endpoint);
    if (waited) enqueue(row, request.work);
    atomic.store<u32>(at, PHASE_WAITING, REQUEST_PHASE);
    return -1;
  }
  const hits = clusterAt(request.cluster) + CLUSTER_HITS;
  const share = prompt == 0 ? 0 : <f64>knownOf(prompt, matched) / <f64>prompt;
  store<f64>(hits, load<f64>(hits) + HIT_PACE * (share - load<f64>(hits)));
  const owner = row / requestsPerWorker;
  const grants = ringOffset(owner) + RING_GRANTS;
  request.grant = atomic.add<u32>(grants, 1);
  // The row is its owner's from here on.
  atomic.store<u32>(at, PHASE_GRANTED, REQUEST_PHASE);
  // A worker that grants its own request knows. Another one is told: the word changes again, for one that read it after
  // the first change and found nothing, and whoever waits there is woken, also beside what is left of a dead predecessor.
  if (owner != self) {
    atomic.add<u32>(grants, 1);
    atomic.notify(grants, -1);
  }
  return 1;
}

/** What its endpoint holds of a granted request's prompt is known better now, before it is sent. Its owner's. */
export function requestKnow(row: u32, generation: u32, matched: u32): void {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  if (atomic.load<u32>(at, REQUEST_GENERATION) != generation || request.counted == 0) return;
  const uncached = uncachedOf(request.prompt, matched);
  atomic.add<u32>(cell(ENDPOINT_UNCACHED, request.endpoint), uncached - request.uncached);
  request.uncached = uncached;
  request.cached = matched;
}

/**
 * The request is on its way to the engine; `hidden` when its first token will not be seen. Returns the identity
 * generation of its endpoint.
 */
export function requestDispatch(row: u32, generation: u32, now: f64, hidden: u32): u32 {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  const endpoint = request.endpoint;
  if (atomic.load<u32>(at, REQUEST_GENERATION) == generation) {
    request.sent = now;
    request.hidden = hidden;
    // Nothing is ahead of it: its prefill begins now.
    if (request.ahead == 0) store<u32>(cell(ENDPOINT_HEAD_AT, endpoint), stampOf(now));
    atomic.store<u32>(at, PHASE_PREFILLING, REQUEST_PHASE);
    atomic.add<u32>(cell(ENDPOINT_DISPATCHED, endpoint), 1);
  }
  return atomic.load<u32>(cell(ENDPOINT_GENERATION, endpoint));
}

/**
 * First token seen, or presumed: the prompt bytes come off. Returns the ms that the prefill took the first time, since it
 * was sent or since its endpoint came to it, then -1.
 */
export function requestFirstToken(row: u32, generation: u32, now: f64): f64 {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  if (atomic.load<u32>(at, REQUEST_GENERATION) != generation) return -1;
  const endpoint = request.endpoint;
  if (!dropPrompt(at, endpoint)) return -1;
  atomic.cmpxchg<u32>(at, PHASE_PREFILLING, PHASE_DECODING, REQUEST_PHASE);
  const stamp = stampOf(now);
  const began = atomic.xchg<u32>(cell(ENDPOINT_HEAD_AT, endpoint), stamp);
  return min(now - request.sent, <f64>(stamp - began) / 16);
}

/** Takes the load off and puts the row back to waiting: this endpoint failed before any byte of its answer. */
export function requestReturn(row: u32, generation: u32): void {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  if (atomic.load<u32>(at, REQUEST_GENERATION) != generation) return;
  const endpoint = request.endpoint;
  dropPrompt(at, endpoint);
  atomic.sub<u32>(cell(ENDPOINT_REQUESTS, endpoint), 1);
  atomic.store<u32>(at, PHASE_WAITING, REQUEST_PHASE);
}

/** Ends the request, however it ended. Returns 1, or 0 if the row was free already or is another request's. */
export function requestRelease(row: u32, generation: u32): i32 {
  return atomic.load<u32>(requestAt(row), REQUEST_GENERATION) == generation ? release(row) : 0;
}

function release(row: u32): i32 {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  dequeue(row);
  for (let looks: u32 = 0; atomic.load<u32>(at, REQUEST_PHASE) == PHASE_GRANTING && looks < PATIENCE; looks++);
  let phase = atomic.load<u32>(at, REQUEST_PHASE);
  while (atomic.cmpxchg<u32>(at, phase, PHASE_FREE, REQUEST_PHASE) != phase) phase = atomic.load<u32>(at, REQUEST_PHASE);
  if (phase == PHASE_FREE) return 0;
  if (request.admitted != 0) {
    request.admitted = 0;
    atomic.sub<u32>(tenantAt(request.tenant) + TENANT_CONCURRENCY, 1);
  }
  const endpoint = request.endpoint;
  dropPrompt(at, endpoint);
  if (phase >= PHASE_GRANTED) atomic.sub<u32>(cell(ENDPOINT_REQUESTS, endpoint), 1);
  return 1;
}

/**
 * Takes an area from its worker and releases its rows. Returns how many were open. Called again before the area is
 * given away, for what the old worker was in the middle of.
 */
export function reap(worker: u32): u32 {
  atomic.add<u32>(ringOffset(worker) + RING_EPOCH, 1);
  let open: u32 = 0;
  const first = worker * requestsPerWorker;
  for (let i: u32 = 0; i < requestsPerWorker; i++) {
    atomic.add<u32>(requestAt(first + i), 1, REQUEST_GENERATION);
    open += release(first + i);
  }
  return open;
}
