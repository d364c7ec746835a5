// SPDX-License-Identifier: Apache-2.0
// The dispatcher over the real scheduler, in front of engines that do what the test says.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import type { PreparedRequest } from "../../src/engines/engine.ts";
import { end } from "../../src/gateway/accounting.ts";
import { Dispatcher } from "../../src/gateway/dispatch.ts";
import type { EndpointRef } from "../../src/tables/endpoint_directory.ts";
import { EndpointPulse } from "../../src/tables/endpoint_pulse.ts";
import { RETRY_REASONS, WORKER_CELLS } from "../../src/telemetry/cells.ts";
import type { EndpointPools } from "../../src/upstream/endpoint_pools.ts";
import { UpstreamError, type UpstreamFailure } from "../../src/upstream/errors.ts";
import type { ResponseHead } from "../../src/upstream/response_head.ts";
import type { OutgoingMessage } from "../../src/upstream/pool.ts";
import { RetryBudget } from "../../src/upstream/retry_budget.ts";
import { PLAIN, type Transport } from "../../src/upstream/transport.ts";
import { callParts, HandedBody, schedulerParts, settle } from "../support/parts.ts";

const EMPTY = new Uint8Array(0);
const prepared: PreparedRequest = {
  encode: (_leg, fields) => ({ method: "POST", target: "/v1/chat/completions", fields, body: EMPTY }),
};
const head = (status: number, ...headers: [string, string][]): ResponseHead => ({
  status,
  headers,
  framing: { kind: "length", bytes: 2 },
  keepAlive: true,
});

type Behaviour = UpstreamFailure | UpstreamError | ResponseHead | "hang" | { head: ResponseHead; body: string };
const expected = { kind: "chat" as const, tokens: false, choices: 1, opened() {}, heard() {} };

/** What the first, the second, … endpoint that is tried does. */
async function parts(
  behaviours: Behaviour[],
  more: {
    retries?: number;
    percent?: number;
    endpoints?: number;
    expectedMs?: number;
    /** An engine says that it does not know the model. */
    missing?: () => void;
    fields?: Record<string, string>;
    transport?: Partial<Transport>;
  } = {},
) {
  const scheduler = schedulerParts(more.endpoints ?? 3);
  const { clock, context, open } = callParts();
  const call = open({ headers: more.fields });
  const clocks = [clock, scheduler.clock];
  const tried: number[] = [];
  const bodies: HandedBody[] = [];
  const fresh: boolean[] = [];
  const held: { fail(error: UpstreamError): void }[] = [];
  const sent = (endpoint: EndpointRef) => {
    tried.push(endpoint.row);
    const behaviour = behaviours[tried.length - 1];
    if (behaviour === "hang") return new Promise<never>(() => {});
    if (behaviour instanceof UpstreamError) return Promise.reject(behaviour);
    if (typeof behaviour === "string") return Promise.reject(new UpstreamError(behaviour, "why"));
    const answer = "body" in behaviour ? behaviour : { head: behaviour, body: "{}" };
    const body = new HandedBody();
    body.hand(answer.body, null);
    bodies.push(body);
    return Promise.resolve({ head: answer.head, connection: body });
  };
  const pools = {
    of: (endpoint: EndpointRef) => ({
      send(
        _message: OutgoingMessage,
        waitsFor: (waiting: { fail(error: UpstreamError): void }) => void,
        anew: boolean,
      ) {
        fresh.push(anew);
        const failing = Promise.withResolvers<never>();
        const waiting = { fail: failing.reject };
        held.push(waiting);
        waitsFor(waiting);
        return Promise.race([failing.promise, settle().then(() => sent(endpoint))]);
      },
    }),
  } as unknown as EndpointPools;
  const faults: [string, number, number][] = [];
  const suspects: number[] = [];
  const withheld: string[] = [];
  const pulse = new EndpointPulse(scheduler.kernel);
  const missing: number[] = [];
  const budget = new RetryBudget({ percent: more.percent ?? 1_000, minPerSecond: 0 }, clock);
  const dispatcher = new Dispatcher(pools, scheduler.table, {
    silence: {
      deadlines: context.calls.deadlines,
      pulse,
      limits: { factor: 5, ms: 3_000, leaverMs: 1_000 },
      expectedMs: () => more.expectedMs ?? 100,
      suspect: ({ row }) => suspects.push(row),
    },
    missing(endpoint) {
      missing.push(endpoint);
      more.missing?.();
    },
    retries: more.retries ?? 1,
    budget,
    answers: { wholeBytes: 1_024, eventBytes: 1_024 },
    backpressureMs: 1_000,
    maxBackpressureMs: 30_000,
    withheld: (endpoint) => withheld.push(endpoint),
    atFault: (endpoint, { rejected, peer }) => faults.push([endpoint, rejected, peer]),
  });
  const grant = await scheduler.queue.acquire(scheduler.ask("hello"), () => {});
  const transport = { ...PLAIN, ...more.transport };
  let moved = 0;
  const dispatch = () => dispatcher.dispatch(grant, { call, prepared, transport, expected, moved: () => moved++ });
  const count = (cell: number) => context.calls.instruments.cells[cell];
  const close = () => {
    grant[Symbol.dispose]();
    end(call, "ok");
    scheduler[Symbol.dispose]();
  };
  const { table, rows } = scheduler;
  return {
    call,
    dispatch,
    grant,
    tried,
    bodies,
    held,
    fresh,
    faults,
    withheld,
    suspects,
    missing,
    /** Another request on the endpoint that it was granted. */
    beside: () => scheduler.queue.acquire(scheduler.ask("beside", { onlyEndpoint: grant.leg.endpoint.row }), () => {}),
    heard: (row: number) => pulse.hear(row, clock.shared()),
    async advance(ms: number) {
      for (let passed = 0; passed < ms; passed += 50) {
        for (const one of clocks) one.advance(50);
        await settle();
      }
    },
    table,
    rows,
    moved: () => moved,
    count,
    [Symbol.dispose]: close,
  };
}

