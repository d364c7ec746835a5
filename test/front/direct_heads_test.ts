// SPDX-License-Identifier: Apache-2.0
// Heads on the wire of the direct front: which are requests, which are refused, and that nobody sees another request in them.

import { assert, assertEquals } from "@std/assert";
import { targetOf } from "../../src/front/http/served.ts";
import { exchange, serve, statuses } from "../support/direct_server.ts";
import { oddRequests } from "../support/odd_requests.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";

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
  for (
    const chunks of [
      "x\r\n",
      "0\t0\r\n\r\n",
      "0\t\r\n\r\n",
      "-1\r\n",
      "5\r\nhelloX\r\n0\r\n\r\n",
      "1\nx\r\n0\r\n\r\n",
      "ffffffffffffffff\r\n",
    ]
  ) {
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

Deno.test("direct: of random bytes it sees the requests that the runtime's server sees, or fewer, and in the same order", async () => {
  const random = new Random(seed);
  await using front = serve();
  const other: string[] = [];
  const served = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const body = await request.text().catch(() => undefined);
    if (body !== undefined) other.push(`${request.method} ${targetOf(request.url)} ${body}`);
    return new Response("ok");
  });
  let [same, fewer] = [0, 0];
  for (let round = 0; round < 400; round++) {
    const raw = oddRequests(random);
    front.seen.length = other.length = 0;
    const sent = bytes(raw);
    await Promise.all([exchange(front.port, [sent]), exchange(served.addr.port, [sent])]);
    // The runtime gives the body of a GET to nobody.
    const seen = front.seen.map(({ line, body }) => line.startsWith("GET ") ? `${line} ` : body);
    assertEquals(seen, other.slice(0, seen.length), `AIGW_TEST_SEED=${seed} round ${round}: ${JSON.stringify(raw)}`);
    if (seen.length === other.length) same++;
    else fewer++;
  }
  console.log(`400 rounds: ${same} alike, ${fewer} in which the direct front saw fewer`);
  assert(same > 100);
  await served.shutdown();
});
