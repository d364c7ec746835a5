// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { ChunkedDecoder } from "../../src/upstream/chunked_decoder.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import { Random, seed } from "../support/seed.ts";

const encode = (text: string) => new TextEncoder().encode(text);

function decodeAll(pieces: Uint8Array[]): { text: string; done: boolean; excess: number } {
  const decoder = new ChunkedDecoder();
  let text = "";
  for (const piece of pieces) {
    const buffer = new Uint8Array(piece.length + 7);
    buffer.set(piece, 5);
    text += new TextDecoder().decode(buffer.slice(5, decoder.decode(buffer, 5, 5 + piece.length)));
  }
  return { text, done: decoder.done, excess: decoder.excess };
}

Deno.test("ChunkedDecoder gives the same data under every cut in two and in three", () => {
  const whole = encode("5;name=value\r\nhello\r\n1\r\n,\r\nA \r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n");
  for (let a = 0; a <= whole.length; a++) {
    for (let b = a; b <= whole.length; b++) {
      const { text, done } = decodeAll([whole.subarray(0, a), whole.subarray(a, b), whole.subarray(b)]);
      assertEquals([text, done], ["hello,0123456789", true]);
    }
  }
});

Deno.test("ChunkedDecoder decodes random chunkings byte by byte", () => {
  const random = new Random(seed);
  for (let round = 0; round < 200; round++) {
    const chunks = Array.from({ length: random.below(10) }, () => "x".repeat(1 + random.below(300)));
    const whole = encode(chunks.map((c) => `${c.length.toString(16)}\r\n${c}\r\n`).join("") + "0\r\n\r\n");
    const { text, done, excess } = decodeAll([...whole].map((byte) => Uint8Array.of(byte)));
    assertEquals([text, done, excess], [chunks.join(""), true, 0]);
  }
});

Deno.test("ChunkedDecoder counts what lies beyond the end", () => {
  assertEquals(decodeAll([encode("0\r\n\r\nHTTP/1.1")]).excess, 8);
});

Deno.test("ChunkedDecoder refuses what is no chunked coding", () => {
  for (
    const text of [
      "\r\n",
      "g\r\n",
      "5hello",
      "-1\r\n",
      "5\rhello",
      "5\r\nhelloX",
      "5\r\nhello\rX",
      "0\r\n\rX",
      "1".repeat(20),
    ]
  ) assertThrows(() => decodeAll([encode(text)]), UpstreamError);
  assertThrows(() => decodeAll([encode(`5;${"x".repeat(20_000)}`)]), UpstreamError, "longer than 16 KiB");
});

Deno.test("ChunkedDecoder never fails otherwise on random bytes", () => {
  const random = new Random(seed);
  for (let round = 0; round < 2_000; round++) {
    const decoder = new ChunkedDecoder();
    const buffer = encode(
      Array.from({ length: 40 }, () => random.pick(["0", "a", "\r", "\n", "\r\n", ";", "5"])).join(""),
    );
    try {
      const end = decoder.decode(buffer, 0, buffer.length);
      assert(end <= buffer.length);
    } catch (error) {
      assert(error instanceof UpstreamError);
    }
  }
});
