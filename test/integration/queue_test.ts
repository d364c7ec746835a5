// SPDX-License-Identifier: Apache-2.0
// Waiting for an endpoint, through a whole gateway: the engine answers when the test lets it, so who waits, and for whom,
// is known.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { chat, post, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { chunkedResponse, type RawServer, startRawServer } from "../support/raw_server.ts";
import { gate, until } from "../support/until.ts";

const STREAM = chunkedResponse(['data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "data: [DONE]\n\n"]);
const ANONYMOUS = { tenancy: { anonymous: { priority: "critical" } } };
const BATCH = { "x-aigw-priority": "batch" };
const DONE = /data: \[DONE\]\n\n$/;

/** An engine that has one request in prefill until `letGo`, and answers every later one at once. */
function busyEngine(): RawServer & { letGo(): void } {
  const first = gate();
  const server = startRawServer((_, n) => ({
    writes: [STREAM],
    before: () => n === 0 ? first.opened : undefined,
    then: "keep",
  }));
  return Object.assign(server, { letGo: first.open });
}

/** A gateway in front of it; how late its own loop is on a busy machine does not count. */
function gatewayOf(engine: RawServer, { admission, ...changes }: Record<string, unknown>): Promise<TestGateway> {
  return startTestGateway([engine], {
    probes: { enabled: false },
    // Its engines are silent for as long as a busy machine takes.
    outliers: { enabled: false },
    admission: { loop_delay_ms: 600_000, shed_below: -1_000, ...admission as Record<string, unknown> },
    ...changes,
  });
}

/** The engine prefills a long prompt from now on. */
async function occupy(
  gateway: TestGateway,
  engine: RawServer,
  headers: Record<string, string> = {},
): Promise<{ text: Promise<string> }> {
  const body = chat("word ".repeat(40_000), { stream: true, max_tokens: 1 });
  const long = post(gateway.origin, body, { headers }).then((response) => response.text());
  await until(() => engine.requests.length === 1, "the engine has the long prompt");
  return { text: long };
}

const waiting = (gateway: TestGateway, count: number) =>
  until(
    async () => await gateway.metric("aigw_tenant_waiting_requests") === count,
    `${count} requests wait`,
  );

// No two share a prefix: what the engine holds already would be granted at the same time as another.
const prompt = (name: string) => chat(`${name} `.repeat(8_000), { stream: true, max_tokens: 1 });

Deno.test("the queue: critical first, bounds by class, hopeless ones at once, a client that leaves leaves", async () => {
  await using engine = busyEngine();
  await using gateway = await gatewayOf(engine, {
    ...ANONYMOUS,
    admission: { batch: { requests: 1 } },
    // However long a busy machine takes until all wait, none is overdue.
    queue: { head_after_ms: 600_000, overdue_base_ms: 600_000 },
    workers: 1, // what two of them are granted at the same time may overtake on its way
  });
  const long = await occupy(gateway, engine);
  const ask = async (name: string, priority: string, more: Record<string, string> = {}, signal?: AbortSignal) => {
    const headers = { "x-aigw-priority": priority, ...more };
    const response = await post(gateway.origin, prompt(name), { headers, signal });
    await response.text();
    return `${response.status} ${response.headers.get("x-aigw-reason") ?? ""}`;
  };
  const batch = ask("batch", "batch");
  await waiting(gateway, 1);
  const standard = ask("standard", "standard");
  await waiting(gateway, 2);
  const leaving = new AbortController();
  const left = ask("left", "critical", {}, leaving.signal).catch(() => "left");
  await waiting(gateway, 3);
  const critical = ask("critical", "critical");
  await waiting(gateway, 4);
  assertEquals(await ask("too many", "batch"), "429 queue_full");
  assertEquals(await ask("hopeless", "critical", { "x-aigw-ttft-slo-ms": "5" }), "429 slo_unreachable");
  assertEquals(await ask("wrong", "critical", { "x-aigw-ttft-slo-ms": "soon" }), "400 invalid_request");
  leaving.abort();
  assertEquals(await left, "left");
  engine.letGo();
  assertMatch(await long.text, DONE);
  assertEquals(await Promise.all([critical, standard, batch]), ["200 ", "200 ", "200 "]);
  // As the engine got them.
  const order = engine.requests.map((request) => /"content":"(\w+) /.exec(request)?.[1]);
  assertEquals(order.filter((name) => name !== "left"), ["word", "critical", "standard", "batch"]);
  await gateway.settled();
  await waiting(gateway, 0);
});

Deno.test("the queue: who has waited for as long as its class may is refused, and is not sent", async () => {
  await using engine = busyEngine();
  await using gateway = await gatewayOf(engine, {
    ...ANONYMOUS,
    admission: { batch: { max_wait_ms: 300 } },
    queue: { head_after_ms: 600_000 },
  });
  const long = await occupy(gateway, engine);
  const response = await post(gateway.origin, prompt("batch"), { headers: BATCH });
  assertEquals([response.status, (await response.json()).error.code], [429, "queue_timeout"]);
  await waiting(gateway, 0);
  engine.letGo();
  assertMatch(await long.text, DONE);
  await gateway.settled();
  assertEquals(engine.requests.length, 1);
});

Deno.test("a stream that waits for long gets its head: then its client's leaving is noticed, and errors are events", async () => {
  await using engine = busyEngine();
  await using gateway = await gatewayOf(engine, {
    admission: { batch: { max_wait_ms: 300 } },
    queue: { head_after_ms: 100 },
  });
  const long = await occupy(gateway, engine);
  const leaving = new AbortController();
  const leaves = await post(gateway.origin, prompt("leaves"), { signal: leaving.signal });
  assertEquals([leaves.status, leaves.headers.get("content-type")], [200, "text/event-stream;charset=UTF-8"]);
  await waiting(gateway, 1);
  leaving.abort();
  await leaves.body?.cancel().catch(() => {});
  await waiting(gateway, 0);
  const late = await post(gateway.origin, prompt("late"), { headers: BATCH });
  assertEquals([late.status, late.headers.get("content-type")], [200, "text/event-stream;charset=UTF-8"]);
  const text = await late.text();
  assertMatch(text, /^: waiting\n\n/);
  assert(text.includes('"code":"queue_timeout"'), text);
  assertMatch(text, DONE);
  engine.letGo();
  assertMatch(await long.text, DONE);
  await gateway.settled();
  assertEquals(engine.requests.length, 1, "neither was sent");
});

Deno.test("a batch request before its first token is pre-empted for a critical one, where that is configured", async () => {
  await using engine = startRawServer((_, n) =>
    n === 0 ? { writes: [], then: "hang" } : { writes: [STREAM], then: "keep" }
  );
  await using gateway = await gatewayOf(engine, { ...ANONYMOUS, admission: { preempt: true } });
  const long = await occupy(gateway, engine, BATCH);
  // The engine never answers the first: only by the batch request's giving up its place is there an answer.
  const urgent = await post(gateway.origin, prompt("urgent"));
  assertMatch(await urgent.text(), DONE);
  assert((await long.text).includes('"code":"preempted"'));
  await until(() => engine.closedByPeer === 1, "the engine is told that nobody waits for the first");
  assertEquals(engine.requests.length, 2);
  await gateway.settled();
});

Deno.test("batch requests are refused while the cluster is saturated; critical ones wait", async () => {
  const first = gate();
  await using engine = startRawServer(() => ({ writes: [STREAM], before: () => first.opened, then: "keep" }));
  await using gateway = await gatewayOf(engine, {
    ...ANONYMOUS,
    admission: { shed_below: 0 },
    saturation: { backlog_ms: 500, interval_ms: 20 },
  });
  const answers = Array.from(
    { length: 6 },
    async (_, i) => await (await post(gateway.origin, prompt(`critical${i}`))).text(),
  );
  await waiting(gateway, 5);
  await until(async () => await gateway.metric("aigw_cluster_saturation_ratio") >= 1, "the cluster is full");
  const refused = await post(gateway.origin, chat("x", { max_tokens: 1 }), { headers: BATCH });
  assert(Number(refused.headers.get("retry-after")) >= 1);
  assertEquals([refused.status, (await refused.json()).error.code], [429, "saturated"]);
  first.open();
  for (const answer of await Promise.all(answers)) assertMatch(answer, DONE);
  await until(async () => await gateway.metric("aigw_cluster_saturation_ratio") < 1, "the backlog is worked off");
  const accepted = await post(gateway.origin, chat("x", { stream: true }), { headers: BATCH });
  assertMatch(await accepted.text(), DONE);
  await gateway.settled();
});
