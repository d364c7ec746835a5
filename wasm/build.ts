// SPDX-License-Identifier: Apache-2.0
// Compiles assembly/ to wasm/kernel.wasm (`deno task build:wasm`); with --check compares instead of writing. The
// compiler's output is the same bytes for the same source, so the committed binary can be held to it.

import asc from "assemblyscript/asc";
import { Buffer } from "node:buffer";

const root = new URL("..", import.meta.url);
const output = new URL("wasm/kernel.wasm", root);

async function compile(): Promise<Uint8Array> {
  let binary: Uint8Array | undefined;
  const { error, stderr } = await asc.main([
    "assembly/index.ts",
    "--outFile",
    "kernel.wasm",
    "--runtime",
    "stub",
    "--importMemory",
    "--sharedMemory",
    "--initialMemory",
    "1",
    "--maximumMemory",
    "65536",
    "--enable",
    "threads",
    "--enable",
    "simd",
    "-O3",
    "--noAssert",
    "--use",
    "abort=",
  ], {
    readFile: (name: string, base: string) => {
      try {
        return Deno.readTextFileSync(new URL(name, new URL(`${base}/`, root)));
      } catch {
        return null;
      }
    },
    writeFile: (_name: string, contents: Uint8Array | string) => {
      if (typeof contents !== "string") binary = contents;
    },
    listFiles: () => [],
    stderr: asc.createMemoryStream((chunk: string | Uint8Array) => Deno.stderr.writeSync(Buffer.from(chunk))),
  });
  if (error || !binary) throw new Error(`The kernel does not compile: ${error?.message ?? "no output"}\n${stderr}`);
  return binary;
}

const binary = await compile();
if (Deno.args.includes("--check")) {
  const committed = await Deno.readFile(output);
  const same = committed.length === binary.length && committed.every((byte, i) => byte === binary[i]);
  if (!same) {
    console.error("wasm/kernel.wasm is not what assembly/ compiles to: run `deno task build:wasm` and commit it");
    Deno.exit(1);
  }
  console.log(`wasm/kernel.wasm is fresh (${binary.length} bytes)`);
} else {
  await Deno.writeFile(output, binary);
  console.log(`Wrote wasm/kernel.wasm (${binary.length} bytes)`);
}
