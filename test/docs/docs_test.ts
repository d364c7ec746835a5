// SPDX-License-Identifier: Apache-2.0
// The pages hold what they say: configurations are valid, commands run, links lead somewhere, references are fresh.

import { assert, assertEquals } from "@std/assert";
import { parse as parseYaml } from "@std/yaml";
import { formatAddress } from "../../src/base/address.ts";
import { parseConfig } from "../../src/config/load.ts";
import { startEngines, startTestGateway } from "../support/gateway.ts";
import { formatted, PAGES } from "./generate.ts";

const root = new URL("../../", import.meta.url);
const pages = [
  "README.md",
  "ARCHITECTURE.md",
  ...[...Deno.readDirSync(new URL("docs/", root))].map(({ name }) => `docs/${name}`),
];
const textOf = (page: string) => Deno.readTextFileSync(new URL(page, root));

interface Block {
  readonly page: string;
  readonly kind: string;
  readonly text: string;
}

const blocks: Block[] = pages.flatMap((page) =>
  [...textOf(page).matchAll(/^ *```(\w*)\n([\s\S]*?)^ *```$/gm)].map(([, kind, text]) => ({ page, kind, text }))
);

Deno.test("docs: every block says what it is", () => {
  const kinds = new Set(["yaml", "sh", "console", "python", "text", ""]);
  assertEquals(blocks.filter(({ kind }) => !kinds.has(kind)), []);
  assert(blocks.filter(({ kind }) => kind === "yaml").length > 10);
});

Deno.test("docs: every configuration is one", () => {
  for (const { page, kind, text } of blocks) {
    if (kind !== "yaml") continue;
    const value = parseYaml(text) as { clusters?: unknown };
    try {
      parseConfig(value, page);
    } catch (error) {
      throw new Error(`${page}:\n${text}\n${(error as Error).message}`);
    }
  }
});

Deno.test("docs: links lead somewhere, tasks that are named exist", () => {
  const { tasks } = JSON.parse(textOf("deno.json"));
  const anchors = (page: string) =>
    new Set(
      [...textOf(page).matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
        title.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-")
      ),
    );
  for (const page of pages) {
    for (const [, link] of textOf(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(link)) continue;
      const [path, anchor] = link.split("#");
      const target = path === "" ? page : new URL(path, new URL(page, root)).href.slice(root.href.length);
      assert(Deno.statSync(new URL(target, root)).isFile, `${page}: ${link}`);
      if (anchor !== undefined) assert(anchors(target).has(anchor), `${page}: ${link} has no such heading`);
    }
    for (const [, task] of textOf(page).matchAll(/deno task ([a-z]+(?::[a-z]+)?)/g)) {
      assert(task in tasks, `${page}: there is no task ${task}`);
    }
  }
  const named = pages.map(textOf).join("\n");
  assertEquals(Object.keys(tasks).filter((task) => !named.includes(`deno task ${task}`)), []);
});

Deno.test("docs: the references are those of this program", async () => {
  for (const [name, make] of Object.entries(PAGES)) {
    assertEquals(textOf(`docs/${name}`), await formatted(make()), `deno task build:docs makes docs/${name} anew`);
  }
});

Deno.test("docs: every command runs", async () => {
  await using engines = startEngines(2, { speed: 20, models: ["qwen3"] });
  await using gateway = await startTestGateway([], {
    clusters: [{
      name: "qwen3.service",
      endpoints: engines.map(({ address }) => ({ address: address.hostname, port: address.port })),
    }],
    model_mapping_rule: { qwen3: { rules: [{ backend: "vllm", cluster: "qwen3.service" }] } },
  });
  // Where the demonstration listens, and where this one does.
  const places: [RegExp, string][] = [
    [/127\.0\.0\.1:10000/g, gateway.origin.slice("http://".length)],
    [/127\.0\.0\.1:15000/g, gateway.admin.slice("http://".length)],
    [/127\.0\.0\.1:10001/g, formatAddress(engines[0].address)],
    [/127\.0\.0\.1:10002/g, formatAddress(engines[1].address)],
  ];
  const folder = await Deno.makeTempDir();
  try {
    for (const { page, kind, text } of blocks) {
      const [, file] = /^# (\S+\.yaml)\n/.exec(text) ?? [];
      if (kind === "yaml" && file !== undefined) await Deno.writeTextFile(`${folder}/${file}`, text);
      if (kind !== "sh") continue;
      for (const line of text.trim().split("\n")) {
        const aigw = `"${Deno.execPath()}" run --quiet --allow-all "${new URL("src/main.ts", root).pathname}"`;
        let command = line.replace(/^deno task aigw/, aigw);
        for (const [place, here] of places) command = command.replaceAll(place, here);
        const { code, stdout, stderr } = await new Deno.Command("bash", { args: ["-c", command], cwd: folder })
          .output();
        const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
        assertEquals(code, 0, `${page}: ${line}\n${said}`);
        // Errors that are asked for are told as such; others are none.
        if (/"error":\s*\{/.test(said)) assert(/nobody|faults/.test(line), `${page}: ${line}\n${said}`);
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