async function codeOf(dispatching: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => dispatching, GatewayError)).code;
}

Deno.test("Dispatcher: a good answer counts as a success and stays where it is", async () => {
  using all = await parts([head(200)]);
  const { head: { status }, whole } = await all.dispatch();
  assertEquals([status, whole?.length, all.tried.length, all.moved(), all.call.tries], [200, 2, 1, 0, 1]);
  assertEquals(all.table.successes(all.tried[0]), 1);
});

Deno.test("Dispatcher: a failed endpoint is left for another, its failure counted, its load moved", async () => {
  for (
    const [failure, moved] of [
      ["connect_failed", "refused"],
      ["lost_before_answer", "lost"],
      ["header_timeout", "timeout"],
      ["bad_response", "lost"],
    ] as const
  ) {
    using all = await parts([failure, head(200)]);
    const answer = await all.dispatch();
    const [first, second] = all.tried;
    assertEquals([answer.head.status, all.moved(), first !== second], [200, 1, true], failure);
    assertEquals([all.table.failures(first), all.table.failures(second)], [1, 0]);
    assertEquals([all.table.requests(first), all.table.requests(second)], [0, 1]);
    const reasons = RETRY_REASONS.map((reason, i) => [reason, all.count(WORKER_CELLS.retries + i)]);
    assertEquals(reasons.filter(([, count]) => count !== 0), [[moved, 1]]);
    assertEquals([all.call.tries, all.call.endpointRow], [2, second]);
    assertEquals(all.count(WORKER_CELLS.connectFailures), failure === "connect_failed" ? 1 : 0);
  }
});

Deno.test("Dispatcher: 429, 500, 502, 503 and 504 are tried elsewhere, and the last answer passes; others pass at once", async () => {
  for (const status of [429, 500, 502, 503, 504]) {
    using all = await parts([head(status), head(status)]);
    assertEquals([(await all.dispatch()).head.status, all.tried.length], [status, 2]);
    assertEquals(all.bodies.map(({ did }) => did), [["finish"], []], "the connection of the first is free again");
  }
  for (const status of [200, 400, 403, 422]) {
    using all = await parts([head(status)]);
    assertEquals([(await all.dispatch()).head.status, all.tried.length], [status, 1]);
    assertEquals(all.table.failures(all.tried[0]), 0);
  }
});

Deno.test("Dispatcher: a busy endpoint is left alone for as long as it asks, within the limit", async () => {
  const asked: [ResponseHead, number][] = [
    [head(429), 1_000],
    [head(503, ["retry-after", "7"]), 7_000],
    [head(503, ["retry-after", "900"]), 30_000],
    [head(429, ["retry-after", "0"]), 0],
    [head(429, ["retry-after", "soon"]), 1_000],
    [head(429, ["retry-after", "Thu, 01 Jan 1970 00:00:00 GMT"]), 0],
  ];
  for (const [answer, ms] of asked) {
    using all = await parts([answer], { retries: 0 });
    await all.dispatch();
    assertEquals(all.table.takeBackOff(all.tried[0]), ms);
  }
});

