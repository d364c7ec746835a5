// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Clock, ManualClock, systemClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { UpstreamError, type UpstreamFailure } from "../../src/upstream/errors.ts";
import { Pool, type PoolLimits } from "../../src/upstream/pool.ts";
import { bytes, chunkedResponse, cut, type RawAnswer, startRawServer } from "../support/raw_server.ts";
import { until } from "../support/until.ts";

const LIMITS: PoolLimits = {
  connectMs: 30_000,
  responseHeaderMs: 60_000,
  firstByteMs: 60_000,
  streamIdleMs: 60_000,
  responseHeaderBytes: 4_096,
  interimAnswers: 16,
  idleConnections: 4,
  idleConnectionMs: 60_000,
};
const HEAD = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";

function poolOf(
  address: { hostname: string; port: number },
  limits: Partial<PoolLimits> = {},
  clock: Clock = systemClock,
) {
  const deadlines = new Deadlines(clock, 10);
  const pool = new Pool(address, deadlines, { ...LIMITS, ...limits });
  const dispose = () => {
    pool.close();
    deadlines.close();
  };
  return Object.assign(pool, { [Symbol.dispose]: dispose });
}

async function exchange(pool: Pool): Promise<{ status: number; body: string }> {
  const { head, connection } = await pool.send({ head: HEAD, body: bytes("{}") }, () => {});
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

const OK = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n";

Deno.test("an idle connection that the engine closed is not used again", async () => {
  await using server = startRawServer(() => ({ writes: [bytes(`${OK}\r\n`)], then: "close" }));
  using pool = poolOf(server.address);
  for (let i = 0; i < 5; i++) {
    assertEquals((await exchange(pool)).status, 200);
    await until(() => pool.idle === 0, "its end has arrived");
  }
  assertEquals([server.connections, server.requests.length], [5, 5]);
});

Deno.test("a request that a reused connection was lost with is not sent again: it may have been executed", async () => {
  await using server = startRawServer((_, n) => ({
    writes: n === 1 ? [] : [bytes(`${OK}\r\n`)],
    then: n === 1 ? "close" : "keep",
  }));
  using pool = poolOf(server.address);
  await exchange(pool);
  const error = await assertRejects(() => exchange(pool), UpstreamError);
  assertEquals([error.failure, error.reused, error.unsent, server.requests.length], [
    "lost_before_answer",
    true,
    false,
    2,
  ]);
  // Asked for: on a new connection.
  const { head, connection } = await pool.send({ head: HEAD, body: bytes("{}") }, () => {}, true);
  pool.give(connection);
  assertEquals([head.status, server.connections, server.requests.length], [200, 2, 3]);
});

Deno.test("idle connections are kept for less long than the engine says", async () => {
  for (const [field, ms] of [["timeout=5", 4_000], ["max=3, timeout=1", 500], ["max=3", 60_000]] as const) {
    await using server = startRawServer(() => ({
      writes: [bytes(`${OK}keep-alive: ${field}\r\n\r\n`)],
      then: "keep",
    }));
    using pool = poolOf(server.address);
    await exchange(pool);
    assertEquals(pool.idleMs, ms);
  }
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
  const clock = new ManualClock();
  // Each limit in force is the only one that falls due: the clock stops right before it, and right after it.
  const runsOut = async (limits: Partial<PoolLimits>, answer: string, failure: UpstreamFailure) => {
    await using server = startRawServer(() => ({ writes: answer === "" ? [] : [bytes(answer)], then: "hang" }));
    using pool = poolOf(server.address, limits, clock);
    let failed = false;
    let pieces = 0;
    const outcome = (async () => {
      const { connection } = await pool.send({ head: HEAD, body: bytes("{}") }, () => {});
      pieces++;
      while (await connection.readBody() !== null) pieces++;
    })();
    outcome.catch(() => failed = true);
    const parts = answer === "" ? 0 : answer.endsWith("\r\n\r\n") ? 1 : 2;
    await until(() => server.requests.length === 1 && pieces === parts, "the engine has sent what it sends");
    clock.advance(1_980);
    await new Promise((resolve) => setTimeout(resolve));
    assertEquals(failed, false, failure);
    clock.advance(40);
    await assertFails(outcome, failure);
    await until(() => server.closedByPeer === 1, "the connection is closed");
  };
  const head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
  await runsOut({ responseHeaderMs: 2_000 }, "", "header_timeout");
  await runsOut({ firstByteMs: 2_000 }, head, "first_byte_timeout");
  await runsOut({ streamIdleMs: 2_000 }, `${head}9\r\ndata: x\n\n`, "idle_timeout");
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
  let waiting: { fail(error: UpstreamError): void } | undefined;
  const sending = pool.send({ head: HEAD, body: bytes("{}") }, (connection) => {
    waiting = connection;
  });
  await until(() => server.requests.length === 1, "the engine has the request");
  waiting!.fail(new UpstreamError("aborted", "the client left"));
  await assertFails(sending, "aborted");
  await until(() => server.closedByPeer === 1, "the connection is closed");
});

Deno.test("large bodies go out and come back whole", async () => {
  const large = "x".repeat(3_000_000);
  await using server = startRawServer((request) => ({
    writes: [bytes(`HTTP/1.1 200 OK\r\ncontent-length: ${request.length}\r\n\r\n${request}`)],
    then: "keep",
  }));
  using pool = poolOf(server.address);
  const head = `POST / HTTP/1.1\r\nhost: x\r\ncontent-length: ${large.length}\r\n\r\n`;
  const { connection } = await pool.send({ head, body: bytes(large) }, () => {});
  let length = 0;
  for (let piece = await connection.readBody(); piece !== null; piece = await connection.readBody()) {
    length += piece.length;
  }
  pool.give(connection);
  assert(connection.reusable);
  assertEquals(length, head.length + large.length);
});
