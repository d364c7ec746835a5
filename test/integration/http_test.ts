// SPDX-License-Identifier: Apache-2.0
// HTTP itself: request smuggling shapes, limits, Expect, CORS, HTTP/2 and TLS, time limits, engines' wishes.

import { assert, assertEquals, assertMatch } from "@std/assert";
import http2 from "node:http2";
import { CHANGE, chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";
import { makeCertificate } from "../support/tls.ts";
import { gate, until } from "../support/until.ts";

const QUIET = { probes: { enabled: false }, metadata_center: { enabled: false } };
const OK = bytes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}");

/** Sends raw bytes and returns what comes back: so many answers, or all until the server closes. */
async function raw(port: number, text: string, answers = 1): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  await connection.write(bytes(text));
  const buffer = new Uint8Array(65_536);
  let answer = "";
  while (completeAnswers(answer) < answers) {
    const n = await connection.read(buffer).catch(() => null);
    if (n === null) break;
    answer += new TextDecoder("latin1").decode(buffer.subarray(0, n));
  }
  return answer;
}

/** How many whole answers a text begins with. */
function completeAnswers(text: string): number {
  let count = 0;
  for (let at = 0;;) {
    const head = text.indexOf("\r\n\r\n", at);
    if (head < 0) return count;
    const length = /\r\ncontent-length: *(\d+)/i.exec(text.slice(at, head + 2));
    at = head + 4 + Number(length?.[1] ?? 0);
    if (at > text.length) return count;
    count++;
  }
}

Deno.test("request smuggling shapes: refused, or one request with one meaning", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], { ...QUIET, workers: 1 });
  const { port } = gateway.gateway.listen;
  const body = chat("x");
  const hidden = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n";
  const chunked = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
  const head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
  const shapes: [name: string, text: string, refused: boolean, answers?: number][] = [
    ["two lengths", `${head}content-length: ${body.length}\r\ncontent-length: 3\r\n\r\n${body}`, true],
    ["a list of lengths", `${head}content-length: ${body.length}, 3\r\n\r\n${body}`, true],
    ["a signed length", `${head}content-length: +${body.length}\r\n\r\n${body}`, true],
    ["length and chunked", `${head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n${chunked}`, false],
    ["an unknown coding", `${head}transfer-encoding: xchunked\r\n\r\n${chunked}`, true],
    ["chunked not last", `${head}transfer-encoding: chunked, identity\r\n\r\n${chunked}`, true],
    ["a space before the colon", `${head}content-length : ${body.length}\r\n\r\n${body}`, true],
    ["a chunk size with a sign", `${head}transfer-encoding: chunked\r\n\r\n-1\r\n${body}\r\n0\r\n\r\n`, true],
    ["a bare CR in a value", `${head}x: a\rb\r\ncontent-length: ${body.length}\r\n\r\n${body}`, true],
    ["a NUL in a value", `${head}x: a\x00b\r\ncontent-length: ${body.length}\r\n\r\n${body}`, true],
    ["no host", `POST /v1/chat/completions HTTP/1.1\r\ncontent-length: ${body.length}\r\n\r\n${body}`, false],
    [
      "a pipelined request",
      `${head}content-length: ${body.length}\r\n\r\n${body}${head}content-length: ${body.length}\r\n\r\n${body}`,
      false,
      2,
    ],
  ];
  for (const [name, text, refused, answers = 1] of shapes) {
    const before = server.requests.length;
    const answer = await raw(port, text, answers);
    if (answers > 1) assertEquals(completeAnswers(answer), answers, name);
    if (refused) {
      assert(answer === "" || /^HTTP\/1\.1 (400|413|431|499|501) /.test(answer), `${name}: ${answer}`);
      assertEquals(server.requests.length, before, name);
    } else assertMatch(answer, /^HTTP\/1\.1 (200|400) /, name);
    for (const request of server.requests.slice(before)) {
      assertEquals(request.slice(request.indexOf("\r\n\r\n") + 4), body, name);
      assert(!request.includes("transfer-encoding"), name);
      assertEquals(request.match(/content-length/g)?.length, 1, name);
    }
  }
  const smuggled = await raw(
    port,
    `${head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n${chunked}${hidden}`,
    2,
  );
  assert(!server.requests.some((request) => request.includes("\r\n\r\nPOST")), smuggled);
  await gateway.settled();
});

