// SPDX-License-Identifier: Apache-2.0
// Bytes that are nearly requests: some good ones after each other, with a few changes that readers may differ on.

import { post } from "./direct_server.ts";
import type { Random } from "./seed.ts";

const GOOD = [
  post("hello"),
  "GET /g HTTP/1.1\r\nhost: x\r\n\r\n",
  "POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
  post("GET /inner HTTP/1.1\r\nhost: x\r\n\r\n"),
  "POST /n HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
];
const INSERTED = [
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

export function oddRequests(random: Random): string {
  let raw = Array.from({ length: 1 + random.below(3) }, () => random.pick(GOOD)).join("");
  for (let i = random.below(4); i > 0; i--) {
    const at = random.below(raw.length);
    raw = raw.slice(0, at) + (random.chance(0.3) ? "" : random.pick(INSERTED)) + raw.slice(at + random.below(3));
  }
  return raw;
}
