// SPDX-License-Identifier: Apache-2.0
// The direct front on the wire, as strangers use it: how requests are told apart, what is refused, who left.

import { assert, assertEquals } from "@std/assert";
import { systemClock } from "../../src/base/clock.ts";
import { concat } from "../../src/base/bytes.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { DirectServer, type DirectServerParts } from "../../src/front/direct/server.ts";
import { type HttpRequest, HttpResponse } from "../../src/front/http/exchange.ts";
import { targetOf } from "../../src/front/http/served.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { gate, until } from "../support/until.ts";

type Answer = DirectServerParts["answer"];

interface Seen {
  readonly line: string;
  readonly body: string;
}

/** Reads the body, and says what was asked. */
async function echo(request: HttpRequest): Promise<HttpResponse> {
  const reader = request.reader();
  const pieces: Uint8Array[] = [];
  if (reader && request.fields.get("x-whole") === null) {
    for (let next = await reader.read(); next.value; next = await reader.read()) pieces.push(next.value);
  } else pieces.push(await request.bytes());
  return new HttpResponse(200, `${request.method} ${request.target} ${new TextDecoder().decode(concat(pieces))}`);
}

function serve(answer: Answer = echo, limits: Partial<DirectServerParts["limits"]> = {}, connections = 0) {
  const seen: Seen[] = [];
  const counts = { connections: 0, refused: 0, left: 0 };
  const deadlines = new Deadlines(systemClock, 10);
  // Any port that is free; the server does not tell which one it got.
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = probe.addr as Deno.NetAddr;
  probe.close();
  const server = new DirectServer({ hostname: "127.0.0.1", port }, {
    deadlines,
    limits: { headBytes: 4_096, headFields: 20, headMs: 60_000, idleMs: 60_000, lookMs: 10, ...limits },
    bounds: { connections, connectionsPerAddress: 0 },
    counted: (change) => counts.connections += change,
    refused: () => counts.refused++,
    async answer(request) {
      request.whenLeft(() => counts.left++);
      try {
        const response = await answer(request);
        const body = typeof response.body === "string" ? response.body : "";
        seen.push({ line: `${request.method} ${request.target}`, body });
        return response;
      } catch (error) {
        return new HttpResponse(400, String(error));
      }
    },
  });
  const stop = async () => {
    await server.shutdown();
    deadlines.close();
  };
  return { port, seen, counts, server, stop, [Symbol.asyncDispose]: stop };
}

/** Sends pieces and reads to the end of what comes back. */
async function exchange(port: number, pieces: readonly Uint8Array[], pauseMs = 0): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  connection.setNoDelay(true);
  const reading = (async () => {
    const got: Uint8Array[] = [];
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
        got.push(buffer.slice(0, n));
      }
    } catch {
      // reset
    }
    return new TextDecoder().decode(concat(got));
  })();
  try {
    for (const [i, piece] of pieces.entries()) {
      if (i > 0 && pauseMs >= 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      for (let at = 0; at < piece.length;) at += await connection.write(piece.subarray(at));
    }
    await connection.closeWrite();
  } catch {
    // it was refused before all was written
  }
  return await reading;
}

const statuses = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));
const post = (body: string, more = "") =>
  `POST /p HTTP/1.1\r\nhost: x\r\n${more}content-length: ${bytes(body).length}\r\n\r\n${body}`;

Deno.test("direct: requests one after the other, at once, cut at every byte", async () => {
  await using front = serve();
  const three = `${post("one")}GET /g?q=1 HTTP/1.1\r\nHost: x\r\n\r\n\r\n${post("zwei ü", "X-A: b\r\n")}`;
  const whole = bytes(three);
  const expected = ["POST /p one", "GET /g?q=1 ", "POST /p zwei ü"];
  const bodies = (text: string) => [...text.matchAll(/\r\n\r\n([^\r]*?)(?=HTTP\/1\.1|$)/g)].map(([, body]) => body);
  assertEquals(bodies(await exchange(front.port, [whole])), expected);
  for (let cut = 1; cut < whole.length; cut++) {
    const text = await exchange(front.port, [whole.subarray(0, cut), whole.subarray(cut)]);
    assertEquals([statuses(text), bodies(text)], [[200, 200, 200], expected], `cut at ${cut}`);
  }
  const single = Array.from(whole, (_, i) => whole.subarray(i, i + 1));
  assertEquals(bodies(await exchange(front.port, single)), expected);
});

