// SPDX-License-Identifier: Apache-2.0
// A row for each request in flight: its load, and what it brings along while it waits, for whoever grants. The fields are
// followed by what its prompt was found to match: HOLDERS of Match.

@unmanaged
export class RequestRow {
  phase: u32;
  endpoint: u32;
  prompt: u32; // bytes
  grant: u32; // grows with each grant of its worker
  cluster: u32;
  counted: u32; // 1 while the prompt bytes are on the endpoint
  generation: u32; // bumped each time the row is opened
  model: u32;
  cached: u32; // bytes matched on the granted endpoint
  uncached: u32; // prompt bytes that it has to compute
  sent: f64; // ms, when it was sent to the endpoint
  hidden: u32; // 1 when its first token will not be seen
  ahead: u32; // uncached bytes that were ahead of it at the grant
  queued: f64; // ms, when it began to wait
  deadline: f64; // ms, when its first token is due; 0 for no such time
  mask: u32; // eligibility bits that it needs
  adapter: u32;
  band: u32; // priority band, 0 first
  tenant: u32;
  work: u32; // bytes that it counts for in the backlog
  priorityClass: u32; // class of its band
  admitted: u32; // 1 while it counts in its tenant's concurrency
  preempted: u32; // 1 when it is to make room for one of higher priority
  reservedInput: u32; // tokens taken of its tenant's limits by estimate, until they are settled
  reservedOutput: u32;
  everywhere: u32; // leading bytes that every endpoint is presumed to hold
  hot: u32; // leading bytes that most endpoints have in use
  shared: u32; // leading bytes that many begin with
  matches: u32; // of REQUEST_MATCH
}

export const REQUEST_PHASE: u32 = offsetof<RequestRow>("phase");
export const REQUEST_ENDPOINT: u32 = offsetof<RequestRow>("endpoint");
export const REQUEST_PROMPT: u32 = offsetof<RequestRow>("prompt");
export const REQUEST_GRANT: u32 = offsetof<RequestRow>("grant");
export const REQUEST_CLUSTER: u32 = offsetof<RequestRow>("cluster");
export const REQUEST_COUNTED: u32 = offsetof<RequestRow>("counted");
export const REQUEST_GENERATION: u32 = offsetof<RequestRow>("generation");
export const REQUEST_MODEL: u32 = offsetof<RequestRow>("model");
export const REQUEST_CACHED: u32 = offsetof<RequestRow>("cached");
export const REQUEST_UNCACHED: u32 = offsetof<RequestRow>("uncached");
export const REQUEST_SENT: u32 = offsetof<RequestRow>("sent");
export const REQUEST_HIDDEN: u32 = offsetof<RequestRow>("hidden");
export const REQUEST_AHEAD: u32 = offsetof<RequestRow>("ahead");
export const REQUEST_QUEUED: u32 = offsetof<RequestRow>("queued");
export const REQUEST_DEADLINE: u32 = offsetof<RequestRow>("deadline");
export const REQUEST_MASK: u32 = offsetof<RequestRow>("mask");
export const REQUEST_ADAPTER: u32 = offsetof<RequestRow>("adapter");
export const REQUEST_BAND: u32 = offsetof<RequestRow>("band");
export const REQUEST_TENANT: u32 = offsetof<RequestRow>("tenant");
export const REQUEST_WORK: u32 = offsetof<RequestRow>("work");
export const REQUEST_PRIORITY_CLASS: u32 = offsetof<RequestRow>("priorityClass");
export const REQUEST_ADMITTED: u32 = offsetof<RequestRow>("admitted");
export const REQUEST_PREEMPTED: u32 = offsetof<RequestRow>("preempted");
export const REQUEST_RESERVED_INPUT: u32 = offsetof<RequestRow>("reservedInput");
export const REQUEST_RESERVED_OUTPUT: u32 = offsetof<RequestRow>("reservedOutput");
export const REQUEST_EVERYWHERE: u32 = offsetof<RequestRow>("everywhere");
export const REQUEST_HOT: u32 = offsetof<RequestRow>("hot");
export const REQUEST_SHARED: u32 = offsetof<RequestRow>("shared");
export const REQUEST_MATCHES: u32 = offsetof<RequestRow>("matches");
export const REQUEST_MATCH: u32 = (offsetof<RequestRow>() + 7) & ~7;
export const REQUEST_BYTES: u32 = 192;

export const PHASE_FREE: u32 = 0;
export const PHASE_WAITING: u32 = 1;
export const PHASE_GRANTING: u32 = 2; // a grant is being written
export const PHASE_GRANTED: u32 = 3;
export const PHASE_PREFILLING: u32 = 4;
export const PHASE_DECODING: u32 = 5;
