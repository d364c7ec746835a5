// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects } from "@std/assert";
import { systemClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { UpstreamError, type UpstreamFailure } from "../../src/upstream/errors.ts";
import { Pool, type PoolLimits } from "../../src/upstream/pool.ts";
import { bytes, chunkedResponse, cut, type RawAnswer, startRawServer } from "../support/raw_server.ts";

const LIMITS: PoolLimits = {
  connectMs: 1_000,
  responseHeaderMs: 5_000,
  firstByteMs: 5_000,
  streamIdleMs: 5_000,
  responseHeaderBytes: 4_096,
  interimAnswers: 16,
  idleConnections: 4,
  idleConnectionMs: 60_000,
};
const HEAD = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";

function poolOf(address: { hostname: string; port: number }, limits: Partial<PoolLimits> = {}) {
  const deadlines = new Deadlines(systemClock, 10);
  const pool = new Pool(address, deadlines, { ...LIMITS, ...limits });
  const dispose = () => {
    pool.close();
    deadlines.close();
  };
  return Object.assign(pool, { [Symbol.dispose]: dispose });
}

async function exchange(pool: Pool): Promise<{ status: number; body: string }> {
  const { head, connection } = await pool.send(HEAD, bytes("{}"), () => {});
  let body = "";
  const decoder = new TextDecoder();
  try {
    for (let piece = await connection.readBody(); piece !== null; piece = await connection.readBody()) {
      body += decoder.decode(piece, { stream: true });
    }
  } catch (error) {
    throw Object.assign(error as Error, { body });
  }
  pool.give(connection);
  return { status: head.status, body };
}

async function assertFails(promise: Promise<unknown>, failure: UpstreamFailure): Promise<void> {
  const error = await assertRejects(() => promise, UpstreamError);
  assertEquals(error.failure, failure, error.message);
}

Deno.test("an answer reads the same under every cut, on one connection", async () => {
  const events = ["data: é😀\n\n", "data: two\n\n"];
  const answers = [
    chunkedResponse(events),
    bytes(`HTTP/1.1 200 OK\r\ncontent-length: ${bytes(events.join("")).length}\r\n\r\n${events.join("")}`),
    bytes(
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: ${bytes(events.join("")).length}\r\n\r\n${
        events.join("")
      }`,
    ),
  ];
  const plan: RawAnswer[] = answers.flatMap((answer) =>
    Array.from({ length: answer.length }, (_, at) => ({ writes: cut(answer, at), then: "keep" as const, pauseMs: 0 }))
  );
  await using server = startRawServer((_, n) => plan[n]);
  using pool = poolOf(server.address);
  for (let i = 0; i < plan.length; i++) assertEquals(await exchange(pool), { status: 200, body: events.join("") });
  assertEquals(server.connections, 1);
});

Deno.test("an answer that ends at any byte is lost before it or in it, never taken for whole", async () => {
  const answer = chunkedResponse(["data: one\n\n", "data: two\n\n"]);
  await using server = startRawServer((_, n) => ({ writes: cut(answer.slice(0, n)), then: "close" }));
  using pool = poolOf(server.address);
  for (let i = 0; i < answer.length; i++) {
    await assertFails(exchange(pool), i === 0 ? "lost_before_answer" : "lost_in_answer");
  }
});

Deno.test("a body without framing ends with its connection, which is not used again", async () => {
  await using server = startRawServer(() => ({ writes: [bytes("HTTP/1.1 200 OK\r\n\r\nall")], then: "close" }));
  using pool = poolOf(server.address);
  for (let i = 0; i < 2; i++) assertEquals((await exchange(pool)).body, "all");
  assertEquals([server.connections, pool.idle], [2, 0]);
});

Deno.test("an idle connection that the engine closed is replaced without failing", async () => {
  const ok = bytes("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
  await using server = startRawServer((_, n) => ({ writes: n === 1 ? [] : [ok], then: n === 1 ? "close" : "keep" }));
  using pool = poolOf(server.address);
  for (let i = 0; i < 2; i++) assertEquals((await exchange(pool)).status, 200);
  assertEquals([server.connections, server.requests.length], [2, 3]);
});

Deno.test("bytes that nobody asked for close the connection", async () => {
  await using server = startRawServer(() => ({
    writes: [bytes("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n")],
    then: "keep",
  }));
  using pool = poolOf(server.address);
  assertEquals((await exchange(pool)).body, "ok");
  assertEquals(pool.idle, 0);
});

Deno.test("each limit has its own failure", async () => {
  await using silent = startRawServer(() => ({ writes: [], then: "hang" }));
  using noHead = poolOf(silent.address, { responseHeaderMs: 50 });
  await assertFails(exchange(noHead), "header_timeout");
  await using stalling = startRawServer(() => ({
    writes: [chunkedResponse(["data: x\n\n"]).slice(0, 90)],
    then: "hang",
  }));
  using noMore = poolOf(stalling.address, { streamIdleMs: 50 });
  await assertFails(exchange(noMore), "idle_timeout");
  await using endless = startRawServer(() => ({
    writes: [bytes(`HTTP/1.1 200 OK\r\nx: ${"y".repeat(20_000)}`)],
    then: "hang",
  }));
  using tooLong = poolOf(endless.address);
  await assertFails(exchange(tooLong), "bad_response");
  using refused = poolOf({ hostname: "127.0.0.1", port: 1 });
  await assertFails(exchange(refused), "connect_failed");
  await using garbage = startRawServer(() => ({ writes: [bytes("\x16\x03\x01 what\r\n\r\n")], then: "keep" }));
  using noHttp = poolOf(garbage.address);
  await assertFails(exchange(noHttp), "bad_response");
});

Deno.test("failing a connection ends its exchange at once and reaches the engine", async () => {
  await using server = startRawServer(() => ({ writes: [], then: "hang" }));
  using pool = poolOf(server.address);
  const sending = pool.send(HEAD, bytes("{}"), (connection) => {
    setTimeout(() => connection.fail(new UpstreamError("aborted", "the client left")), 20);
  });
  await assertFails(sending, "aborted");
  for (let i = 0; i < 100 && server.closedByPeer === 0; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(server.closedByPeer, 1);
});

Deno.test("large bodies go out and come back whole", async () => {
  const large = "x".repeat(3_000_000);
  await using server = startRawServer((request) => ({
    writes: [bytes(`HTTP/1.1 200 OK\r\ncontent-length: ${request.length}\r\n\r\n${request}`)],
    then: "keep",
  }));
  using pool = poolOf(server.address);
  const head = `POST / HTTP/1.1\r\nhost: x\r\ncontent-length: ${large.length}\r\n\r\n`;
  const { connection } = await pool.send(head, bytes(large), () => {});
  let length = 0;
  for (let piece = await connection.readBody(); piece !== null; piece = await connection.readBody()) {
    length += piece.length;
  }
  pool.give(connection);
  assert(connection.reusable);
  assertEquals(length, head.length + large.length);
});