Deno.test("Dispatcher: no retry without tries, without a budget, or without another endpoint", async () => {
  using none = await parts(["lost_before_answer"], { retries: 0 });
  assertEquals([await codeOf(none.dispatch()), none.tried.length], ["upstream_failed", 1]);
  using poor = await parts(["lost_before_answer"], { percent: 0 });
  assertEquals([await codeOf(poor.dispatch()), poor.tried.length], ["upstream_failed", 1]);
  assertEquals(poor.count(WORKER_CELLS.retriesRefused), 1);
  using alone = await parts(["header_timeout"], { endpoints: 1 });
  assertEquals([await codeOf(alone.dispatch()), alone.tried.length, alone.moved()], ["upstream_timeout", 1, 0]);
  assertEquals(alone.table.requests(alone.rows[0]), 1, "the load is the grant's to release");
});

Deno.test("Dispatcher: a request that is given up is not tried elsewhere, and its endpoint not blamed", async () => {
  const ways: [string, (call: Awaited<ReturnType<typeof parts>>["call"]) => void][] = [
    ["client_closed", (call) => call.cancellation.leave()],
    ["draining", (call) => call.cancellation.cut()],
    ["preempted", (call) => call.cancellation.preempt()],
    ["deadline_exceeded", (call) => call.cancellation.expire()],
  ];
  for (const [code, give] of ways) {
    using all = await parts([head(200)]);
    const dispatching = all.dispatch();
    assert(all.held.length === 1);
    give(all.call);
    assertEquals(await codeOf(dispatching), code);
    assertEquals([all.moved(), all.rows.map((row) => all.table.failures(row))], [0, [0, 0, 0]], code);
    await settle(); // what its engine was about to answer
  }
});

Deno.test("Dispatcher: refused connections cost neither tries nor the budget", async () => {
  using all = await parts(["connect_failed", "connect_failed", "lost_before_answer", head(200)], {
    endpoints: 4,
    percent: 100,
  });
  assertEquals([(await all.dispatch()).head.status, all.tried.length, new Set(all.tried).size], [200, 4, 4]);
  using dead = await parts(["connect_failed", "connect_failed", "connect_failed"], { retries: 0, percent: 0 });
  assertEquals([await codeOf(dead.dispatch()), dead.tried.length], ["upstream_failed", 3]);
});

Deno.test("Dispatcher: one failure backs an endpoint off in this worker at once", async () => {
  using all = await parts([head(500), head(200)]);
  all.table.failureBackoffMs = 1_000;
  await all.dispatch();
  assertEquals(all.tried.map((row) => all.table.backedOff(row)), [true, false]);
});

Deno.test("Dispatcher: a rejection that a peer answers is the replica's fault; one that it shares is the client's", async () => {
  for (const status of [401, 404]) {
    using fault = await parts([head(status), head(200)]);
    assertEquals([(await fault.dispatch()).head.status, fault.tried.map((row) => fault.table.failures(row))], [200, [
      1,
      0,
    ]]);
    assertEquals(fault.count(WORKER_CELLS.replicaFaults), 1);
    assertEquals(fault.faults.map(([, ...statuses]) => statuses), [[status, 200]]);
    using shared = await parts([head(status), head(status)]);
    assertEquals([(await shared.dispatch()).head.status, shared.tried.map((row) => shared.table.failures(row))], [
      status,
      [0, 0],
    ]);
    assertEquals(shared.count(WORKER_CELLS.replicaFaults), 0);
  }
});

Deno.test("Dispatcher: a rejection stands where the peer that was asked fails", async () => {
  for (const failure of [head(502), new UpstreamError("connect_timeout", "why")]) {
    using all = await parts([head(404), failure]);
    const { head: { status } } = await all.dispatch();
    assertEquals([status, all.tried.length, all.faults], [404, 2, []]);
    assertEquals(all.tried.map((row) => all.table.failures(row)), [0, 1]);
  }
});

Deno.test("Dispatcher: a reused connection that is lost is no failure; alone, the request goes out on a new one, by a retry", async () => {
  const lost = () => Object.assign(new UpstreamError("lost_before_answer", "why"), { reused: true });
  using all = await parts([lost(), head(200)]);
  assertEquals([(await all.dispatch()).head.status, all.table.failures(all.tried[0])], [200, 0]);
  using alone = await parts([lost(), head(200)], { endpoints: 1 });
  assertEquals([(await alone.dispatch()).head.status, alone.fresh, alone.moved()], [200, [false, true], 0]);
  using once = await parts([lost()], { endpoints: 1, retries: 0 });
  assertEquals([await codeOf(once.dispatch()), once.tried.length], ["upstream_failed", 1]);
});

Deno.test("Dispatcher: an endpoint that says nothing for several times the predicted time is suspect, and the request moves", async () => {
  for (const [expectedMs, ms] of [[100, 3_000], [1_000, 5_000]]) {
    using all = await parts(["hang", head(200)], { expectedMs });
    const dispatching = all.dispatch();
    await all.advance(ms - 100);
    assertEquals([all.tried.length, all.suspects], [1, []]);
    await all.advance(300);
    assertEquals([all.suspects, (await dispatching).head.status, all.moved(), all.call.tries], [
      all.tried.slice(0, 1),
      200,
      1,
      2,
    ]);
  }
});

