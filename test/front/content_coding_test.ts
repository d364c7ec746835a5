// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import zlib from "node:zlib";
import { GatewayError } from "../../src/base/errors.ts";
import { codingsOf, decodeBody } from "../../src/front/http/content_coding.ts";
import { Random, seed } from "../support/seed.ts";

const ENCODERS: Record<string, (bytes: Uint8Array) => Uint8Array> = {
  "gzip": (bytes) => zlib.gzipSync(bytes),
  "x-gzip": (bytes) => zlib.gzipSync(bytes),
  "deflate": (bytes) => zlib.deflateSync(bytes),
  "br": (bytes) => zlib.brotliCompressSync(bytes),
  "zstd": (bytes) => zlib.zstdCompressSync(bytes),
};
const own = (bytes: Uint8Array) => new Uint8Array(bytes);
const MAX_BYTES = 1_000_000;

Deno.test("decodeBody: every coding, one upon the other, and raw deflate", async () => {
  const random = new Random(seed);
  for (const length of [0, 1, 500, 200_000]) {
    const plain = random.bytes(length);
    for (const [coding, encode] of Object.entries(ENCODERS)) {
      assertEquals(await decodeBody(own(encode(plain)), codingsOf(coding.toUpperCase()), MAX_BYTES), plain, coding);
    }
    assertEquals(await decodeBody(own(zlib.deflateRawSync(plain)), ["deflate"], MAX_BYTES), plain);
    const both = zlib.brotliCompressSync(zlib.gzipSync(plain));
    assertEquals(await decodeBody(own(both), codingsOf("gzip, br"), MAX_BYTES), plain);
  }
  assertEquals(codingsOf("identity"), []);
});

Deno.test("decodeBody: a bomb is given up at the limit, cut or foreign bytes are told apart from it", async () => {
  const bomb = new Uint8Array(50 * MAX_BYTES);
  for (const [coding, encode] of Object.entries(ENCODERS)) {
    const error = await assertRejects(() => decodeBody(own(encode(bomb)), [coding], MAX_BYTES), GatewayError);
    assertEquals(error.code, "body_too_large", coding);
    const text = new TextEncoder().encode("a text of some length ".repeat(20));
    const whole = encode(text);
    const foreign = new TextEncoder().encode("no such thing at all");
    const foreignError = await assertRejects(() => decodeBody(own(foreign), [coding], MAX_BYTES), GatewayError);
    assertEquals(foreignError.code, "invalid_request", coding);
    // A cut one is an error too, or less than the whole: then its JSON does not end.
    const cut = await decodeBody(own(whole.subarray(0, whole.length - 6)), [coding], MAX_BYTES).catch((error) =>
      error.code
    );
    assert(cut === "invalid_request" || cut.length < text.length, `${coding}: ${cut}`);
  }
});

Deno.test("codingsOf: what is not undone is refused with what is", () => {
  for (const field of ["compress", "gzip, x", "gzip, gzip, gzip", "__proto__"]) {
    assertThrows(() => codingsOf(field), GatewayError, "there are: gzip, x-gzip, deflate, br, zstd");
  }
});
