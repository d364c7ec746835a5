// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { readIncoming, requestHead } from "../../src/upstream/request_head.ts";

const OWN = { tenant: ["x-aigw-tenant"], priority: ["x-aigw-priority"], keys: true };

const headOf = (fields: Record<string, string>, own = OWN) => {
  const incoming = readIncoming(new Headers(fields), own);
  const parts = { method: "POST", path: "/v1/x", host: "engine:1", bodyBytes: 2 };
  return requestHead({ ...parts, fields: incoming.fields + incoming.credentials });
};

Deno.test("what is of the client's connection, or the gateway's own, does not go on to an engine", () => {
  const hidden: Record<string, string> = {
    "transfer-encoding": "chunked",
    "connection": "close, x-hop",
    "x-hop": "1",
    "keep-alive": "timeout=5",
    "te": "trailers",
    "trailer": "x",
    "upgrade": "h2c",
    "expect": "100-continue",
    "proxy-authorization": "Basic x",
    "proxy-connection": "close",
    "accept-encoding": "gzip",
    "cookie": "session=1",
    "host": "gateway",
    "content-length": "99",
    "content-encoding": "gzip",
    "authorization": "Bearer secret",
    "x-api-key": "secret",
    "x-aigw-tenant": "gold",
    "x-aigw-priority": "critical",
    "x-aigw-timeout-ms": "5",
    "x-aigw-ttft-slo-ms": "5",
    "x-aigw-tpot-slo-ms": "5",
  };
  const head = headOf({ ...hidden, "content-type": "application/json", "x-request-id": "id", "x-other": "kept" });
  assertEquals(
    head,
    "POST /v1/x HTTP/1.1\r\nhost: engine:1\r\ncontent-type: application/json\r\nx-other: kept\r\n" +
      "x-request-id: id\r\ncontent-length: 2\r\n\r\n",
  );
});

Deno.test("each of these fields alone stays behind, whatever the spelling", () => {
  for (
    const name of [
      "Transfer-Encoding",
      "TRANSFER-ENCODING",
      "Expect",
      "TE",
      "Trailer",
      "Upgrade",
      "Keep-Alive",
      "Proxy-Connection",
      "Cookie",
    ]
  ) {
    const head = headOf({ [name]: "chunked", "x-request-id": "id" });
    assert(!head.toLowerCase().includes(`\n${name.toLowerCase()}:`), head);
  }
});

Deno.test("a client's credentials go on only where keys are not the gateway's", () => {
  const fields = { authorization: "Bearer engine-key", "x-request-id": "id" };
  assert(!headOf(fields).includes("engine-key"));
  assert(headOf(fields, { ...OWN, keys: false }).includes("authorization: Bearer engine-key\r\n"));
});
