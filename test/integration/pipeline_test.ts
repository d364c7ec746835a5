// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { chat, post, sleep, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes, chunkedResponse, cut, startRawServer } from "../support/raw_server.ts";
import { gate, until } from "../support/until.ts";

const OK = bytes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}");
const UNAVAILABLE = bytes("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy");
const QUIET = { probes: { enabled: false } };

Deno.test("body and answer pass byte for byte, end-to-end headers with them", async () => {
  const answer = bytes(
    'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nx-engine: 1\r\nkeep-alive: 5\r\nx-request-id: engine\'s\r\ncontent-length: 8\r\n\r\n{ "a":1}',
  );
  await using server = startRawServer(() => ({ writes: [answer], then: "keep" }));
  await using gateway = await startTestGateway([server], QUIET);
  const body =
    '{ "model" :"m",\n "messages":[{"content":"\\u00e9","role":"user"}], "chat_template_kwargs": {"x": 1.50} }';
  const response = await post(`${gateway.origin}`, body, { headers: { "x-mine": "yes", "x-request-id": "mine" } });
  assertEquals([response.status, await response.text()], [201, '{ "a":1}']);
  assertEquals(response.headers.get("x-engine"), "1");
  assertEquals(response.headers.get("x-request-id"), "mine");
  assertEquals(response.headers.get("keep-alive"), null);
  const [request] = server.requests;
  assert(request.startsWith("POST /v1/chat/completions HTTP/1.1\r\n"));
  assertStringIncludes(request, `host: 127.0.0.1:${server.address.port}\r\n`);
  assertStringIncludes(request, "x-mine: yes\r\n");
  assertStringIncludes(request, "x-request-id: mine\r\n");
  assertEquals(request.slice(request.indexOf("\r\n\r\n") + 4), body);
  await gateway.settled();
});

Deno.test("a stream passes byte for byte under every cut, with the streaming headers", async () => {
  const events = ['data: {"choices":[{"delta":{"content":"é"}}]}\n\n', ": ping\n\n", "data: [DONE]\n\n"];
  const whole = chunkedResponse(events, "text/event-stream; charset=utf-8");
  await using server = startRawServer((_, n) => ({
    writes: cut(whole, 1 + n % (whole.length - 1)),
    then: "keep",
    pauseMs: 0,
  }));
  await using gateway = await startTestGateway([server], QUIET);
  for (let i = 0; i < whole.length; i++) {
    const response = await post(gateway.origin, chat("x", { stream: true }));
    assertEquals(await response.text(), events.join(""));
    assertEquals(response.headers.get("content-type"), "text/event-stream;charset=UTF-8");
    assertEquals(response.headers.get("x-accel-buffering"), "no");
  }
  await gateway.settled();
});