Deno.test("Expect: 100-continue is answered before the body is sent", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], { ...QUIET, workers: 1 });
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
  const body = chat("x");
  const head =
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: ${body.length}\r\n\r\n`;
  await connection.write(bytes(head));
  const buffer = new Uint8Array(4_096);
  const read = async () => new TextDecoder().decode(buffer.subarray(0, await connection.read(buffer) ?? 0));
  assertMatch(await read(), /^HTTP\/1\.1 100 /);
  await connection.write(bytes(body));
  assertMatch(await read(), /^HTTP\/1\.1 200 /);
  connection.close();
  assert(!server.requests[0].includes("expect"));
});

Deno.test("URLs and header fields beyond their limits are 414 and 431 in OpenAI's shape", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], {
    ...QUIET,
    limits: { url_bytes: 100, endpoint_header_bytes: 2_000 },
  });
  const long = await fetch(`${gateway.origin}/v1/chat/completions?${"q".repeat(200)}`, {
    method: "POST",
    body: chat("x"),
  });
  assertEquals([long.status, (await long.json()).error.code], [414, "url_too_long"]);
  const wide = await post(gateway.origin, chat("x"), { headers: { "x-wide": "w".repeat(3_000) } });
  assertEquals([wide.status, (await wide.json()).error.code], [431, "headers_too_large"]);
  const query = await fetch(`${gateway.origin}/v1/chat/completions?api-version=1`, { method: "POST", body: chat("x") });
  assertEquals([query.status, await query.text()], [200, "{}"]);
  assert(server.requests[0].startsWith("POST /v1/chat/completions?api-version=1 "));
});

Deno.test("CORS: preflights and answers for allowed origins; without it OPTIONS is not allowed", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using gateway = await startTestGateway(engines, {
    ...QUIET,
    cors: { origins: ["https://app.example"], max_age_s: 60 },
  });
  const url = `${gateway.origin}/v1/chat/completions`;
  const preflight = await fetch(url, {
    method: "OPTIONS",
    headers: { origin: "https://app.example", "access-control-request-headers": "content-type, x-mine" },
  });
  assertEquals(preflight.status, 204);
  assertEquals(preflight.headers.get("access-control-allow-origin"), "https://app.example");
  assertEquals(preflight.headers.get("access-control-allow-headers"), "content-type, x-mine");
  assertEquals(preflight.headers.get("access-control-max-age"), "60");
  for (const [origin, allowed] of [["https://app.example", "https://app.example"], ["https://evil.example", null]]) {
    for (const body of [chat("x"), chat("x", { stream: true }), "{"]) {
      const response = await post(gateway.origin, body, { headers: { origin: origin! } });
      await response.text();
      assertEquals(response.headers.get("access-control-allow-origin"), allowed);
    }
  }
});

Deno.test("HTTP/2 in cleartext and HTTPS with HTTP/2 and HTTP/1.1 serve chats and streams", async () => {
  await using engines = startEngines(1, { speed: 50 });
  const files = makeCertificate();
  const tls = files && { listen: "127.0.0.1:0", cert_file: files.cert, key_file: files.key };
  await using gateway = await startTestGateway(engines, { ...QUIET, ...(tls ? { tls } : {}) });
  const over = async (session: http2.ClientHttp2Session, body: string) => {
    const stream = session.request({
      ":method": "POST",
      ":path": "/v1/chat/completions",
      "content-type": "application/json",
    });
    stream.end(body);
    let text = "";
    let status = 0;
    stream.on("response", (headers) => status = Number(headers[":status"]));
    stream.setEncoding("utf8");
    for await (const piece of stream) text += piece;
    return { status, text };
  };
  const session = http2.connect(gateway.served);
  for (const stream of [false, true]) {
    const { status, text } = await over(session, chat("hello ".repeat(500), { stream, max_tokens: 3 }));
    assertEquals(status, 200);
    assert(stream ? text.endsWith("data: [DONE]\n\n") : JSON.parse(text).usage.completion_tokens === 3);
  }
  await new Promise<void>((resolve) => session.close(resolve));
  if (!files) return;
  const ca = Deno.readTextFileSync(files.cert);
  const address = `https://127.0.0.1:${gateway.gateway.tls!.port}`;
  for (const http2Only of [true, false]) {
    using client = Deno.createHttpClient({ caCerts: [ca], http1: !http2Only, http2: http2Only });
    const response = await fetch(`${address}/v1/chat/completions`, {
      method: "POST",
      body: chat("x", { stream: true }),
      client,
    });
    assert((await response.text()).endsWith("data: [DONE]\n\n"));
  }
  await gateway.settled();
});

Deno.test("a request's own deadline: 504 before the answer, an error event inside it, 400 for nonsense", async () => {
  await using engines = startEngines(1);
  await using gateway = await startTestGateway(engines, QUIET);
  const within = (ms: string, body: string) => post(gateway.origin, body, { headers: { "x-aigw-timeout-ms": ms } });
  const whole = await within("200", chat("x", { max_tokens: 20_000 }));
  assertEquals([whole.status, (await whole.json()).error.code], [504, "deadline_exceeded"]);
  // The engine begins and never ends; how long it takes to begin is up to the machine.
  let began = false;
  for (let ms = 400; !began; ms *= 2) {
    const stream = await within(String(ms), chat("x", { max_tokens: 20_000, stream: true }));
    const text = await stream.text();
    began = stream.status === 200;
    if (began) assertMatch(text, /"code":"deadline_exceeded"\}\}\n\ndata: \[DONE\]\n\n$/);
    else assertEquals([stream.status, JSON.parse(text).error.code], [504, "deadline_exceeded"]);
  }
  for (const wrong of ["0", "-1", "soon", "1.5"]) {
    const response = await within(wrong, chat("x"));
    assertEquals([response.status, (await response.json()).error.code], [400, "invalid_request"]);
  }
  await gateway.settled();
  await until(() => engines[0].model.idle, "the engine is let go");
});

