// SPDX-License-Identifier: Apache-2.0
// Large forms go on to their engine while they arrive: nothing of a file is held, and what an upload that breaks off has
// sent is never taken for the whole.

import { assert, assertEquals } from "@std/assert";
import { concat } from "../../src/base/bytes.ts";
import { startTestGateway } from "../support/gateway.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const OK = bytes('HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"text":""}');
const BUSY = bytes("HTTP/1.1 413 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}");
const decoder = new TextDecoder("latin1");

/** An engine that shows what has come so far; it answers when the request is whole, or when `refuse` says so. */
function uploadEngine(refuse = (_seen: string) => false) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const uploads: { seen: Uint8Array; ended: boolean }[] = [];
  const open = new Set<Deno.Conn>();
  const serve = async (connection: Deno.Conn): Promise<void> => {
    open.add(connection);
    const upload = { seen: new Uint8Array(0), ended: false };
    uploads.push(upload);
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
        upload.seen = concat([upload.seen, buffer.subarray(0, n)]);
        const text = decoder.decode(upload.seen);
        if (refuse(text)) await connection.write(BUSY);
        else if (isWhole(text)) await connection.write(OK);
      }
    } catch {
      // reset by the gateway
    }
    upload.ended = true;
    open.delete(connection);
    connection.close();
  };
  const accepting = (async () => {
    for await (const connection of listener) serve(connection);
  })();
  return {
    address: listener.addr as Deno.NetAddr,
    uploads,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      await until(() => open.size === 0, "the gateway has closed its connections");
    },
  };
}

function isWhole(text: string): boolean {
  const head = text.indexOf("\r\n\r\n") + 4;
  if (head < 4) return false;
  const [, length] = /\r\ncontent-length: (\d+)/i.exec(text.slice(0, head)) ?? [];
  return length === undefined ? text.endsWith("\r\n0\r\n\r\n") : text.length >= head + Number(length);
}

