// SPDX-License-Identifier: Apache-2.0
// Small faults, each with the tests that have to notice it. One that no test notices is a hole in them; every defect that
// is found and mended belongs here, in the shape that it had.

export interface Fault {
  readonly name: string;
  readonly file: string;
  /** What stands there, once, and what the fault has in its place. */
  readonly was: string;
  readonly is: string;
  readonly tests: readonly string[];
}

export const FAULTS: readonly Fault[] = [
  // What strangers could use.
  {
    name: "keys are compared by their first word alone",
    file: "src/admission/tenants.ts",
    was: "w < DIGEST_WORDS; w++",
    is: "w < 1; w++",
    tests: ["test/admission"],
  },
  {
    name: "a header raises a request's priority above its tenant's",
    file: "src/admission/tenants.ts",
    was: "return Math.min(tenant.priority, number);",
    is: "return number;",
    tests: ["test/admission"],
  },
  {
    name: "a stored response is found by another tenant",
    file: "src/gateway/stored_responses.ts",
    was: "return row === 0 ? id : `${name}\\n${row}\\n${id}`;",
    is: "return name === row as unknown ? id : id;",
    tests: ["test/gateway/stored_responses_test.ts"],
  },
  {
    name: "a client's transfer-encoding goes on to the engine",
    file: "src/upstream/request_head.ts",
    was: '  "transfer-encoding",\n',
    is: "",
    tests: ["test/upstream/request_head_test.ts"],
  },
  {
    name: "the bytes of what waits have no bound",
    file: "src/scheduler/shared_queue.ts",
    was: "queue.requests > requests || queue.bytes > bytes",
    is: "queue.requests > requests",
    tests: ["test/scheduler"],
  },
  {
    name: "the admin takes any host",
    file: "src/base/visitors.ts",
    was: "if (!known) {",
    is: "if (!known && host === undefined) {",
    tests: ["test/base/visitors_test.ts"],
  },
  {
    name: "the admin is changed by forms",
    file: "src/base/visitors.ts",
    was: "if (headers.has(ADMIN_FIELD) || this.#hasToken(headers)) return;",
    is: "if (headers.has(ADMIN_FIELD) || this.#authorization === undefined || this.#hasToken(headers)) return;",
    tests: ["test/base/visitors_test.ts"],
  },
  // Placing and waiting.
  {
    name: "an endpoint that is late has room (a grant)",
    file: "assembly/score/late.ts",
    was: "&& late < rate * header().room;",
    is: "&& late < f32.MAX_VALUE;",
    tests: ["test/kernel"],
  },
  {
    name: "an endpoint that is late has room (an arrival)",
    file: "assembly/score/late.ts",
    was: "const another = v128.and(v128.and(fits, f32x4.lt(late, f32x4.mul(rate, room))), few);",
    is: "const another = v128.and(v128.and(fits, f32x4.lt(late, f32x4.splat(f32.MAX_VALUE))), few);",
    tests: ["test/kernel"],
  },
  {
    name: "who waits does not age",
    file: "assembly/queue/order.ts",
    was: "ms / (1 + <f64>header().ageing * waited)",
    is: "ms / (1 + 0 * waited)",
    tests: ["test/kernel/late_binding_test.ts"],
  },
  {
    name: "a release does not wait for a grant that is being made",
    file: "assembly/request.ts",
    was: "atomic.load<u32>(at, REQUEST_PHASE) == PHASE_GRANTING && looks < PATIENCE; looks++);",
    is: "atomic.load<u32>(at, REQUEST_PHASE) == PHASE_GRANTING && looks < 0; looks++);",
    tests: ["test/kernel/request_test.ts"],
  },
  {
    name: "the lock of a queue is not opened",
    file: "assembly/queue/lock.ts",
    was: "  atomic.cmpxchg<u32>(at, <u32>scratch, 0);\n",
    is: "  atomic.cmpxchg<u32>(at, 0xffffffff, 0);\n",
    tests: ["test/kernel/late_binding_test.ts"],
  },
  {
    name: "a request that fails behind its grant offers its room to nobody",
    file: "src/scheduler/shared_queue.ts",
    was: "if (carried) this.roomAt(placement.cluster, endpoint);",
    is: "if (carried && endpoint < 0) this.roomAt(placement.cluster, endpoint);",
    tests: ["test/scheduler"],
  },
  {
    name: "a first token that nobody sees is presumed one request early",
    file: "src/scheduler/hidden_prefills.ts",
    was: "const done = prefills.length - waiting - 1;",
    is: "const done = prefills.length - waiting;",
    tests: ["test/scheduler"],
  },
  // Failing and leaving.
  {
    name: "the connection to an engine is kept when the client leaves",
    file: "src/front/http/relay.ts",
    was: '    this.#answer.body.fail(new UpstreamError("aborted", "the client left"));\n',
    is: "",
    tests: ["test/front/relay_test.ts", "test/gateway"],
  },
  {
    name: "there is always a retry left",
    file: "src/upstream/retry_budget.ts",
    was: "return this.#saved >= RETRY || this.#reserve >= 1;",
    is: "return this.#saved >= 0 || this.#reserve >= 1;",
    tests: ["test/upstream/retry_budget_test.ts"],
  },
  {
    name: "a request is retried although its client is gone",
    file: "src/gateway/dispatch.ts",
    was: "if (cancellation.gone || call.tries",
    is: "if (call.tries",
    tests: ["test/gateway/dispatch_test.ts"],
  },
  {
    name: "a stream that leaves before its answer is not told",
    file: "src/front/http/early_head.ts",
    was: "        this.call.cancellation.leave();\n",
    is: "",
    tests: ["test/front/early_head_test.ts"],
  },
  {
    name: "an area is not reaped again before it is given away",
    file: "src/server/supervisor.ts",
    was: "      this.parts.reap(seat.area); // what the area's last worker may have been in the middle of\n",
    is: "",
    tests: ["test/server/supervisor_test.ts"],
  },
  // Several gateways.
  {
    name: "what was used of a limit is never taken back",
    file: "src/control/limit_sync.ts",
    was: "if (until > now) continue;",
    is: "if (until > 0) continue;",
    tests: ["test/control"],
  },
  {
    name: "a full ring of prefixes is overwritten",
    file: "src/tables/save_ring.ts",
    was: "if (HEADER_WORDS + 2 * chunks > free) {",
    is: "if (HEADER_WORDS + 2 * chunks > this.#mask) {",
    tests: ["test/tables"],
  },
  // Mended defects.
  {
    name: "a body {} for an alias becomes no JSON",
    file: "src/openai/splice.ts",
    was: "if (places.length === 0) {",
    is: "if (places.length < 0) {",
    tests: ["test/openai/request_test.ts"],
  },
  {
    name: "counts of a tenant that goes vanish from the totals",
    file: "src/telemetry/request_series.ts",
    was: "      kept.addGone(OUTCOMES[key.outcome], cells[at + 1], cells[at + 2]);\n",
    is: "",
    tests: ["test/telemetry/telemetry_test.ts"],
  },
  {
    name: "a slow reader of standard output holds a worker's lines back for ever",
    file: "src/telemetry/line_file.ts",
    was: "        this.#writing = undefined;\n        this.flush();",
    is: "        this.#writing = undefined;",
    tests: ["test/telemetry/line_file_test.ts"],
  },
  {
    name: "a worker that cannot take another's place takes its seat",
    file: "src/server/supervisor.ts",
    was: 'if (seat.replaces && seat.state === "starting") return;',
    is: 'if (seat.replaces && seat.state === "serving") return;',
    tests: ["test/server/supervisor_test.ts"],
  },
  {
    name: "a worker whose replacement never serves cannot be replaced again",
    file: "src/server/supervisor.ts",
    was: "      this.#giveBack(fresh);\n      throw error;",
    is: "      throw error;",
    tests: ["test/server/supervisor_test.ts"],
  },
  {
    name: "a watcher that reads nothing piles up events",
    file: "src/metadata/watch_streams.ts",
    was: "if ((controller.desiredSize ?? 0) <= 0) return close();",
    is: "if (controller.desiredSize === null) return close();",
    tests: ["test/metadata/watch_streams_test.ts"],
  },
  {
    name: "explain takes the turn of a request",
    file: "src/scheduler/decision.ts",
    was: 'if (placement.policy.name === "round_robin" && chosen !== NO_ENDPOINT) {',
    is: 'if (placement.policy.name === "round_robin" && chosen === NO_ENDPOINT) {',
    tests: ["test/integration/explain_test.ts"],
  },
  {
    name: "a mean answer counts those that were cut",
    file: "src/telemetry/instruments.ts",
    was: "    if (!told) return;\n",
    is: "",
    tests: ["test/telemetry/telemetry_test.ts"],
  },
  // What a long life does.
  {
    name: "a tenant that has one waiting at a time is believed to be served ever faster",
    file: "assembly/queue/fair_share.ts",
    was: "if (passed > 0 && (waited || account.waiting > 0)) {",
    is: "if (passed > 0 && account.waiting > 0) {",
    tests: ["test/kernel/long_life_test.ts"],
  },
  {
    name: "a slot that another worker touched later is the oldest",
    file: "assembly/prefix/index.ts",
    was: "const age: u32 = passed > AHEAD ? 0 : passed;",
    is: "const age: u32 = passed;",
    tests: ["test/kernel/long_life_test.ts"],
  },
  {
    name: "the generation of a row becomes 0",
    file: "assembly/request.ts",
    was: "if (generation == 0) generation",
    is: "if (generation == 0xffffffff) generation",
    tests: ["test/kernel/long_life_test.ts"],
  },
  {
    name: "what was heard by a worker whose clock is ahead is 74 hours of silence",
    file: "src/tables/endpoint_pulse.ts",
    was: "return passed > AHEAD ? 0 : passed / 16;",
    is: "return passed / 16;",
    tests: ["test/kernel/long_life_test.ts"],
  },
  {
    name: "what was used of a limit counts again 256 minutes later",
    file: "assembly/limits.ts",
    was: "while (atomic.cmpxchg<u64>(at, word, advanced(word, minute)) != word);",
    is: "while (atomic.cmpxchg<u64>(at, word, word) != word);",
    tests: ["test/kernel/limits_test.ts"],
  },
  {
    name: "means are of all time",
    file: "src/telemetry/readings.ts",
    was: "this.#sum(base + cell) - older[cell], ENOUGH)",
    is: "this.#sum(base + cell) - 0 * older[cell], ENOUGH)",
    tests: ["test/telemetry/readings_test.ts"],
  },
  {
    name: "a follow-up to another tenant's response goes to any engine",
    file: "src/gateway/stored_responses.ts",
    was: "if (apart) throw notFound(",
    is: "if (apart && id === undefined) throw notFound(",
    tests: ["test/integration/tenant_borders_test.ts"],
  },
  // Envoy, Kubernetes, meshes.
  {
    name: "a restricted choice restricts those after it",
    file: "assembly/decide.ts",
    was: "  question().restricted = 0;\n",
    is: "",
    tests: ["test/kernel/choose_test.ts"],
  },
  {
    name: "the load stays where Envoy did not bring the request",
    file: "src/scheduler/grant.ts",
    was: "if (!this.#owner.moveToNamed(this.#parts, name)) return false;",
    is: "if (name !== before as unknown) return false;",
    tests: ["test/integration/ext_proc_test.ts"],
  },
  {
    name: "a client's key goes on to the engine through Envoy",
    file: "src/front/ext_proc/fields.ts",
    was: "remove.push(name);\n  });",
    is: "void name;\n  });",
    tests: ["test/integration/ext_proc_test.ts"],
  },
  {
    name: "an exchange that ends early leaves its request",
    file: "src/front/ext_proc/processing.ts",
    was: "    else this.#request!.leave();\n  }\n\n  // --- What Envoy is told.",
    is: "  }\n\n  // --- What Envoy is told.",
    tests: ["test/integration/ext_proc_test.ts"],
  },
  {
    name: "a gRPC message that nobody takes is given credit",
    file: "src/grpc/stream.ts",
    was: "this.#untaken > UNTAKEN_BYTES || ",
    is: "",
    tests: ["test/grpc"],
  },
  {
    name: "Huffman padding is not looked at",
    file: "src/grpc/hpack.ts",
    was: "if (length > 7 || code !== (1 << length) - 1) throw",
    is: "if (length > 30) throw",
    tests: ["test/grpc/hpack_test.ts"],
  },
  {
    name: "an endpoint of two slices goes with the first of them",
    file: "src/discovery/kubernetes/objects.ts",
    was: "return known.objects === 0 && this.#known.delete(key);",
    is: "return this.#known.delete(key);",
    tests: ["test/discovery/kubernetes_test.ts"],
  },
  {
    name: "a watch that is too old is taken for a failure",
    file: "src/discovery/kubernetes/api.ts",
    was: "if (!(error instanceof Expired)) throw error;",
    is: "throw error;",
    tests: ["test/discovery/kubernetes_test.ts"],
  },
  {
    name: "clusters that a mesh has no more stay",
    file: "src/discovery/xds/session.ts",
    was: "for (const name of removed) known.delete(name);",
    is: "void removed;",
    tests: ["test/discovery/xds_test.ts"],
  },
];
