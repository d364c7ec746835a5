// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { CHANGE, chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";

/** The start of the answer; `cut` ends the sending side, for what is the beginning of a request and would be waited for. */
async function raw(port: number, request: Uint8Array | string, cut = false): Promise<string> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  try {
    const out = typeof request === "string" ? bytes(request) : request;
    for (let at = 0; at < out.length;) at += await connection.write(out.subarray(at));
    if (cut) await connection.closeWrite();
    const buffer = new Uint8Array(65_536);
    const n = await connection.read(buffer);
    return new TextDecoder().decode(buffer.subarray(0, n ?? 0));
  } catch {
    return "reset";
  } finally {
    connection.close();
  }
}

Deno.test("wrong requests get a clear answer each, and the gateway serves on", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using gateway = await startTestGateway(engines, {
    limits: { body_bytes: 100_000 },
    timeouts: { request_body_ms: 2_000 },
  });
  const { port } = gateway.gateway.listen;
  const errorOf = async (response: Response) => {
    const { error } = await response.json();
    assert(typeof error.message === "string" && error.message.length > 10);
    assertEquals(response.headers.get("content-type"), "application/json");
    assert(response.headers.get("x-request-id"));
    assertEquals(response.headers.get("x-aigw-reason"), error.code);
    return [response.status, error.code];
  };

  const random = new Random(seed);
  for (let i = 0; i < 100; i++) {
    const noise = random.bytes(1 + random.below(2_000));
    noise[0] = 0x25; // a percent sign: a digit alone would be JSON
    assertEquals(await errorOf(await post(gateway.origin, noise)), [400, "invalid_json"]);
  }
  assertEquals(await errorOf(await post(gateway.origin, "")), [400, "invalid_json"]);
  assertEquals(await errorOf(await post(gateway.origin, chat("x".repeat(100_000)))), [413, "body_too_large"]);
  // A body without an announced length is counted as it comes.
  const endless = await raw(
    port,
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1adb0\r\n${
      "x".repeat(110_000)
    }\r\n`,
  );
  assert(endless.startsWith("HTTP/1.1 413 ") && endless.includes("body_too_large"), endless);
  assertEquals(await errorOf(await fetch(`${gateway.origin}/v2/chat`)), [404, "route_not_found"]);
  const method = await fetch(`${gateway.origin}/v1/chat/completions`);
  assertEquals(method.headers.get("allow"), "POST");
  assertEquals(await errorOf(method), [405, "method_not_allowed"]);
  assertEquals(await errorOf(await fetch(`${gateway.origin}/v1/models`, { method: "DELETE" })), [
    405,
    "method_not_allowed",
  ]);

  // A body that never comes.
  const slow = await raw(port, "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{");
  assert(slow.startsWith("HTTP/1.1 408 ") && slow.includes("request_timeout"), slow);
  // Headers of 64 KiB in one field and in many.
  const body = chat("x", { max_tokens: 1 });
  const request = (headers: string) =>
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n${headers}content-length: ${body.length}\r\n\r\n${body}`;
  // Up to its own parser's limit the gateway says what is too large; beyond, the parser answers 400 without a body.
  for (
    const [headers, status] of [
      [`x-long: ${"y".repeat(20_000)}\r\n`, 200],
      [`x-long: ${"y".repeat(65_000)}\r\n`, 431],
      [`x-long: ${"y".repeat(900)}\r\n`.repeat(70), 431],
      [`x-long: ${"y".repeat(65_536)}\r\n`, 400],
    ] as const
  ) {
    const answer = await raw(port, request(headers));
    assert(answer.startsWith(`HTTP/1.1 ${status} `), answer.slice(0, 200));
    assertEquals(answer.includes('"code":"headers_too_large"'), status === 431);
  }
  // Not HTTP at all, and requests cut anywhere.
  for (let i = 0; i < 50; i++) await raw(port, random.bytes(1 + random.below(300)), true);
  const whole = bytes(request(""));
  for (let i = 1; i < whole.length; i += 7) {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    await connection.write(whole.subarray(0, i));
    connection.close();
  }
  const fine = await post(gateway.origin, chat("still here"));
  assertEquals(fine.status, 200);
  await fine.text();
  await gateway.settled();
  const { workers } = await (await fetch(`${gateway.admin}/workers`)).json();
  assert(workers.every(({ restarts }: { restarts: number }) => restarts === 0));
});

Deno.test("a cluster without endpoints answers 503 and says so", async () => {
  await using gateway = await startTestGateway([]);
  const response = await post(gateway.origin, chat("x"));
  assertEquals([response.status, (await response.json()).error.code], [503, "no_endpoint"]);
  await gateway.settled();
});

Deno.test("more requests than rows are refused, none is lost", async () => {
  await using engines = startEngines(1, { speed: 5 });
  await using gateway = await startTestGateway(engines, { limits: { requests_in_flight: 5 }, workers: 1 });
  const statuses = await Promise.all(Array.from({ length: 20 }, async () => {
    const response = await post(gateway.origin, chat("x", { max_tokens: 50 }));
    const answer = await response.json();
    return response.status === 200 ? 200 : answer.error.code;
  }));
  assertEquals(statuses.filter((status) => status === 200).length, 5);
  assertEquals(statuses.filter((status) => status === "overloaded").length, 15);
  await gateway.settled();
});

Deno.test("admin: wrong paths, methods and bodies get a clear answer", async () => {
  await using gateway = await startTestGateway([]);
  const call = async (path: string, init?: RequestInit) => {
    const response = await fetch(gateway.admin + path, init);
    return [response.status, (await response.json()).error.code];
  };
  assertEquals(await call("/nope"), [404, "route_not_found"]);
  assertEquals(await call("/explain"), [405, "method_not_allowed"]);
  assertEquals(await call("/explain", { method: "POST", body: "{" }), [400, "invalid_json"]);
  assertEquals(await call("/explain", { method: "POST", body: "" }), [400, "invalid_json"]);
  assertEquals(await call("/workers/99/restart", CHANGE), [404, "route_not_found"]);
  const health = await fetch(`${gateway.admin}/healthz`);
  assertEquals([health.status, await health.text()], [200, "ok\n"]);
});
