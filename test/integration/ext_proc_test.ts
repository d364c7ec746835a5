// SPDX-License-Identifier: Apache-2.0
// The gateway as Envoy's endpoint picker, asked by a stand-in for Envoy in each mode: where requests go and how they are
// changed, what is refused, what becomes of answers, and that no load is left behind, however an exchange ends.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { EnvoyStandIn, Mode } from "../support/envoy_stand_in.ts";
import { startEngines, startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const CHAT = "/v1/chat/completions";
const MODES = [
  ["duplex", { request: Mode.fullDuplex, response: Mode.fullDuplex }],
  ["buffered, streamed", { request: Mode.buffered, response: Mode.streamed }],
  ["buffered, not shown", { request: Mode.buffered, response: Mode.none }],
] as const;

const chat = (text: string, more: Record<string, unknown> = {}) =>
  JSON.stringify({ model: "m", messages: [{ role: "user", content: text }], max_tokens: 4, ...more });

function startPicker(
  endpoints: Parameters<typeof startTestGateway>[0],
  changes: Record<string, unknown> = {},
): ReturnType<typeof startTestGateway> {
  return startTestGateway(endpoints, { workers: 1, ext_proc: { listen: "127.0.0.1:0", fallbacks: 1 }, ...changes });
}

const pickerOf = ({ gateway }: { gateway: { extProc: { hostname: string; port: number } | undefined } }) =>
  formatAddress(gateway.extProc!);

for (const [name, modes] of MODES) {
  Deno.test(`ext_proc (${name}): a request is brought to the chosen endpoint, its answer to the client`, async () => {
    await using engines = startEngines(2, { speed: 20 });
    await using gateway = await startPicker(engines);
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    const names = engines.map(({ address }) => formatAddress(address));

    const one = await envoy.exchange(CHAT, { body: chat("one ".repeat(900)) });
    assertEquals([one.status, one.immediate], [200, false]);
    assertEquals(JSON.parse(one.body).object, "chat.completion");
    assertEquals(one.metadata, one.destination);
    assertEquals(one.destination!.split(",").sort(), names.sort(), "the other one is told as the fallback");
    // Its cache is known from then on.
    const again = await envoy.exchange(CHAT, { body: chat("one ".repeat(900)) });
    assertEquals(again.destination, one.destination);

    const stream = await envoy.exchange(CHAT, { body: chat("two", { stream: true }) });
    assertEquals(stream.status, 200);
    assert(stream.body.endsWith("data: [DONE]\n\n"), stream.body);
    assert(!stream.body.includes('"usage":{'), "who did not ask for the usage does not see it");
    const rewrites = modes.response === Mode.fullDuplex;
    assertEquals(stream.sent!.body.includes("include_usage"), rewrites);
    assertEquals(stream.headers.get("x-aigw-via") !== null, rewrites);
    assertEquals(Number(stream.sent!.headers.get("content-length")), stream.sent!.body.length);

    const models = await envoy.exchange("/v1/models");
    assertEquals([models.immediate, JSON.parse(models.body).data[0].id], [true, "m"]);
    await gateway.settled();
    assertEquals(await gateway.metric("aigw_requests_total"), 4);
  });

  Deno.test(`ext_proc (${name}): what the gateway refuses, the client is told`, async () => {
    await using engines = startEngines(1);
    await using gateway = await startPicker(engines, { limits: { body_bytes: 2_000 } });
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    for (
      const [status, reason, path, body] of [
        [404, "model_not_found", CHAT, chat("x", { model: "other" })],
        [400, "invalid_json", CHAT, "{"],
        [413, "body_too_large", CHAT, chat("x".repeat(3_000))],
        [404, "route_not_found", "/v1/nothing", chat("x")],
        [405, "method_not_allowed", CHAT, undefined],
      ] as const
    ) {
      const refused = await envoy.exchange(path, { body });
      assertEquals([refused.status, refused.immediate], [status, true], reason);
      assertEquals(refused.headers.get("x-aigw-reason"), reason);
      assertEquals(JSON.parse(refused.body).error.code, reason);
    }
  });

  Deno.test(`ext_proc (${name}): only endpoints of the subset are chosen`, async () => {
    await using engines = startEngines(4, { speed: 20 });
    await using gateway = await startPicker(engines);
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    const names = engines.map(({ address }) => formatAddress(address));
    const seen = new Set<string>();
    for (let i = 0; i < 12; i++) {
      const subset = names.slice(1, 3);
      const { destination } = await envoy.exchange(CHAT, { body: chat(`${i}`.repeat(900)), subset });
      const [first, other] = destination!.split(",");
      seen.add(first);
      assertEquals([first, other].sort(), subset.sort());
    }
    assertEquals(seen.size, 2, "both are used");
    for (const subset of [[], ["127.0.0.1:1"], ["nobody"]]) {
      const refused = await envoy.exchange(CHAT, { body: chat("x"), subset });
      assertEquals([refused.status, refused.immediate], [503, true]);
      assertEquals(refused.headers.get("x-aigw-reason"), "no_endpoint");
    }
    // Afterwards the others are candidates again.
    for (let i = 0; i < 40 && seen.size < 4; i++) {
      seen.add((await envoy.exchange(CHAT, { body: chat(`again ${i} `.repeat(300)) })).destination!.split(",")[0]);
    }
    assertEquals(seen.size, 4);
    await gateway.settled();
  });

  Deno.test(`ext_proc (${name}): the load goes where Envoy brought the request in the end`, async () => {
    await using engines = startEngines(2, { speed: 0.5 });
    await using gateway = await startPicker(engines);
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    let served = "";
    const exchange = envoy.exchange(CHAT, {
      body: chat("where", { max_tokens: 30, stream: true }),
      decided: (destination) => served = destination.split(",")[1],
    });
    await until(async () => {
      const loaded = (await gateway.endpoints()).filter(({ in_flight }) => in_flight > 0);
      return loaded.length === 1 && `${loaded[0].address}:${loaded[0].port}` === served;
    }, "the load is on the endpoint that has the request");
    assertEquals((await exchange).status, 200);
    await gateway.settled();
  });

  Deno.test(`ext_proc (${name}): an exchange that is given up after any message leaves no load behind`, async () => {
    await using engines = startEngines(2, { speed: 5 });
    await using gateway = await startPicker(engines);
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    await Promise.all(Array.from({ length: 60 }, async (_, i) => {
      const body = chat(`${i} `.repeat(i * 20), { stream: i % 2 === 0, max_tokens: 12 });
      await envoy.exchange(CHAT, { body, cutAfter: i >> 2 }).catch(() => {});
    }));
    await gateway.settled();
  });

  Deno.test(`ext_proc (${name}): clients that leave at any moment leave no load behind`, async () => {
    await using engines = startEngines(2, { speed: 2 });
    await using gateway = await startPicker(engines);
    using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
    const random = new Random(seed);
    await Promise.all(Array.from({ length: 40 }, async (_, i) => {
      const call = envoy.exchange(CHAT, {
        body: chat(`${i} `.repeat(random.below(500)), { stream: random.chance(0.6), max_tokens: 20 }),
        ...(random.chance(0.7) ? { leavesAfter: random.below(900) } : {}),
        ...(random.chance(0.2) ? { decided: () => Promise.reject(new Error("left")) } : {}),
      });
      await call.catch(() => {});
    }));
    envoy[Symbol.dispose]();
    await gateway.settled();
  });
}

Deno.test("ext_proc: a request waits for room in the gateway, and Envoy with it", async () => {
  await using engines = startEngines(1, { speed: 0.5 });
  await using gateway = await startPicker(engines, {
    queue: { room_tokens: 64, pack_tokens: 64 },
    metadata_center: { enabled: false },
  });
  using envoy = new EnvoyStandIn(pickerOf(gateway), MODES[0][1]);
  const sent: number[] = [];
  const exchanges = Array.from(
    { length: 4 },
    (_, i) => envoy.exchange(CHAT, { body: chat(`${i}`.repeat(4_000)), decided: () => void sent.push(i) }),
  );
  await until(async () => await gateway.metric("aigw_tenant_waiting_requests") > 0, "somebody waits");
  assert(sent.length < 4, `${sent.length} were sent at once`);
  for (const { status } of await Promise.all(exchanges)) assertEquals(status, 200);
  await gateway.settled();
});

Deno.test("ext_proc: keys of tenants, adapters and paths reach the engine as they are to", async () => {
  await using engines = startEngines(1);
  const sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"; // of "foo"
  await using gateway = await startPicker(engines, {
    tenants: [{ name: "t", keys_sha256: [sha256] }],
    tenancy: { anonymous: { priority: "standard" } },
    model_mapping_rule: {
      m: { rules: [{ backend: "vllm", cluster: "c", subset: [{ name: "s", labels: {}, lora: "adapter" }] }] },
    },
  });
  using envoy = new EnvoyStandIn(pickerOf(gateway), MODES[0][1]);
  const headers = { authorization: "Bearer foo", cookie: "a=b", "accept-encoding": "gzip", "x-own": "kept" };
  const { sent, status } = await envoy.exchange(`${CHAT}?x=1`, { body: chat("hello"), headers });
  const seen = sent!.headers;
  assertEquals([status, sent!.path], [200, `${CHAT}?x=1`]);
  assertEquals(JSON.parse(sent!.body).model, "adapter");
  assertEquals(["authorization", "cookie", "accept-encoding"].map((name) => seen.get(name)), [null, null, null]);
  assertEquals(seen.get("x-own"), "kept");
  assert(seen.get("x-request-id"));
});

/** What begins an exchange. */
const begins = (modes: { request: number; response: number }, fields: Record<string, string>, ends = false) => ({
  request_headers: {
    headers: {
      headers: Object.entries({ ":method": "POST", ":path": CHAT, ":scheme": "http", ...fields }).map((
        [key, value],
      ) => ({
        key,
        raw_value: new TextEncoder().encode(value),
      })),
    },
    end_of_stream: ends,
  },
  protocol_config: { request_body_mode: modes.request, response_body_mode: modes.response },
});
const bodyOf = (text: string, ends: boolean) => ({
  request_body: { body: new TextEncoder().encode(text), end_of_stream: ends },
});
const answers = (fields: Record<string, string>, ends = false) => ({
  response_headers: begins({ request: 0, response: 0 }, fields, ends).request_headers,
});

Deno.test("ext_proc: bodies without bytes end on their way there and back", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines, { routes: [{ path: "/v1/custom", kind: "other" }] });
  const modes = MODES[0][1];
  using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
  // A request whose head does not end it, and yet has no body: as a chunked one of no chunk.
  const empty = envoy.words();
  empty.say(begins(modes, { ":path": "/v1/custom" }));
  empty.say({ request_body: { body: new Uint8Array(0), end_of_stream: true } });
  const refused = await empty.hear();
  assertEquals(refused.immediate_response!.status.code, 400, "there is no JSON in it");
  empty.call.cancel();
  // An answer whose head does not end it, and yet has no body.
  const call = envoy.words();
  call.say(begins(modes, {}));
  call.say(bodyOf(chat("hello"), true));
  assert((await call.hear()).request_headers);
  while (!(await call.hear()).request_body!.response!.body_mutation!.streamed_response!.end_of_stream);
  call.say(answers({ ":status": "204" }));
  call.say({ response_body: { body: new Uint8Array(0), end_of_stream: true } });
  assert((await call.hear()).response_headers);
  assertEquals((await call.hear()).response_body!.response!.body_mutation!.streamed_response!.end_of_stream, true);
  call.call.cancel();
  await gateway.settled();
});