Deno.test("Retry-After of an engine is honoured, then it is chosen again", async () => {
  for (const seconds of [600, 1]) {
    let busy = true;
    const refusal = bytes(`HTTP/1.1 429 Too Many\r\nretry-after: ${seconds}\r\ncontent-length: 2\r\n\r\n{}`);
    await using moody = startRawServer(() => ({ writes: [busy ? refusal : OK], then: "keep" }));
    await using steady = startRawServer(() => ({ writes: [OK], then: "keep" }));
    await using gateway = await startTestGateway([moody, steady], {
      ...QUIET,
      workers: 1,
      algorithm: "round_robin",
      outliers: { backpressure_ms: 1, max_backpressure_ms: 600_000 },
    });
    const ask = async () => {
      const response = await post(gateway.origin, chat("x"));
      assertEquals([response.status, await response.text()], [200, "{}"]);
    };
    await until(async () => (await ask(), moody.requests.length === 1), "the moody one is asked");
    if (seconds === 600) {
      for (let i = 0; i < 20; i++) await ask();
      assertEquals(moody.requests.length, 1);
      continue;
    }
    busy = false;
    await until(async () => (await ask(), moody.requests.length > 1), "it is chosen again when the time is over");
  }
});

Deno.test("an ejected engine gets nothing while others are there", async () => {
  await using sick = startRawServer(() => ({
    writes: [bytes("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}")],
    then: "keep",
  }));
  await using well = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([sick, well], {
    ...QUIET,
    workers: 1,
    algorithm: "round_robin",
    outliers: { consecutive_failures: 3, eject_ms: 600_000, max_eject_ms: 600_000 },
  });
  const ask = async () => (await (await post(gateway.origin, chat("x"))).text());
  await until(async () => (await ask(), (await gateway.endpoints())[0].state === "ejected"), "the sick one is ejected");
  const before = sick.requests.length;
  assert(before >= 3, `${before} failures`);
  for (let i = 0; i < 10; i++) await ask();
  assertEquals(sick.requests.length, before);
});

const EJECT_MS = 1_000;

Deno.test("an ejected engine comes back through one trial and a slow start", async () => {
  let broken = true;
  let mayAnswer = Promise.resolve();
  const failure = bytes("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}");
  await using sick = startRawServer(() => ({
    writes: [broken ? failure : OK],
    then: "keep",
    before: () => mayAnswer,
  }));
  await using well = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([sick, well], {
    ...QUIET,
    workers: 1,
    algorithm: "round_robin",
    outliers: { eject_ms: EJECT_MS, slow_start_ms: 60_000 },
  });
  const state = async () => (await gateway.endpoints())[0].state;
  const ask = async () => (await (await post(gateway.origin, chat("x"))).text());
  let began = 0;
  await until(async () => {
    began = performance.now();
    if (await state() === "available") await ask();
    return await state() === "trial";
  }, "the sick one was ejected and is on trial");
  const trial = gate();
  mayAnswer = trial.opened;
  const before = sick.requests.length;
  let answered = 0;
  const asked = Array.from({ length: 10 }, () => ask().then(() => answered++));
  const onTrial = () => sick.requests.length - before;
  await until(() => onTrial() > 0 && answered + onTrial() === 10, "all but those on trial are answered by the other");
  // A trial without a result is offered to another request after the time of an ejection.
  const offers = 1 + Math.floor((performance.now() - began) / EJECT_MS);
  assert(onTrial() <= offers, `${onTrial()} requests are on trial, of ${offers} offers`);
  trial.open();
  await Promise.all(asked);
  await until(async () => await state() === "ejected", "the trial failed");
  broken = false;
  await until(async () => (await ask(), await state() === "available"), "a trial succeeds");
});

Deno.test("a draining endpoint finishes what it has and gets nothing new", async () => {
  await using engines = startEngines(2);
  await using gateway = await startTestGateway(engines, QUIET);
  const streams = Array.from({ length: 8 }, () => post(gateway.origin, chat("x", { stream: true, max_tokens: 40 })));
  const answers = await Promise.all(streams);
  engines[0].pause();
  const name = `127.0.0.1:${engines[0].address.port}`;
  const admin = async (action: string, endpoint = name) => {
    const response = await fetch(`${gateway.admin}/endpoints/${endpoint}/${action}`, CHANGE);
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await admin("drain"), 200);
  assertEquals((await gateway.endpoints())[0].state, "draining");
  for (let i = 0; i < 6; i++) {
    const response = await post(gateway.origin, chat("x", { max_tokens: 1 }));
    await response.text();
    assertEquals(response.headers.get("x-mock-engine"), `127.0.0.1:${engines[1].address.port}`);
  }
  engines[0].resume();
  for (const answer of answers) assert((await answer.text()).endsWith("data: [DONE]\n\n"));
  assertEquals([await admin("resume"), await admin("drain", "10.0.0.1:1")], [200, 404]);
  assertEquals((await gateway.endpoints())[0].state, "available");
  await gateway.settled();
});
