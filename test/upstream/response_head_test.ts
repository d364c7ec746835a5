// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertThrows } from "@std/assert";
import { UpstreamError } from "../../src/upstream/errors.ts";
import { headEnd, parseResponseHead } from "../../src/upstream/response_head.ts";

function parse(text: string) {
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  return parseResponseHead(bytes, 0, headEnd(bytes, 0, bytes.length));
}

Deno.test("parseResponseHead reads status, end-to-end fields and framing", () => {
  assertEquals(parse("HTTP/1.1 200 OK\r\nX-A:  b \r\nContent-Length: 5\r\nx-latin: \xe9\r\n\r\n"), {
    status: 200,
    headers: [["x-a", "b"], ["x-latin", "\xe9"]],
    framing: { kind: "length", bytes: 5 },
    keepAlive: true,
  });
  const hop = parse(
    "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nx-hop: 1\r\nTE: x\r\nTransfer-Encoding: Chunked\r\n\r\n",
  );
  assertEquals([hop.headers, hop.framing, hop.keepAlive], [[], { kind: "chunked" }, false]);
  assertEquals(parse("HTTP/1.1 204 \r\ncontent-length: 5\r\n\r\n").framing, { kind: "none" });
  assertEquals(parse("HTTP/1.0 200 OK\r\n\r\n").keepAlive, false);
  assertEquals(parse("HTTP/1.1 200\r\n\r\n").framing, { kind: "close" });
  // Both lengths: the coding counts, and the connection is not trusted further (RFC 9112, section 6.3).
  const both = parse("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n");
  assertEquals([both.framing, both.keepAlive], [{ kind: "chunked" }, false]);
});

Deno.test("parseResponseHead refuses what is no head", () => {
  for (
    const text of [
      "FTP 200\r\n\r\n",
      "HTTP/2 200\r\n\r\n",
      "HTTP/1.1 99 x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
      "HTTP/1.1 200 OK\r\n: empty\r\n\r\n",
      "HTTP/1.1 200 OK\r\na b: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
      "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
      "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
      "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    ]
  ) assertThrows(() => parse(text), UpstreamError);
});
