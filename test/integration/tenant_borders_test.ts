// SPDX-License-Identifier: Apache-2.0
// What one tenant, or a stranger, may not do to another: through the whole gateway, at the engines' end too.

import { assert, assertEquals } from "@std/assert";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";
import { sha256 } from "../support/sha256.ts";

const key = (name: string) => ({ authorization: `Bearer ${name}` });

Deno.test("borders: a key that is right in part is none, and what one tenant stored is not there for another", async () => {
  await using engines = startEngines(2, { instant: true, models: ["m"] });
  const digest = await sha256("near");
  const near = `${digest.slice(0, 60)}${digest.endsWith("0000") ? "1111" : "0000"}`;
  await using gateway = await startTestGateway(engines, {
    tenants: [
      { name: "gold", keys_sha256: [await sha256("gold")] },
      { name: "night", keys_sha256: [await sha256("night")] },
      { name: "near", keys_sha256: [near] },
    ],
  });
  const statusOf = async (name: string) => {
    const response = await post(gateway.origin, chat("x", { max_tokens: 1 }), { headers: key(name) });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals([await statusOf("gold"), await statusOf("near")], [200, 401]);
  const create = async (name: string, body: Record<string, unknown>) => {
    const response = await fetch(`${gateway.origin}/v1/responses`, {
      method: "POST",
      headers: { "content-type": "application/json", ...key(name) },
      body: JSON.stringify({ model: "m", input: "Hello", ...body }),
    });
    return { status: response.status, body: await response.json() };
  };
  const { body: { id } } = await create("gold", {});
  const read = async (name: string, method = "GET") => {
    const response = await fetch(`${gateway.origin}/v1/responses/${id}`, { method, headers: key(name) });
    return [response.status, response.headers.get("x-aigw-reason"), (await response.json()).id];
  };
  assertEquals(await read("night"), [404, "response_not_found", undefined]);
  assertEquals(await read("night", "DELETE"), [404, "response_not_found", undefined]);
  assertEquals((await create("night", { previous_response_id: id })).status, 404);
  assertEquals(await read("gold"), [200, null, id]);
});

Deno.test("borders: how a client frames its body is its own affair: the engine gets a length", async () => {
  const answer = '{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}';
  await using engine = startRawServer(() => ({
    writes: [
      bytes(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${answer.length}\r\n\r\n${answer}`),
    ],
    then: "keep",
  }));
  await using gateway = await startTestGateway([engine], { probes: { enabled: false } });
  const { hostname, port } = new URL(gateway.origin);
  const body = chat("Hello");
  using connection = await Deno.connect({ hostname, port: Number(port) });
  await connection.write(bytes(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n` +
      `te: trailers\r\ncookie: a=b\r\nconnection: close, x-mine\r\nx-mine: 1\r\n\r\n` +
      `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
  ));
  const text = await new Response(connection.readable).text();
  assert(text.startsWith("HTTP/1.1 200"), text);
  const [request] = engine.requests;
  assert(request.endsWith(body) && request.includes(`content-length: ${body.length}\r\n`), request);
  assert(!/^(?:transfer-encoding|te|cookie|x-mine|trailer):/im.test(request), request);
});

Deno.test("borders: what waits is bounded in bytes, whatever the number of requests", async () => {
  await using engines = startEngines(1, { models: ["m"] });
  for (const engine of engines) engine.pause();
  const kib = (of: string) => chat(`${of} `.repeat(40_000 / (of.length + 1)), { stream: true, max_tokens: 1 });
  await using gateway = await startTestGateway(engines, {
    outliers: { enabled: false },
    queue: { head_after_ms: 600_000 },
    admission: { loop_delay_ms: 600_000, shed_below: -1_000, standard: { bytes: 100_000, requests: 1_000 } },
  });
  const answers = ["first", "second", "third", "fourth", "fifth", "sixth"].map(async (name) => {
    const response = await post(gateway.origin, kib(name));
    const text = await response.text();
    return response.status === 200 ? "answered" : JSON.parse(text).error.code;
  });
  // One is at the engine, two wait; the others are refused at once.
  assertEquals(await Promise.race(answers), "queue_full");
  const refused = answers.map((answer) => answer.then((code) => code === "queue_full"));
  let count = 0;
  for (const one of refused) one.then((is) => is && count++);
  while (count < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  for (const engine of engines) engine.resume();
  assertEquals((await Promise.all(answers)).toSorted(), [...Array(3).fill("answered"), ...Array(3).fill("queue_full")]);
  await gateway.settled();
});
