// SPDX-License-Identifier: Apache-2.0
// What a hostile review found: one test a finding.

import { assert, assertEquals } from "@std/assert";
import http2 from "node:http2";
import { CHANGE, chat, post, sleep, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes, chunkedResponse, startRawServer } from "../support/raw_server.ts";
import { until } from "../support/until.ts";

const QUIET = { probes: { enabled: false }, metadata_center: { enabled: false } };
const OK = bytes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}");

async function rawStatus(port: number, head: string, body: string): Promise<string> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const text = new TextEncoder().encode(`${head}content-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`);
  await connection.write(text);
  const buffer = new Uint8Array(4_096);
  const n = await connection.read(buffer);
  connection.close();
  return new TextDecoder().decode(buffer.subarray(0, n ?? 0)).slice(9, 12);
}

Deno.test("characters of a URL or a Host that would be a line end or a path further on are refused", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], { ...QUIET, workers: 1 });
  const { port } = gateway.gateway.listen;
  const body = chat("x");
  const smuggled = "\u0120HTTP/1.1\u010d\u010aX-Evil:\u0120yes";
  assertEquals(await rawStatus(port, `POST /v1/chat/completions?x=${smuggled} HTTP/1.1\r\nhost: x\r\n`, body), "400");
  assertEquals(await rawStatus(port, `POST /v1/chat/completions?x=\u00e9 HTTP/1.1\r\nhost: x\r\n`, body), "400");
  const hidden = await rawStatus(port, "POST /health HTTP/1.1\r\nhost: a/v1/chat/completions?\r\n", body);
  assert(hidden === "400" || hidden === "405", hidden);
  assertEquals(
    await rawStatus(port, `POST /v1/responses/resp_1/cancel?${smuggled} HTTP/1.1\r\nhost: x\r\n`, "{}"),
    "400",
  );
  assertEquals(server.requests, []);
  assertEquals(
    await rawStatus(port, "POST /v1/chat/completions?x=%C4%8D HTTP/1.1\r\nhost: [::1]:8000\r\n", body),
    "200",
  );
});

Deno.test("HTTP/2 clients that leave their streams are no failures of the engine", async () => {
  await using engines = startEngines(2);
  await using gateway = await startTestGateway(engines, QUIET);
  const session = http2.connect(gateway.served);
  for (let i = 0; i < 8; i++) {
    const stream = session.request({ ":method": "POST", ":path": "/v1/chat/completions" });
    stream.on("error", () => {});
    stream.end(chat(`${i}`, { stream: true, max_tokens: 1_000 }));
    await new Promise((resolve) => stream.once("data", resolve));
    stream.close(http2.constants.NGHTTP2_CANCEL);
  }
  await gateway.settled();
  session.destroy();
  // Counted before its load is released: what there is to see is there now.
  const states = await gateway.endpoints() as unknown as { state: string; failures: number }[];
  assertEquals(states.map(({ state, failures }) => [state, failures]), [["available", 0], ["available", 0]]);
});

Deno.test("a cluster whose others are gone takes an ejected endpoint back at once", async () => {
  let broken = true;
  const failure = bytes("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}");
  await using sick = startRawServer(() => ({ writes: [broken ? failure : OK], then: "keep" }));
  await using well = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([sick, well], {
    ...QUIET,
    algorithm: "round_robin",
    outliers: { eject_ms: 600_000, max_eject_ms: 600_000 },
  });
  await until(async () => {
    await (await post(gateway.origin, chat("x"))).text();
    return (await gateway.endpoints())[0].state === "ejected";
  }, "the sick one is ejected");
  broken = false;
  const drained = await fetch(`${gateway.admin}/endpoints/127.0.0.1:${well.address.port}/drain`, CHANGE);
  await drained.text();
  const asked = sick.requests.length;
  await until(async () => {
    const answer = await post(gateway.origin, chat("x"));
    return await answer.text() === "{}" && answer.status === 200;
  }, "the ejected one answers");
  assert(sick.requests.length > asked);
});