Deno.test("ext_proc: a buffered body whose request has trailers is the whole body", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines);
  const modes = MODES[1][1];
  using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
  const call = envoy.words();
  call.say(begins(modes, {}));
  assert((await call.hear()).request_headers);
  call.say(bodyOf(chat("hello"), false));
  assert((await call.hear()).request_body, "it is decided before its trailers are shown");
  call.say({ request_trailers: {} });
  assert((await call.hear()).request_trailers);
  call.call.cancel();
  await gateway.settled();
});

Deno.test("ext_proc: an engine's fields that clients are not to see are taken out", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines, { cors: { origins: ["https://own.example"] } });
  const modes = MODES[0][1];
  using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
  const call = envoy.words();
  call.say(begins(modes, { origin: "https://other.example" }));
  call.say(bodyOf(chat("hello"), true));
  await call.hear();
  await call.hear();
  call.say(
    answers({ ":status": "200", "content-type": "application/json", "access-control-allow-origin": "*", "x-own": "1" }),
  );
  call.say({ response_body: { body: new TextEncoder().encode("{}"), end_of_stream: true } });
  const { remove_headers } = (await call.hear()).response_headers!.response!.header_mutation!;
  assertEquals(remove_headers, ["access-control-allow-origin"]);
  call.call.cancel();
  await gateway.settled();
});

