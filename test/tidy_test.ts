// SPDX-License-Identifier: Apache-2.0
// Repository style as a test: import levels, circles, file sizes, licence lines, names.

import { assertEquals } from "@std/assert";

const root = new URL("../", import.meta.url);
const LICENSE_LINE = "// SPDX-License-Identifier: Apache-2.0";
const MOST_LINES = 400;

/** A folder imports only folders of a lower level; folders of one level never import each other. */
const LEVELS: Record<string, number> = {
  "src/base": 0,
  "src/config": 1,
  "wasm": 1,
  "src/tables": 2,
  "src/openai": 2,
  "src/telemetry": 3,
  "src/engines": 4,
  "src/discovery": 4,
  "src/scheduler": 4,
  "src/admission": 4,
  "src/metadata": 4,
  "src/upstream": 4,
  "src/mock": 4,
  "src/gateway": 5,
  "src/admin": 6,
  "src/server": 7,
  "src/main.ts": 8,
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

interface ModuleGraph {
  modules: { specifier: string; dependencies?: { code?: { specifier: string }; type?: { specifier: string } }[] }[];
}

/** Every import between our own files, as [from, to]. */
async function imports(entry: string): Promise<[string, string][]> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", new URL(entry, root).pathname],
    cwd: root,
    stdout: "piped",
    stderr: "null",
  }).output();
  const { modules }: ModuleGraph = JSON.parse(new TextDecoder().decode(stdout));
  const own = (specifier: string) => specifier.startsWith(root.href) ? specifier.slice(root.href.length) : undefined;
  const edges: [string, string][] = [];
  for (const { specifier, dependencies } of modules) {
    for (const { code, type } of dependencies ?? []) {
      const [from, to] = [own(specifier), own((code ?? type)!.specifier)];
      if (from && to && to.endsWith(".ts")) edges.push([from, to]);
    }
  }
  return edges;
}

const edges = [...await imports("src/main.ts"), ...await imports("src/server/worker.ts")];

function unit(file: string): string | undefined {
  return Object.keys(LEVELS).find((folder) => file === folder || file.startsWith(`${folder}/`));
}

Deno.test("imports go to a lower level or stay in their folder", () => {
  const wrong = edges.filter(([from, to]) => {
    const [a, b] = [unit(from), unit(to)];
    return a !== b && (a === undefined || b === undefined || LEVELS[b] >= LEVELS[a]);
  });
  assertEquals(wrong.map(([from, to]) => `${from} imports ${to}`), []);
});

Deno.test("every source file is reached from main or the worker", () => {
  const reached = new Set(["src/main.ts", "src/server/worker.ts", ...edges.map(([, to]) => to)]);
  assertEquals(all.filter((file) => file.startsWith("src/") && !reached.has(file)), []);
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
    if (lines.length > MOST_LINES) wrong.push(`${file}: ${lines.length} lines, at most ${MOST_LINES}`);
    if (!/^[a-z0-9_.]+$/.test(file.slice(file.lastIndexOf("/") + 1))) wrong.push(`${file}: names are snake_case`);
  }
  assertEquals(wrong, []);
});

Deno.test("the top level holds what it should and nothing else", () => {
  const expected =
    "ARCHITECTURE.md CHANGELOG.md Dockerfile LICENSE README.md assembly bench config deno.json deno.lock src test wasm";
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

Deno.test("the README shows every task and every config key that it names exists", async () => {
  const readme = await Deno.readTextFile(new URL("README.md", root));
  const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  const named = [...readme.matchAll(/deno task ([a-z:]+)/g)].map(([, name]) => name);
  assertEquals(named.filter((name) => !(name in tasks)), []);
  assertEquals(Object.keys(tasks).filter((name) => !readme.includes(`deno task ${name}`)), []);
});