Deno.test("a request that its engine took and lost is not sent there again", async () => {
  await using crashing = startRawServer((_, n) =>
    n === 0 ? { writes: [OK], then: "keep" } : { writes: [], pauseMs: 0, then: "close" }
  );
  let slow = false;
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let seen = 0;
  const serving = (async () => {
    for await (const connection of listener) {
      (async () => {
        const buffer = new Uint8Array(65_536);
        while (await connection.read(buffer).catch(() => null) !== null) {
          seen++;
          if (slow) {
            // Later than a connection is taken for one that was closed while it was idle.
            await sleep(300);
            break;
          }
          await connection.write(OK);
        }
        connection.close();
      })();
    }
  })();
  const address = { hostname: "127.0.0.1", port: (listener.addr as Deno.NetAddr).port };
  {
    await using gateway = await startTestGateway([{ address }], { ...QUIET, workers: 1, retries: 0 });
    await (await post(gateway.origin, chat("warm"))).text();
    slow = true;
    const lost = await post(gateway.origin, chat("x"));
    assertEquals([lost.status, (await lost.json()).error.code], [502, "upstream_failed"]);
    assertEquals(seen, 2);
  }
  listener.close();
  await serving;
  // A connection that was closed while it was idle is replaced without anybody's noticing.
  await using gateway = await startTestGateway([crashing], { ...QUIET, workers: 1, retries: 0 });
  assertEquals(await (await post(gateway.origin, chat("x"))).text(), "{}");
});

Deno.test("a retry that finds no other endpoint costs no budget", async () => {
  const busy = bytes("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}");
  await using alone = startRawServer(() => ({ writes: [busy], then: "keep" }));
  await using moody = startRawServer(() => ({ writes: [busy], then: "keep" }));
  await using steady = startRawServer(() => ({ writes: [OK], then: "keep" }));
  const endpoint = ({ address }: { address: { hostname: string; port: number } }) => ({
    address: address.hostname,
    port: address.port,
  });
  await using gateway = await startTestGateway([], {
    ...QUIET,
    workers: 1,
    outliers: { enabled: false },
    algorithm: "round_robin",
    retry_budget: { percent: 0, min_per_second: 1 },
    clusters: [{ name: "one", endpoints: [endpoint(alone)] }, {
      name: "two",
      endpoints: [endpoint(moody), endpoint(steady)],
    }],
    model_mapping_rule: {
      one: { rules: [{ backend: "vllm", cluster: "one" }] },
      two: { rules: [{ backend: "vllm", cluster: "two" }] },
    },
  });
  const ask = async (model: string) => {
    const response = await post(gateway.origin, JSON.stringify({ model, messages: [{ role: "user", content: "x" }] }));
    await response.text();
    return response.status;
  };
  for (let i = 0; i < 5; i++) assertEquals(await ask("one"), 503);
  assertEquals(await ask("two"), 200);
});

Deno.test("CORS: an engine's own answer to an origin does not come through", async () => {
  const answer = bytes("HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n\r\n{}");
  await using server = startRawServer(() => ({ writes: [answer], then: "keep" }));
  await using gateway = await startTestGateway([server], { ...QUIET, cors: { origins: ["https://app.example"] } });
  for (const [origin, allowed] of [["https://app.example", "https://app.example"], ["https://evil.example", null]]) {
    const response = await post(gateway.origin, chat("x"), { headers: { origin: origin! } });
    await response.text();
    assertEquals(response.headers.get("access-control-allow-origin"), allowed);
  }
});