/** The body of a request as the engine got it, its chunks put together. */
function bodyOf(seen: Uint8Array): Uint8Array {
  const text = decoder.decode(seen);
  let at = text.indexOf("\r\n\r\n") + 4;
  if (!/transfer-encoding: chunked/i.test(text.slice(0, at))) return seen.subarray(at);
  const pieces: Uint8Array[] = [];
  for (;;) {
    const end = text.indexOf("\r\n", at);
    const length = parseInt(text.slice(at, end), 16);
    if (length === 0) return concat(pieces);
    pieces.push(seen.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
}

const file = new Random(seed).bytes(300_000);
const field = (name: string, value: string) =>
  bytes(`--b\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`);
const fileField = concat([
  bytes('--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'),
  file,
  bytes("\r\n"),
]);
const END = bytes("--b--\r\n");
const HEAD =
  "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=b\r\n";

async function start(engines: { address: Deno.NetAddr }[], changes: Record<string, unknown> = {}) {
  const path = Deno.makeTempFileSync();
  const gateway = await startTestGateway(engines, {
    workers: 1,
    probes: { enabled: false },
    metadata_center: { enabled: false },
    log: { level: "error", enabled: true, path },
    ...changes,
  });
  const outcome = async () => {
    await until(() => Deno.readTextFileSync(path) !== "", "the request is logged");
    return JSON.parse(Deno.readTextFileSync(path)).outcome;
  };
  return {
    ...gateway,
    outcome,
    async [Symbol.asyncDispose]() {
      await gateway[Symbol.asyncDispose]();
      Deno.removeSync(path);
    },
  };
}

// The runtime does not close a connection whose request body has not come to its end.
async function answerOf(connection: Deno.Conn): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(65_536);
  while (!isWhole(text)) {
    const n = await connection.read(buffer);
    if (n === null) break;
    text += decoder.decode(buffer.subarray(0, n));
  }
  connection.close();
  return text;
}

const write = async (connection: Deno.Conn, data: Uint8Array): Promise<void> => {
  for (let at = 0; at < data.length;) at += await connection.write(data.subarray(at));
};

Deno.test("an upload goes on while it arrives, with an announced length and in chunks, under another model's name too", async () => {
  for (const target of ["", "whisper-large"]) {
    for (const chunked of [false, true]) {
      await using engine = uploadEngine();
      await using gateway = await start([engine], {
        model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c", target_model: target }] } },
      });
      const body = concat([field("model", "m"), fileField, END]);
      const wanted = concat([field("model", target || "m"), fileField, END]);
      const client = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
      const [first, second] = [body.subarray(0, 150_000), body.subarray(150_000)];
      const framed = (piece: Uint8Array) => concat([bytes(`${piece.length.toString(16)}\r\n`), piece, bytes("\r\n")]);
      const framing = chunked ? "transfer-encoding: chunked" : `content-length: ${body.length}`;
      await write(client, bytes(`${HEAD}${framing}\r\n\r\n`));
      await write(client, chunked ? framed(first) : first);
      // The engine has the beginning before the client sends the rest.
      await until(() => (engine.uploads[0]?.seen.length ?? 0) > 140_000, "the first half has reached the engine");
      await write(client, chunked ? concat([framed(second), bytes("0\r\n\r\n")]) : second);
      assert((await answerOf(client)).endsWith('{"text":""}'));
      assertEquals(bodyOf(engine.uploads[0].seen), wanted);
      assertEquals(await gateway.outcome(), "ok");
      await gateway.settled();
    }
  }
});

Deno.test("an upload whose model comes behind its file is read to there", async () => {
  await using engine = uploadEngine();
  await using gateway = await start([engine]);
  const body = concat([fileField, field("model", "m"), END]);
  const client = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
  await write(client, bytes(`${HEAD}content-length: ${body.length}\r\n\r\n`));
  await write(client, body);
  assert((await answerOf(client)).endsWith('{"text":""}'));
  assertEquals(bodyOf(engine.uploads[0].seen), body);
});

Deno.test("an upload that its client breaks off is broken off at the engine, and no failure of it", async () => {
  for (const chunked of [false, true]) {
    await using engine = uploadEngine();
    await using gateway = await start([engine]);
    const body = concat([field("model", "m"), fileField]);
    const client = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
    const framing = chunked ? "transfer-encoding: chunked" : `content-length: ${body.length + 100}`;
    await write(client, bytes(`${HEAD}${framing}\r\n\r\n${chunked ? `${body.length.toString(16)}\r\n` : ""}`));
    await write(client, body);
    await until(() => (engine.uploads[0]?.seen.length ?? 0) > 250_000, "the engine has most of it");
    client.close();
    await until(() => engine.uploads[0].ended, "the engine's connection is closed");
    assertEquals(isWhole(decoder.decode(engine.uploads[0].seen)), false);
    assertEquals([engine.uploads.length, await gateway.outcome()], [1, "client_closed"]);
    const [{ failures }] = await gateway.endpoints() as unknown as { failures: number }[];
    assertEquals(failures, 0);
    await gateway.settled();
  }
});

Deno.test("an upload beyond its limits of size or time ends with its error", async () => {
  for (
    const [limits, status, code] of [
      [{ limits: { body_bytes: 200_000 } }, 413, "body_too_large"],
      [{ timeouts: { request_body_ms: 300 } }, 408, "request_timeout"],
    ] as const
  ) {
    await using engine = uploadEngine();
    await using gateway = await start([engine], limits);
    const client = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
    const body = concat([field("model", "m"), fileField]);
    await write(client, bytes(`${HEAD}transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n`));
    await write(client, body.subarray(0, 250_000));
    const answer = await answerOf(client);
    assertEquals([Number(answer.slice(9, 12)), answer.includes(code)], [status, true], answer);
    await until(() => engine.uploads.every(({ ended }) => ended), "the engine's connection is closed");
    assertEquals(await gateway.outcome(), code);
  }
});

Deno.test("an engine may refuse an upload before its end; one that nobody accepts moves on", async () => {
  await using engine = uploadEngine((seen) => seen.length > 100_000 && seen.length < 200_000);
  const dead = { address: { hostname: "127.0.0.1", port: 1, transport: "tcp" as const } };
  await using gateway = await start([dead, engine], { algorithm: "round_robin" });
  for (let round = 0; round < 2; round++) {
    const client = await Deno.connect({ hostname: "127.0.0.1", port: gateway.gateway.listen.port });
    const body = concat([field("model", "m"), fileField, END]);
    await write(client, bytes(`${HEAD}content-length: ${body.length}\r\n\r\n`));
    await write(client, body.subarray(0, 150_000));
    const answer = await answerOf(client);
    assertEquals(answer.slice(9, 12), "413");
  }
});
