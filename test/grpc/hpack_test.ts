// SPDX-License-Identifier: Apache-2.0
// Header compression: the examples of RFC 7541, Appendix C; random blocks of an encoder that uses every form; and bytes that
// are no block.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { encodeFields, HeaderDecoder, HpackError } from "../../src/grpc/hpack.ts";
import { Random, seed } from "../support/seed.ts";

const bytesOf = (hex: string) =>
  Uint8Array.from(hex.replaceAll(" ", "").match(/../g) ?? [], (pair) => parseInt(pair, 16));
const decoder = (table = 4_096) => new HeaderDecoder(table, 65_536);

Deno.test("HeaderDecoder: the requests of Appendix C.4, with Huffman codes and a table that grows", () => {
  const one = decoder();
  const head = [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com"];
  assertEquals(one.decode(bytesOf("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")), head);
  assertEquals(one.decode(bytesOf("8286 84be 5886 a8eb 1064 9cbf")), [...head, "cache-control", "no-cache"]);
  assertEquals(one.decode(bytesOf("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf")), [
    ":method",
    "GET",
    ":scheme",
    "https",
    ":path",
    "/index.html",
    ":authority",
    "www.example.com",
    "custom-key",
    "custom-value",
  ]);
});

Deno.test("HeaderDecoder: the responses of Appendix C.6, whose table of 256 bytes evicts", () => {
  const one = decoder(256);
  const date = "Mon, 21 Oct 2013 20:13:21 GMT";
  const location = "https://www.example.com";
  assertEquals(
    one.decode(bytesOf(
      "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 " +
        "63c7 8f0b 97c8 e9ae 82ae 43d3",
    )),
    [":status", "302", "cache-control", "private", "date", date, "location", location],
  );
  assertEquals(one.decode(bytesOf("4883 640e ffc1 c0bf")), [
    ":status",
    "307",
    "cache-control",
    "private",
    "date",
    date,
    "location",
    location,
  ]);
  assertEquals(
    one.decode(bytesOf(
      "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 " +
        "b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    )),
    [
      ":status",
      "200",
      "cache-control",
      "private",
      "date",
      "Mon, 21 Oct 2013 20:13:22 GMT",
      "location",
      location,
      "content-encoding",
      "gzip",
      "set-cookie",
      "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
  );
});

Deno.test("HeaderDecoder: every byte of a value, in plain and cut anywhere", () => {
  const value = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));
  const block = encodeFields(["name", value, "", ""]);
  assertEquals(decoder().decode(block), ["name", value, "", ""]);
  for (let cut = 1; cut < block.length - 3; cut++) {
    assertThrows(() => decoder().decode(block.subarray(0, cut)), HpackError);
  }
});

Deno.test("HeaderDecoder: a list of fields beyond its limit is told, and the table stays the peer's", () => {
  const one = new HeaderDecoder(4_096, 100);
  // Two literals that enter the table, 40 and 80 bytes with what an entry takes; then both by their index.
  assertEquals(one.decode(bytesOf("40 04 61616161 04 62626262")), ["aaaa", "bbbb"]);
  const long = `40 04 63636363 2c ${"64".repeat(44)}`;
  assertEquals(one.decode(bytesOf(`${long} bf`)), undefined);
  assertEquals(one.decode(bytesOf("bf")), ["aaaa", "bbbb"]);
});

Deno.test("HeaderDecoder: what no block may say is an error", () => {
  for (
    const [what, hex] of [
      ["index 0", "80"],
      ["an entry that is not there", "ff 00"],
      ["a table that is larger than may be", "3f e2 1f"],
      ["a table that changes behind a field", "82 20"],
      ["an integer without end", "ff ff ff ff ff ff ff ff"],
      ["a string without end", "00 05 61"],
      ["padding that is not of ones", "00 01 61 81 00"],
      ["padding of a whole byte", "00 01 61 82 f8 ff"],
      ["the end-of-string symbol", "00 01 61 84 ff ff ff ff"],
    ]
  ) assertThrows(() => decoder().decode(bytesOf(hex)), HpackError, undefined, what);
});

/** Writes blocks in every form that there is, and keeps the table that a decoder is to have. */
class Encoder {
  readonly #table: [string, string][] = [];
  #bytes = 0;
  #limit = 4_096;

  constructor(readonly random: Random) {}

  block(fields: readonly [string, string][]): Uint8Array {
    const out: number[] = [];
    if (this.random.chance(0.1)) {
      this.#limit = this.random.below(4_097);
      this.#evict(this.#limit);
      this.#integer(out, 5, 0x20, this.#limit);
    }
    for (const [name, value] of fields) {
      const at = this.#table.findIndex(([n, v]) => n === name && v === value);
      const named = this.#table.findIndex(([n]) => n === name);
      if (at >= 0 && this.random.chance(0.8)) {
        this.#integer(out, 7, 0x80, at + 62);
        continue;
      }
      const indexed = this.random.chance(0.6);
      const index = named >= 0 && this.random.chance(0.7) ? named + 62 : 0;
      if (indexed) this.#integer(out, 6, 0x40, index);
      else this.#integer(out, 4, this.random.chance(0.5) ? 0x10 : 0, index);
      if (index === 0) this.#string(out, name);
      this.#string(out, value);
      if (indexed) this.#add(name, value);
    }
    return Uint8Array.from(out);
  }

  #add(name: string, value: string): void {
    const size = name.length + value.length + 32;
    this.#evict(this.#limit - size);
    if (size > this.#limit) return;
    this.#table.unshift([name, value]);
    this.#bytes += size;
  }

  #evict(room: number): void {
    while (this.#bytes > Math.max(0, room) && this.#table.length > 0) {
      const [name, value] = this.#table.pop()!;
      this.#bytes -= name.length + value.length + 32;
    }
  }

  #integer(out: number[], prefix: number, flags: number, value: number): void {
    const most = 2 ** prefix - 1;
    if (value < most) return void out.push(flags | value);
    out.push(flags | most);
    for (value -= most; value >= 128; value >>= 7) out.push((value & 127) | 128);
    out.push(value);
  }

  #string(out: number[], text: string): void {
    this.#integer(out, 7, 0, text.length);
    for (let i = 0; i < text.length; i++) out.push(text.charCodeAt(i));
  }
}

Deno.test("HeaderDecoder: 20,000 random blocks through one table, and their fragments through others", () => {
  const random = new Random(seed);
  const encoder = new Encoder(random);
  const one = decoder();
  const names = Array.from({ length: 30 }, (_, i) => `name-${i}`);
  const text = () => "x".repeat(random.below(random.chance(0.05) ? 600 : 40)) + random.below(5);
  for (let i = 0; i < 20_000; i++) {
    const fields = Array.from({ length: random.below(12) }, (): [string, string] => [random.pick(names), text()]);
    const block = encoder.block(fields);
    assertEquals(one.decode(block), fields.flat());
    if (i % 20 > 0) continue;
    const wrong = block.map((byte) => random.chance(0.05) ? random.below(256) : byte);
    try {
      const found = decoder().decode(wrong.subarray(0, random.below(wrong.length + 1)));
      assert(found === undefined || found.length % 2 === 0);
    } catch (error) {
      assert(error instanceof HpackError, String(error));
    }
  }
});