Deno.test("direct: bodies of announced length and in chunks, small and large, whole and piece by piece", async () => {
  await using front = serve();
  const random = new Random(seed);
  for (const size of [0, 1, 100, 3_900, 4_096, 20_000, 300_000, 2_000_000]) {
    const body = Array.from({ length: size }, () => String.fromCharCode(97 + random.below(26))).join("");
    for (const whole of ["", "X-Whole: 1\r\n"]) {
      const plain = await exchange(front.port, [bytes(post(body, whole))]);
      assert(plain.endsWith(`POST /p ${body}`), `${size}`);
      let chunks = "";
      for (let at = 0; at < size;) {
        const piece = body.slice(at, at + 1 + random.below(60_000));
        chunks += `${piece.length.toString(16)};a="b"\r\n${piece}\r\n`;
        at += piece.length;
      }
      const head = `POST /p HTTP/1.1\r\nhost: x\r\n${whole}transfer-encoding: chunked\r\n\r\n`;
      const text = await exchange(front.port, [bytes(`${head}${chunks}0\r\nx-trailer: 1\r\n\r\n`)]);
      assert(text.endsWith(`POST /p ${body}`), `${size} in chunks`);
    }
  }
});

/** What is no request, and what it is answered. Whatever follows it on its connection is not looked at. */
const REFUSED: [what: string, head: string, status: number][] = [
  [
    "length beside chunks",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
    400,
  ],
  [
    "chunks beside length",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n",
    400,
  ],
  ["two lengths", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", 400],
  ["one length twice", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\n", 400],
  ["a list of lengths", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4, 4\r\n\r\n", 400],
  ["a signed length", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\n", 400],
  ["a negative length", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -4\r\n\r\n", 400],
  ["a hexadecimal length", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x4\r\n\r\n", 400],
  ["a huge length", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n", 400],
  ["another coding", "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501],
  ["chunked twice", "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n", 501],
  ["a coding with a tab", "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \x0bchunked\r\n\r\n", 400],
  ["chunks in HTTP/1.0", "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400],
  ["a folded line", "GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n", 400],
  ["a line feed alone", "GET / HTTP/1.1\nhost: x\n\n", 400],
  ["a line feed alone in the fields", "GET / HTTP/1.1\r\nhost: x\nx-a: b\r\n\r\n", 400],
  ["a carriage return alone", "GET / HTTP/1.1\r\nhost: x\r\nx-a: b\rc\r\n\r\n", 400],
  ["a NUL", "GET / HTTP/1.1\r\nhost: x\r\nx-a: b\0c\r\n\r\n", 400],
  ["a space before the colon", "GET / HTTP/1.1\r\nhost: x\r\ncontent-length : 4\r\n\r\n", 400],
  ["no colon", "GET / HTTP/1.1\r\nhost: x\r\nnothing\r\n\r\n", 400],
  ["no name", "GET / HTTP/1.1\r\nhost: x\r\n: 1\r\n\r\n", 400],
  ["no host", "GET / HTTP/1.1\r\n\r\n", 400],
  ["two hosts", "GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400],
  ["a host with a path", "GET / HTTP/1.1\r\nhost: x/y\r\n\r\n", 400],
  ["another host in the target", "GET http://y/ HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["the target of a tunnel", "CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["the target *", "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["two spaces", "GET  / HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["a space in the target", "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["HTTP/0.9", "GET /\r\n\r\n", 400],
  ["HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505],
  ["another version", "GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505],
  ["an odd method", "G(T / HTTP/1.1\r\nhost: x\r\n\r\n", 400],
  ["another expectation", "POST / HTTP/1.1\r\nhost: x\r\nexpect: tea\r\ncontent-length: 1\r\n\r\n", 417],
  ["too long a head", `GET /${"a".repeat(5_000)} HTTP/1.1\r\nhost: x\r\n\r\n`, 431],
  ["too many fields", `GET / HTTP/1.1\r\nhost: x\r\n${"a: b\r\n".repeat(20)}\r\n`, 431],
  ["TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n\r\n", 400],
];

Deno.test("direct: what two readers could take for two requests is refused, with what follows it", async () => {
  await using front = serve();
  for (const [what, head, status] of REFUSED) {
    const raw = Uint8Array.from(
      `${head}GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n`,
      (character) => character.charCodeAt(0),
    );
    const text = await exchange(front.port, [raw]);
    assertEquals(statuses(text), [status], `${what}: ${text.slice(0, 300)}`);
    assert(/"code":"(invalid_request|not_supported|headers_too_large)"/.test(text) && /connection: close/.test(text));
  }
  assertEquals(front.seen, [], "nobody answered any of them");
  for (const chunks of ["x\r\n", "-1\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "1\nx\r\n0\r\n\r\n", "ffffffffffffffff\r\n"]) {
    const head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    const text = await exchange(front.port, [bytes(`${head}${chunks}GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n`)]);
    assertEquals(statuses(text), [400], chunks);
  }
  assertEquals(front.seen, []);
});

Deno.test("direct: what is odd and clear is taken", async () => {
  await using front = serve();
  const taken: [raw: string, seen: string][] = [
    ["GET http://X/abs?q HTTP/1.1\r\nHost: x\r\n\r\n", "GET /abs?q"],
    ["GET http://x HTTP/1.1\r\nhost: x\r\n\r\n", "GET /"],
    ["\r\nGET /empty-line HTTP/1.1\r\nhost: x\r\n\r\n", "GET /empty-line"],
    ["GET /spaces HTTP/1.1\r\nhost:   x  \r\nx-a:\r\n\r\n", "GET /spaces"],
    ["GET /old HTTP/1.0\r\n\r\n", "GET /old"],
    [
      "POST /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\ncontent-length: 0\r\n\r\n",
      "POST /upgrade",
    ],
  ];
  for (const [raw, seen] of taken) {
    const text = await exchange(front.port, [bytes(raw)]);
    assertEquals([statuses(text), front.seen.pop()?.line], [[200], seen]);
  }
  const old = await exchange(front.port, [bytes("GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n")]);
  assertEquals(statuses(old), [200], "HTTP/1.0 ends with its answer");
  const kept = "GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
  const both = await exchange(front.port, [bytes(kept + kept)]);
  assertEquals([statuses(both), both.match(/connection: keep-alive/g)?.length], [[200, 200], 2]);
  const head = await exchange(front.port, [bytes("HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n")]);
  assert(/content-length: 8\r\n/.test(head) && head.endsWith("\r\n\r\n"), head);
});

Deno.test("direct: Expect is answered when the body is wanted, and not when it is refused", async () => {
  await using wanted = serve();
  const head = "POST /p HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: wanted.port });
  await connection.write(bytes(head));
  const buffer = new Uint8Array(1_000);
  const n = await connection.read(buffer);
  assertEquals(new TextDecoder().decode(buffer.subarray(0, n!)), "HTTP/1.1 100 Continue\r\n\r\n");
  await connection.write(bytes("abc"));
  await connection.closeWrite();
  assert((await new Response(connection.readable).text()).endsWith("POST /p abc"));
  await using refusing = serve(() => new HttpResponse(413, "too large"));
  const text = await exchange(refusing.port, [bytes(head)]);
  assertEquals([statuses(text), /connection: close/.test(text)], [[413], true]);
});

Deno.test("direct: a refusal reaches a client that still sends its body", async () => {
  await using front = serve(() => new HttpResponse(413, "too large"));
  const body = "x".repeat(200_000);
  for (let i = 0; i < 10; i++) {
    assertEquals(statuses(await exchange(front.port, [bytes(post(body))])), [413]);
  }
  // One that has come whole is left out instead, and the connection goes on.
  assertEquals(statuses(await exchange(front.port, [bytes(post("abc") + post("def"))])), [413, 413]);
});

Deno.test("direct: a client that leaves is noticed, before its answer and in a stream; one that only ended its side is not", async () => {
  const held = gate();
  await using front = serve(async (request) => {
    if (request.target === "/p") await held.opened;
    const stream = {
      async pull(controller: { enqueue(piece: Uint8Array): void }) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        controller.enqueue(bytes("data: 1\n\n"));
      },
      cancel: () => void front.counts.left++,
    };
    const response = new HttpResponse(200, request.target === "/p" ? "done" : stream);
    if (request.target !== "/p") response.append("content-type", "text/event-stream");
    return response;
  });
  const opened = async (target: string) => {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
    await connection.write(bytes(`GET ${target} HTTP/1.1\r\nhost: x\r\n\r\n`));
    return connection;
  };
  const waiting = await opened("/p");
  await until(() => front.counts.connections === 1, "it is there");
  waiting.close();
  await until(() => front.counts.left === 1, "its leaving is noticed before there is an answer");
  const streaming = await opened("/s");
  await streaming.read(new Uint8Array(1_000));
  streaming.close();
  await until(() => front.counts.left >= 2, "and in a stream");
  using patient = await opened("/p");
  await patient.closeWrite();
  const before = front.counts.left;
  await new Promise((resolve) => setTimeout(resolve, 100));
  held.open();
  const text = await new Response(patient.readable).text();
  assert(text.endsWith("done"), text);
  assertEquals(front.counts.left, before);
  assert(statuses(text).every((status, i, all) => status === (i === all.length - 1 ? 200 : 100)), text);
});

Deno.test("direct: a client that takes nothing is waited for, and nothing piles up", async () => {
  let pulled = 0;
  await using front = serve(() =>
    new HttpResponse(200, {
      pull(controller) {
        pulled++;
        controller.enqueue(new Uint8Array(65_536));
      },
      cancel() {},
    })
  );
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  await connection.write(bytes("GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
  let before = -1;
  await until(async () => {
    const stands = pulled === before;
    before = pulled;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return stands && pulled > 0;
  }, "the source stands still");
  assert(pulled < 1_000, `${pulled} pieces of 64 KiB for a client that reads nothing`);
  connection.close();
  await until(() => front.counts.connections === 0, "it is gone");
});

Deno.test("direct: heads that do not end are answered 408, idle connections end, and there are no more than the limit", async () => {
  await using front = serve(echo, { headMs: 100, idleMs: 100 }, 3);
  const slow = await exchange(front.port, [bytes("GET / HT"), bytes("TP/1.1\r\nhost: x\r\n")], 200);
  assertEquals(statuses(slow), [408]);
  using idle = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  assertEquals(await idle.read(new Uint8Array(1)), null, "nothing came in time");
  await until(() => front.counts.connections === 0, "all are gone");
  const held = await Promise.all(
    Array.from({ length: 8 }, () => Deno.connect({ hostname: "127.0.0.1", port: front.port })),
  );
  await until(() => front.counts.refused === 5, "five are turned away");
  for (const connection of held) connection.close();
});

Deno.test("direct: shutdown ends idle connections, and those at work after their answer", async () => {
  const held = gate();
  await using front = serve(async () => {
    await held.opened;
    return new HttpResponse(200, "late");
  });
  const idle = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  const busy = exchange(front.port, [bytes("GET / HTTP/1.1\r\nhost: x\r\n\r\n")]);
  await until(() => front.counts.connections === 2, "both are there");
  let over = false;
  const shutdown = front.server.shutdown().then(() => over = true);
  assertEquals(await idle.read(new Uint8Array(1)), null);
  idle.close();
  assert(!over);
  held.open();
  const text = await busy;
  assert(/connection: close/.test(text) && text.endsWith("late"), text);
  await shutdown;
});

Deno.test("direct: of random bytes it sees the requests that the runtime's server sees, or fewer, and in the same order", async () => {
  const random = new Random(seed);
  await using front = serve();
  const other: string[] = [];
  const served = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const body = await request.text().catch(() => undefined);
    if (body !== undefined) other.push(`${request.method} ${targetOf(request.url)} ${body}`);
    return new Response("ok");
  });
  const good = [
    post("hello"),
    "GET /g HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    post("GET /inner HTTP/1.1\r\nhost: x\r\n\r\n"),
    "POST /n HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
  ];
  const inserted = [
    "\r",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\0",
    ":",
    ",",
    "0",
    "1",
    "chunked",
    "content-length: 3\r\n",
    "\x0b",
    "transfer-encoding: chunked\r\n",
    "Content-Length: 0\r\n",
    "x\r\n",
    "HTTP/1.0",
    ";",
  ];
  let [same, fewer] = [0, 0];
  for (let round = 0; round < 400; round++) {
    let raw = Array.from({ length: 1 + random.below(3) }, () => random.pick(good)).join("");
    for (let i = random.below(4); i > 0; i--) {
      const at = random.below(raw.length);
      raw = raw.slice(0, at) + (random.chance(0.3) ? "" : random.pick(inserted)) + raw.slice(at + random.below(3));
    }
    front.seen.length = other.length = 0;
    const sent = bytes(raw);
    await Promise.all([exchange(front.port, [sent]), exchange(served.addr.port, [sent])]);
    const seen = front.seen.map(({ body }) => body);
    assertEquals(seen, other.slice(0, seen.length), `AIGW_TEST_SEED=${seed} round ${round}: ${JSON.stringify(raw)}`);
    if (seen.length === other.length) same++;
    else fewer++;
  }
  console.log(`400 rounds: ${same} alike, ${fewer} in which the direct front saw fewer`);
  assert(same > 100);
  await served.shutdown();
});
