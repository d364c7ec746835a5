// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { EventBoundary } from "../../src/openai/event_boundary.ts";
import { cut } from "../support/raw_server.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

for (
  const [name, stream] of [["LF", ": hi\n\ndata: é\n\ndata: 2\n\n"], [
    "CRLF",
    "data: é\r\n\r\ndata: 2\r\n\r\n",
  ]] as const
) {
  Deno.test(`EventBoundary passes whole events only, same bytes under every cut (${name})`, () => {
    const whole = encode(stream);
    for (let a = 1; a < whole.length; a++) {
      for (let b = a; b < whole.length; b++) {
        const boundary = new EventBoundary(1_048_576);
        let text = "";
        for (const piece of cut(whole, a, b)) {
          const ready = decode(boundary.push(piece));
          assert(ready === "" || ready.endsWith("\n\n") || ready.endsWith("\n\r\n"));
          text += ready;
        }
        assertEquals([text, boundary.rest()], [stream, undefined]);
      }
    }
  });
}

Deno.test("EventBoundary keeps an unfinished event and gives it back at a good end", () => {
  const boundary = new EventBoundary(1_048_576);
  assertEquals(decode(boundary.push(encode("data: 1\n\ndata: [DO"))), "data: 1\n\n");
  assertEquals(decode(boundary.rest()!), "data: [DO");
});

Deno.test("EventBoundary holds back a bounded amount", () => {
  const boundary = new EventBoundary(1_048_576);
  let passed = 0;
  for (let i = 0; i < 40; i++) passed += boundary.push(new Uint8Array(65_536).fill(120)).length;
  assert(passed >= 39 * 65_536 - 1_048_576);
});