Deno.test("ext_proc: Envoy that takes nothing of a request gives its load back when it leaves, or time is up", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines, { timeouts: { request_ms: 2_000 } });
  const modes = MODES[0][1];
  using envoy = new EnvoyStandIn(pickerOf(gateway), modes);
  for (const leaves of [true, false]) {
    const call = envoy.words();
    call.call.pause(); // nothing is read, so the windows close
    call.say(begins(modes, {}));
    const body = chat("x".repeat(3_000_000));
    for (let at = 0; at < body.length; at += 60_000) {
      call.say(bodyOf(body.slice(at, at + 60_000), at + 60_000 >= body.length));
    }
    await until(async () => (await gateway.endpoints())[0].in_flight === 1, "it is granted");
    if (leaves) call.call.cancel();
    await gateway.settled();
    call.call.cancel();
  }
});

Deno.test("ext_proc: a follow-up goes to the engine that has the response, but not out of its subset", async () => {
  await using engines = startEngines(2, { speed: 20 });
  await using gateway = await startPicker(engines);
  using envoy = new EnvoyStandIn(pickerOf(gateway), MODES[0][1]);
  const names = engines.map(({ address }) => formatAddress(address));
  const body = (more: Record<string, unknown>) => JSON.stringify({ model: "m", input: "hello", ...more });
  const first = await envoy.exchange("/v1/responses", { body: body({}) });
  const home = first.destination!.split(",")[0];
  const previous_response_id = JSON.parse(first.body).id;
  const ask = (subset: readonly string[]) =>
    envoy.exchange("/v1/responses", { body: body({ previous_response_id }), subset });
  assertEquals((await ask(names)).destination, home);
  const refused = await ask(names.filter((name) => name !== home));
  assertEquals([refused.status, refused.headers.get("x-aigw-reason")], [503, "no_endpoint"]);
  await gateway.settled();
});

