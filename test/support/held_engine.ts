// SPDX-License-Identifier: Apache-2.0
// Engines whose requests stay in flight until the test ends them.

import { bytes, type RawServer, startRawServer } from "./raw_server.ts";

/** An engine whose streams bring a token at once, and end when the test lets them. */
export function heldEngine(end: () => Promise<void>, hostname = "127.0.0.1"): RawServer {
  const event = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n';
  const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
  return startRawServer(() => ({
    writes: [bytes(`${head}${event.length.toString(16)}\r\n${event}\r\n`), bytes("0\r\n\r\n")],
    before: (write) => write === 1 ? end() : undefined,
    then: "keep",
  }), hostname);
}