Deno.test("streams: no compression is asked for, a length does not hide events, the engine's own usage chunk stays", async () => {
  const events = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n';
  const usage = 'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n';
  const done = "data: [DONE]\n\n";
  const withLength = (text: string) =>
    bytes(`HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  await using server = startRawServer(() => ({ writes: [withLength(events + usage + done)], then: "keep" }));
  await using gateway = await startTestGateway([server], QUIET);
  const hidden = await post(gateway.origin, chat("x", { stream: true }), { headers: { "accept-encoding": "gzip" } });
  assertEquals(await hidden.text(), events + done);
  assert(!server.requests[0].includes("accept-encoding"));
  await using plain = await startTestGateway([server], { ...QUIET, usage_accounting: false });
  const shown = await post(plain.origin, chat("x", { stream: true }));
  assertEquals(await shown.text(), events + usage + done);
});

Deno.test("an error as a stream's first event: 400, or the engine's fault with a retry; Anthropic's shape is kept", async () => {
  const first = (data: string) => chunkedResponse([`data: ${data}\n\n`, "data: [DONE]\n\n"]);
  const good = chunkedResponse(['data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "data: [DONE]\n\n"]);
  await using dead = startRawServer(() => ({
    writes: [first('{"error":{"message":"EngineDeadError","code":503}}')],
    then: "keep",
  }));
  await using steady = startRawServer(() => ({ writes: [good], then: "keep" }));
  await using gateway = await startTestGateway([dead, steady], {
    ...QUIET,
    workers: 1,
    algorithm: "round_robin",
    outliers: { enabled: false },
  });
  for (let i = 0; i < 4; i++) {
    const response = await post(gateway.origin, chat("x", { stream: true }));
    assertEquals(response.status, 200);
    assert((await response.text()).endsWith("data: [DONE]\n\n"));
  }
  await using alone = await startTestGateway([dead], QUIET);
  const failed = await post(alone.origin, chat("x", { stream: true }));
  assertEquals([failed.status, (await failed.json()).error.message], [503, "EngineDeadError"]);
  const anthropic = 'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"no"}}\n\n';
  await using claude = startRawServer(() => ({ writes: [chunkedResponse([anthropic])], then: "keep" }));
  await using messages = await startTestGateway([claude], QUIET);
  const refused = await fetch(`${messages.origin}/v1/messages`, {
    method: "POST",
    body: chat("x", { stream: true, max_tokens: 5 }),
  });
  assertEquals([refused.status, (await refused.json()).type], [400, "error"]);
});

Deno.test("a previous response of another model's cluster is not this model's; large stored responses come through", async () => {
  const stored = JSON.stringify({ id: "resp_abc", object: "response", pad: "x".repeat(1_500_000) });
  const whole = (text: string) =>
    bytes(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  await using a = startRawServer((request) => ({
    writes: [whole(request.startsWith("GET") ? stored : '{"id":"resp_abc"}')],
    then: "keep",
  }));
  await using b = startRawServer(() => ({ writes: [whole('{"id":"resp_b"}')], then: "keep" }));
  const cluster = (name: string, { address }: { address: { hostname: string; port: number } }) => ({
    name,
    endpoints: [{ address: address.hostname, port: address.port }],
  });
  await using gateway = await startTestGateway([], {
    ...QUIET,
    clusters: [cluster("a", a), cluster("b", b)],
    model_mapping_rule: {
      m: { rules: [{ backend: "vllm", cluster: "a" }] },
      n: { rules: [{ backend: "vllm", cluster: "b" }] },
    },
  });
  const create = (body: unknown) =>
    fetch(`${gateway.origin}/v1/responses`, { method: "POST", body: JSON.stringify(body) });
  assertEquals((await (await create({ model: "m", input: "x" })).json()).id, "resp_abc");
  const crossed = await create({ model: "n", input: "x", previous_response_id: "resp_abc" });
  assertEquals([crossed.status, (await crossed.json()).error.code], [404, "response_not_found"]);
  const large = await fetch(`${gateway.origin}/v1/responses/resp_abc`);
  assertEquals([large.status, (await large.text()).length], [200, stored.length]);
});

Deno.test("an adapter that the config gives labels goes where the labels are", async () => {
  await using plain = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gold = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([plain, { address: gold.address, labels: { tier: "gold" } }], {
    ...QUIET,
    model_mapping_rule: {
      m: {
        rules: [
          { backend: "vllm", cluster: "c" },
          {
            backend: "vllm",
            cluster: "c",
            headers: [{ key: "x-tier", value: "gold" }],
            subset: [{ labels: { tier: "gold" }, lora: "gold-adapter" }],
          },
        ],
      },
    },
  });
  for (let i = 0; i < 20; i++) {
    const body = JSON.stringify({ model: "gold-adapter", messages: [{ role: "user", content: `${i}` }] });
    await (await post(gateway.origin, body)).text();
  }
  assertEquals([plain.requests.length, gold.requests.length], [0, 20]);
});