Deno.test("a stream cut at any byte: an error while nothing went on, then whole events, an error event and [DONE]", async () => {
  const events = ["data: one\n\n", "data: two\n\n"];
  const whole = chunkedResponse(events);
  const headBytes = new TextDecoder().decode(whole).indexOf("\r\n\r\n") + 4;
  await using server = startRawServer((_, n) => ({ writes: [whole.slice(0, headBytes + n)], then: "close" }));
  await using gateway = await startTestGateway([server], QUIET);
  for (let i = 0; headBytes + i < whole.length; i++) {
    const response = await post(gateway.origin, chat("x", { stream: true }));
    const text = await response.text();
    if (response.status === 502) {
      assertEquals(JSON.parse(text).error.code, "upstream_failed");
      continue;
    }
    assertMatch(
      text,
      /^data: one\n\n(data: two\n\n)?data: \{"error":\{"message":"The engine [^\n]*"code":"upstream_failed"\}\}\n\ndata: \[DONE\]\n\n$/,
    );
  }
  await gateway.settled();
});

Deno.test("one retry on another endpoint: refused, lost before the answer, 503; the 503 of the last try passes", async () => {
  await using good = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using lost = startRawServer(() => ({ writes: [], then: "close" }));
  await using busy = startRawServer(() => ({ writes: [UNAVAILABLE], then: "keep" }));
  const refused = { address: { hostname: "127.0.0.1", port: 1 } };
  for (const bad of [refused, lost, busy]) {
    await using gateway = await startTestGateway([bad, good], {
      ...QUIET,
      algorithm: "round_robin",
      workers: 1,
      outliers: { enabled: false },
    });
    for (let i = 0; i < 6; i++) {
      const response = await post(gateway.origin, chat("x"));
      assertEquals([response.status, await response.text()], [200, "{}"]);
    }
    assert(await gateway.metric("aigw_retries_total") >= 2);
    await gateway.settled();
  }
  await using allBusy = await startTestGateway([busy], QUIET);
  const response = await post(allBusy.origin, chat("x"));
  assertEquals([response.status, await response.text()], [503, "busy"]);
  await using allLost = await startTestGateway([lost, refused], QUIET);
  const failed = await post(allLost.origin, chat("x"));
  assertEquals([failed.status, (await failed.json()).error.code], [502, "upstream_failed"]);
  assertEquals(failed.headers.get("x-aigw-reason"), "upstream_failed");
  await allBusy.settled();
  await allLost.settled();
});

Deno.test("an answer that breaks off is never retried", async () => {
  await using broken = startRawServer(() => ({
    writes: [bytes("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")],
    then: "close",
  }));
  await using gateway = await startTestGateway([broken, broken].slice(0, 1), QUIET);
  const response = await post(gateway.origin, chat("x"));
  assertEquals([response.status, (await response.json()).error.code], [502, "upstream_failed"]);
  assertEquals(broken.requests.length, 1);
  await gateway.settled();
});

Deno.test("routes: most matching headers first, labels choose endpoints, a LoRA subset sends its name", async () => {
  await using plain = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gold = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway(
    [plain, { address: gold.address, labels: { tier: "gold", zone: "a" } }],
    {
      ...QUIET,
      model_mapping_rule: {
        m: {
          rules: [
            {
              backend: "vllm",
              cluster: "c",
              headers: [{ key: "x-tier", value: "none" }],
              subset: [{ labels: { tier: "none" } }],
            },
            {
              backend: "vllm",
              cluster: "c",
              headers: [{ key: "x-tier", value: "gold" }],
              subset: [{ labels: { tier: "gold" }, lora: "gold-lora" }],
            },
          ],
        },
      },
    },
  );
  const body = '{"messages":[{"role":"user","content":"model"}], "model": "m" }';
  for (let i = 0; i < 5; i++) {
    const response = await post(gateway.origin, body, { headers: { "x-tier": "gold" } });
    assertEquals(response.headers.get("x-aigw-endpoint"), `127.0.0.1:${gold.address.port}`);
    await response.text();
  }
  assertStringIncludes(gold.requests[0], '{"messages":[{"role":"user","content":"model"}], "model": "gold-lora" }');
  assertEquals(plain.requests.length, 0);
  const nobody = await post(gateway.origin, body, { headers: { "x-tier": "none" } });
  assertEquals([nobody.status, (await nobody.json()).error.code], [503, "no_endpoint"]);
  assertEquals(nobody.headers.get("retry-after"), "1");
  const noRoute = await post(gateway.origin, body);
  assertEquals([noRoute.status, (await noRoute.json()).error.code], [404, "route_not_found"]);
  await gateway.settled();
});

Deno.test("load: prompt bytes until the first token, the request until the end", async () => {
  const [token, last] = [gate(), gate()];
  const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
  await using server = startRawServer(() => ({
    writes: [bytes(head), bytes("9\r\ndata: 1\n\n\r\n"), bytes("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")],
    before: (write) => [undefined, token.opened, last.opened][write],
    then: "keep",
  }));
  await using gateway = await startTestGateway([server], QUIET);
  const load = async () => {
    const [{ in_flight, prompt_bytes }] = await gateway.endpoints();
    return [in_flight, prompt_bytes];
  };
  const answering = post(gateway.origin, chat("hello", { stream: true }));
  await until(() => server.requests.length === 1, "the engine has the request");
  assertEquals(await load(), [1, '[{"role":"user","content":"hello"}]'.length]);
  token.open();
  const reader = (await answering).body!.getReader();
  await reader.read();
  assertEquals(await load(), [1, 0]);
  last.open();
  await reader.read();
  assert((await reader.read()).done);
  await gateway.settled();
});

Deno.test("load: a non-streaming prompt comes off by prediction, long before a slow answer", async () => {
  // By prediction some minutes, or some milliseconds.
  for (const [margin, comesOff] of [[100, false], [0.1, true]] as const) {
    const answer = gate();
    await using slow = startRawServer(() => ({ writes: [OK], before: () => answer.opened, then: "keep" }));
    await using gateway = await startTestGateway([slow], { ...QUIET, prediction: { first_token_margin: margin } });
    const pending = post(gateway.origin, chat("hello ".repeat(20_000)));
    await until(() => slow.requests.length === 1, "the engine has the request");
    const loaded = async () => {
      const [{ in_flight, prompt_bytes }] = await gateway.endpoints();
      assertEquals(in_flight, 1);
      return prompt_bytes > 0;
    };
    if (comesOff) await until(async () => !await loaded(), "the prompt comes off before there is an answer");
    else assert(await loaded());
    answer.open();
    assertEquals(await (await pending).text(), "{}");
    await gateway.settled();
  }
});

Deno.test("a client that leaves reaches the engine at once: before the answer, in a stream, in a body", async () => {
  await using hanging = startRawServer(() => ({ writes: [], then: "hang" }));
  await using gateway = await startTestGateway([hanging], QUIET);
  const controller = new AbortController();
  const waiting = post(gateway.origin, chat("x"), { signal: controller.signal }).catch(() => "left");
  await until(() => hanging.requests.length > 0, "the engine has the request");
  controller.abort();
  assertEquals(await waiting, "left");
  await until(() => hanging.closedByPeer === 1, "the engine's connection is closed");
  await gateway.settled();

  await using engines = startEngines(1);
  await using streaming = await startTestGateway(engines, QUIET);
  const stream = await post(streaming.origin, chat("x", { stream: true, max_tokens: 10_000 }));
  const reader = stream.body!.getReader();
  await reader.read();
  assertEquals(engines[0].model.running, 1);
  await reader.cancel();
  await until(() => engines[0].model.running === 0, "the engine stops generating");
  await streaming.settled();
});

Deno.test("a slow client slows its engine down; nothing piles up in the gateway", async () => {
  let produced = 0;
  const piece = new Uint8Array(65_536).fill(120);
  const listener = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () =>
    new Response(
      new ReadableStream({
        pull(controller) {
          controller.enqueue(piece);
          produced += piece.length;
          if (produced >= 200_000_000) controller.close();
        },
      }, { highWaterMark: 0 }),
    ));
  await using gateway = await startTestGateway(
    [{ address: { hostname: "127.0.0.1", port: listener.addr.port } }],
    QUIET,
  );
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
  const body = chat("x", { stream: true });
  await connection.write(
    bytes(`POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`),
  );
  await connection.read(new Uint8Array(1_024));
  // Without an end of it, all of the 200 MB would be produced.
  for (let before = -1; produced !== before; await sleep(1_000)) before = produced;
  assert(produced < 50_000_000, `${produced} bytes went into a client that does not read`);
  connection.close();
  await gateway.settled();
  await listener.shutdown();
});

Deno.test("a stray answer on an idle connection is nobody's answer", async () => {
  const named = (text: string) => bytes(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  const stray = gate();
  await using server = startRawServer((_, n) => ({
    writes: n === 0 ? [named("first"), named("stray")] : [named(`answer ${n}`)],
    before: (write) => n === 0 && write === 1 ? stray.opened : undefined,
    then: "keep",
  }));
  await using gateway = await startTestGateway([server], {
    ...QUIET,
    workers: 1,
    timeouts: { idle_connection_ms: 3_600_000 },
  });
  assertEquals(await (await post(gateway.origin, chat("x"))).text(), "first");
  stray.open();
  await until(() => server.closedByPeer === 1, "the connection with the stray answer is closed");
  for (let n = 1; n < 4; n++) assertEquals(await (await post(gateway.origin, chat("x"))).text(), `answer ${n}`);
  assertEquals(server.connections, 2);
});

Deno.test("an engine's control characters, odd statuses and early answers neither crash nor leak", async () => {
  const answers: [string, number][] = [
    ["HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 0\r\n\r\n", 502],
    ["HTTP/1.1 200 OK\r\nx: a\x7fb\r\ncontent-length: 0\r\n\r\n", 502],
    ["HTTP/1.1 700 Odd\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 502],
    ["HTTP/1.1 205 Reset\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 205],
  ];
  await using server = startRawServer((_, n) => ({ writes: [bytes(answers[n][0])], then: "keep" }));
  await using gateway = await startTestGateway([server], QUIET);
  for (const [, status] of answers) {
    const response = await post(gateway.origin, chat("x"));
    await response.text();
    assertEquals(response.status, status);
  }
  await gateway.settled();

  // Refuses a large body after its head, without reading it.
  const answered = gate();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const refusing = (async () => {
    for await (const connection of listener) {
      await connection.read(new Uint8Array(1_024));
      await connection.write(bytes("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno"));
      await answered.opened;
      connection.close();
    }
  })();
  const address = { hostname: "127.0.0.1", port: (listener.addr as Deno.NetAddr).port };
  {
    await using early = await startTestGateway([{ address }], QUIET);
    const response = await post(early.origin, chat("x".repeat(8_000_000)));
    assertEquals([response.status, await response.text()], [401, "no"]);
    answered.open();
    await early.settled();
  }
  listener.close();
  await refusing;
});

Deno.test("a client that pauses is not taken for a silent engine; one that takes nothing for too long is let go", async () => {
  const piece = new Uint8Array(65_536).fill(120);
  const listener = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () => {
    let left = 400;
    return new Response(
      new ReadableStream({
        pull(controller) {
          controller.enqueue(piece);
          if (--left === 0) controller.close();
        },
      }, { highWaterMark: 0 }),
    );
  });
  const address = { hostname: "127.0.0.1", port: listener.addr.port };
  {
    await using gateway = await startTestGateway([{ address }], { ...QUIET, timeouts: { stream_idle_ms: 2_000 } });
    const response = await post(gateway.origin, chat("x", { stream: true }));
    // Longer than an engine may be silent: nothing is awaited here that could come late.
    await sleep(3_000);
    assertEquals((await response.bytes()).length, 400 * piece.length);
    await gateway.settled();
  }
  {
    await using gateway = await startTestGateway([{ address }], { ...QUIET, timeouts: { client_stall_ms: 300 } });
    const response = await post(gateway.origin, chat("x", { stream: true }));
    await gateway.settled();
    await response.body!.cancel().catch(() => {});
  }
  await listener.shutdown();
});

Deno.test("the client's Connection header takes nothing else along", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], QUIET);
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
  const body = chat("x");
  await connection.write(
    bytes(
      `POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, x-hop,\r\nx-hop: 1\r\nx-own: k\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    ),
  );
  await connection.read(new Uint8Array(1_024));
  connection.close();
  const [request] = server.requests;
  assert(request.startsWith("POST /v1/chat/completions?a=b HTTP/1.1\r\n"));
  assertMatch(request, /\r\nx-own: k\r\n/);
  assert(!request.includes("x-hop"));
});
