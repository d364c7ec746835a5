// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { freshKernel, readHashes, writePrompt } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { sharedText } from "../support/shared.ts";
import { murmur3, prefixHashes } from "./twin.ts";

const vectors = sharedText("vectors/prefix_hash.json");

Deno.test({
  name: "hashPrompt gives the published vectors",
  ignore: vectors === undefined,
  fn() {
    const kernel = freshKernel();
    for (const { text, generated_length, chunk_bytes, prefix_hashes } of JSON.parse(vectors!).cases) {
      const prompt: string = text ??
        String.fromCharCode(...Array.from({ length: generated_length }, (_, i) => 32 + (i * 7 + (i >> 3)) % 95));
      const count = kernel.exports.hashPrompt(writePrompt(kernel, prompt), chunk_bytes);
      assertEquals(readHashes(kernel, count).map(String), prefix_hashes);
    }
  },
});

Deno.test("hashPrompt agrees with a hash of every prefix, for all lengths and odd chunk sizes", () => {
  const random = new Random(seed);
  const kernel = freshKernel();
  for (let round = 0; round < 300; round++) {
    const bytes = random.bytes(random.below(2_000));
    const chunk = random.pick([1, 7, 15, 16, 17, 31, 32, 100, 512, 513]);
    const count = kernel.exports.hashPrompt(writePrompt(kernel, bytes), chunk);
    assertEquals(readHashes(kernel, count), prefixHashes(bytes, chunk).slice(0, 256));
  }
});

Deno.test("hashPrompt hashes no more chunks than fit", () => {
  const kernel = freshKernel({ promptChunks: 4 });
  const bytes = new Random(seed).bytes(2_048);
  assertEquals(kernel.exports.hashPrompt(writePrompt(kernel, bytes), 256), 4);
  assertEquals(readHashes(kernel, 4), prefixHashes(bytes, 256).slice(0, 4));
});

Deno.test("digest of a text in pieces is the hash of the whole", () => {
  const random = new Random(seed);
  const kernel = freshKernel();
  for (const length of [0, 1, 15, 16, 17, 4_096, 50_001]) {
    const bytes = random.bytes(length);
    kernel.exports.digestStart();
    let at = 0;
    for (; length - at >= 4_096; at += 4_096) {
      writePrompt(kernel, bytes.subarray(at, at + 4_096));
      kernel.exports.digestAbsorb(256);
    }
    writePrompt(kernel, bytes.subarray(at));
    const blocks = (length - at) >> 4;
    kernel.exports.digestAbsorb(blocks);
    kernel.exports.digestEnd(blocks << 4, (length - at) & 15, length);
    assertEquals(readHashes(kernel, 2), murmur3(bytes));
  }
});