Deno.test("ext_proc: a route that does not show the body is told what to change", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines);
  for (const request of [Mode.none, Mode.streamed, Mode.bufferedPartial]) {
    using envoy = new EnvoyStandIn(pickerOf(gateway), { request, response: Mode.fullDuplex });
    const refused = await envoy.exchange(CHAT, { body: chat("x") });
    assertEquals([refused.status, refused.headers.get("x-aigw-reason")], [500, "ext_proc_mode"]);
    assertMatch(JSON.parse(refused.body).error.message, /request_body_mode has to be BUFFERED or FULL_DUPLEX_STREAMED/);
  }
});

Deno.test("ext_proc: bytes that are no message, and messages in no order, end the call and nothing else", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines);
  using envoy = new EnvoyStandIn(pickerOf(gateway), MODES[0][1]);
  const random = new Random(seed);
  const whole = Uint8Array.from([
    18,
    20,
    10,
    18,
    10,
    16,
    10,
    7,
    ...new TextEncoder().encode(":method"),
    26,
    5,
    65,
    65,
    65,
    65,
    65,
  ]);
  await Promise.all(Array.from({ length: 300 }, async () => {
    const call = envoy.call();
    call.on("data", () => {});
    const over = new Promise<void>((resolve) => call.on("error", () => resolve()).on("end", () => resolve()));
    for (let k = random.below(4); k >= 0; k--) {
      const bytes = random.chance(0.5)
        ? Uint8Array.from({ length: random.below(40) }, () => random.below(256))
        : whole.map((byte) => random.chance(0.1) ? random.below(256) : byte).subarray(
          0,
          random.below(whole.length + 1),
        );
      call.write(bytes);
    }
    call.end();
    await over;
  }));
  assertEquals((await envoy.exchange(CHAT, { body: chat("still there") })).status, 200);
  await gateway.settled();
});