Deno.test("Dispatcher: what comes from the endpoint meanwhile, and nowhere to go, keep the request where it is", async () => {
  using busy = await parts(["hang"]);
  const kept = busy.dispatch();
  for (let i = 0; i < 5; i++) {
    await busy.advance(2_500);
    busy.heard(busy.tried[0]);
  }
  assertEquals([busy.suspects, busy.tried.length], [[], 1]);
  busy.call.cancellation.leave();
  assertEquals(await codeOf(kept), "client_closed");
  assertEquals(busy.suspects, [], "it was heard of just before");

  using alone = await parts(["hang"], { endpoints: 1 });
  const waiting = alone.dispatch();
  await alone.advance(4_000);
  assertEquals([alone.suspects, alone.tried.length, alone.call.cancellation.gone], [[alone.rows[0]], 1, false]);
  alone.call.cancellation.leave();
  assertEquals(await codeOf(waiting), "client_closed");
});

Deno.test("Dispatcher: a client that leaves after a long silence has seen that the endpoint is suspect, another has not", async () => {
  for (const [waitMs, expectedMs, suspect] of [[900, 100, false], [1_300, 100, true], [1_300, 1_000, false]] as const) {
    using all = await parts(["hang"], { expectedMs });
    const dispatching = all.dispatch();
    await all.advance(waitMs);
    all.call.cancellation.leave();
    assertEquals(await codeOf(dispatching), "client_closed");
    assertEquals(all.suspects, suspect ? all.tried : [], `${waitMs} of ${expectedMs}`);
  }
});

const DEAD = "EngineCore encountered an issue.";
const dead = { head: { ...head(500), framing: { kind: "length" as const, bytes: DEAD.length } }, body: DEAD };

Deno.test("Dispatcher: a request that was alone on an engine that died is not shown to another one", async () => {
  using alone = await parts([dead, head(200)]);
  assertEquals([(await alone.dispatch()).head.status, alone.tried.length], [500, 1]);
  assertEquals(alone.table.failures(alone.tried[0]), 1);
  using others = await parts([dead, head(200)]);
  using _beside = await others.beside();
  assertEquals([(await others.dispatch()).head.status, others.tried.length], [200, 2]);
  assertEquals(others.table.failures(others.tried[0]), 1);
});

Deno.test("Dispatcher: a request by which two engines were lost is not tried on a third", async () => {
  using all = await parts(["lost_before_answer", "lost_in_answer", head(200)], { retries: 5 });
  assertEquals([await codeOf(all.dispatch()), all.tried.length], ["upstream_failed", 2]);
  using timeouts = await parts(["header_timeout", "header_timeout", head(200)], { retries: 5 });
  assertEquals([(await timeouts.dispatch()).head.status, timeouts.tried.length], [200, 3]);
});

Deno.test("Dispatcher: a 500 counts where a peer answers, else once for each kind of request", async () => {
  using peer = await parts([head(500), head(200)]);
  await peer.dispatch();
  assertEquals(peer.tried.map((row) => peer.table.failures(row)), [1, 0]);
  using nobody = await parts([head(500), head(500)]);
  await nobody.dispatch();
  assertEquals(nobody.tried.map((row) => nobody.table.failures(row)), [1, 1]);
});

Deno.test("Dispatcher: a 404 is told, since the engine may have other models than before", async () => {
  using all = await parts([head(404), head(404)]);
  await all.dispatch();
  assertEquals(all.missing, all.tried);
});

Deno.test("Dispatcher: nobody else is asked for a client that is gone", async () => {
  for (const leaves of [false, true]) {
    let leave = () => {};
    using all = await parts([head(404), head(200)], { missing: () => leave() });
    if (leaves) leave = () => all.call.cancellation.leave();
    const { head: { status } } = await all.dispatch();
    assertEquals([status, all.tried.length], leaves ? [404, 1] : [200, 2]);
  }
});

Deno.test("Dispatcher: tells once that an engine wants credentials, where the client's are withheld", async () => {
  const told = async (fields: Record<string, string>, transport: Partial<Transport> = {}) => {
    using all = await parts([head(401), head(401)], { fields, transport });
    assertEquals((await all.dispatch()).head.status, 401);
    return all.withheld.length;
  };
  const fields = { authorization: "Bearer mine" };
  assertEquals(await told(fields), 1);
  assertEquals(await told({}), 0);
  assertEquals(await told(fields, { forwardCredentials: true }), 0);
  assertEquals(await told(fields, { authorization: "Bearer ours" }), 0);
});
