// SPDX-License-Identifier: Apache-2.0
// Repository style as a test: import levels, circles, file sizes, licence lines, names.

import { assertEquals } from "@std/assert";

const root = new URL("../", import.meta.url);
const LICENSE_LINE = "// SPDX-License-Identifier: Apache-2.0";
const MAX_LINES = 400;

/** A folder imports only folders of a lower level; folders of one level never import each other. */
const LEVELS: Record<string, number> = {
  "src/base": 0,
  "src/openai": 1,
  "src/zmtp": 1,
  "src/config": 2,
  "wasm": 2,
  "src/tables": 3,
  "src/telemetry": 4,
  "src/cache_events": 4,
  "src/tokens": 4,
  "src/discovery": 5,
  "src/scheduler": 5,
  "src/admission": 5,
  "src/metadata": 5,
  "src/upstream": 5,
  "src/mock": 5,
  "src/load": 5,
  "src/grpc": 6,
  "src/engines": 6,
  "src/gateway": 7,
  "src/front": 8,
  "src/control": 8,
  "src/admin": 9,
  "src/server": 10,
  "src/command_line": 11,
  "src/main.ts": 12,
  "wasm/build.ts": 13,
  "test": 14,
};

function sources(folder: string): string[] {
  const files: string[] = [];
  for (const entry of Deno.readDirSync(new URL(`${folder}/`, root))) {
    if (entry.isDirectory) files.push(...sources(`${folder}/${entry.name}`));
    else if (entry.name.endsWith(".ts")) files.push(`${folder}/${entry.name}`);
  }
  return files;
}

const all = ["src", "wasm", "assembly", "test", "bench"].flatMap(sources).sort();

/** Every import between our own files, as [from, to]. The kernel's sources leave the ending out. */
const edges: [string, string][] = all.flatMap((from) => {
  const text = Deno.readTextFileSync(new URL(from, root));
  const named = text.matchAll(/^(?:import|export|\} from|import type)\b[^"\n]*"(\.[^"]+)"|import\("(\.[^"]+)"\)/gm);
  return [...named].flatMap(([, fixed, dynamic]): [string, string][] => {
    const path = new URL(fixed ?? dynamic, new URL(from, root)).href.slice(root.href.length);
    const to = from.startsWith("assembly/") ? `${path}.ts` : path;
    return to.endsWith(".ts") && !to.endsWith(".d.ts") ? [[from, to]] : [];
  });
});

// The kernel's folders import each other: it is one program whose order is that of its files.
function unit(file: string): string | undefined {
  if (file.startsWith("assembly/")) return "assembly";
  if (file.startsWith("bench/")) return "test"; // tests run benchmarks, and benchmarks use the tests' tools
  return Object.keys(LEVELS).find((folder) => file === folder || file.startsWith(`${folder}/`));
}

Deno.test("imports go to a lower level or stay in their folder", () => {
  assertEquals(edges.filter(([, to]) => !all.includes(to)), [], "imports of files that there are not");
  const wrong = edges.filter(([from, to]) => {
    const [a, b] = [unit(from), unit(to)];
    return a !== b && (a === undefined || b === undefined || LEVELS[b] >= LEVELS[a]);
  });
  assertEquals(wrong.map(([from, to]) => `${from} imports ${to}`), []);
});

Deno.test("every source file is reached", () => {
  const reached = new Set([
    "src/main.ts",
    "src/server/worker.ts",
    "src/tokens/thread.ts",
    "assembly/index.ts",
    "wasm/build.ts",
  ]);
  for (const [, to] of edges) reached.add(to);
  const sources = all.filter((file) => /^(src|assembly|wasm)\//.test(file) && !file.endsWith(".d.ts"));
  assertEquals(sources.filter((file) => !reached.has(file)), []);
});

Deno.test("imports have no circles", () => {
  const next = new Map<string, string[]>();
  for (const [from, to] of edges) next.set(from, [...next.get(from) ?? [], to]);
  const done = new Set<string>();
  const visit = (file: string, path: string[]): string[] => {
    if (path.includes(file)) return [[...path.slice(path.indexOf(file)), file].join(" > ")];
    if (done.has(file)) return [];
    const circles = (next.get(file) ?? []).flatMap((to) => visit(to, [...path, file]));
    done.add(file);
    return circles;
  };
  assertEquals([...next.keys()].flatMap((file) => visit(file, [])), []);
});

Deno.test("every source file opens with its licence and is of a readable size", () => {
  const wrong: string[] = [];
  for (const file of all) {
    const lines = Deno.readTextFileSync(new URL(file, root)).split("\n");
    if (lines[0] !== LICENSE_LINE) wrong.push(`${file}: the first line is not "${LICENSE_LINE}"`);
    if (lines.length > MAX_LINES) wrong.push(`${file}: ${lines.length} lines, at most ${MAX_LINES}`);
    if (!/^[a-z0-9_.]+$/.test(file.slice(file.lastIndexOf("/") + 1))) wrong.push(`${file}: names are snake_case`);
  }
  assertEquals(wrong, []);
});

Deno.test("the top level holds what it should and nothing else", () => {
  const expected =
    "ARCHITECTURE.md CHANGELOG.md Dockerfile LICENSE README.md assembly bench config deno.json deno.lock docs src test wasm";
  const tracked = [...Deno.readDirSync(root)].map(({ name }) => name).filter((name) =>
    !name.startsWith(".") && name !== "dist"
  );
  assertEquals(tracked.sort().join(" "), expected);
});

Deno.test("the version is the same everywhere", async () => {
  const { version } = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  const { VERSION } = await import("../src/base/version.ts");
  assertEquals(VERSION, version);
  const changes = await Deno.readTextFile(new URL("CHANGELOG.md", root));
  assertEquals(/^## (\S+)/m.exec(changes)?.[1], version);
});

Deno.test("what the gateway imports is what its tests import, in the same versions", async () => {
  const read = async (path: string) => JSON.parse(await Deno.readTextFile(new URL(path, root))).imports;
  const [runtime, testing] = [await read("deno.json"), await read("test/deno.json")];
  const differing = Object.keys(runtime).filter((name) => name !== "env" && testing[name] !== runtime[name]);
  assertEquals(differing, []);
});
