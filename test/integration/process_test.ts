// SPDX-License-Identifier: Apache-2.0
// The command line as users run it: real processes, exit statuses, signals.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { sleep } from "../support/gateway.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";
import { gate, until } from "../support/until.ts";

const PERMISSIONS = [
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys=hostname,networkInterfaces",
];
const root = new URL("../../", import.meta.url).pathname;

function command(...args: string[]): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", ...PERMISSIONS, `${root}src/main.ts`, ...args],
    cwd: root,
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  });
}

async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await command(...args).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

async function withConfig<T>(text: string, body: (path: string) => Promise<T>): Promise<T> {
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  try {
    await Deno.writeTextFile(path, text);
    return await body(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("check-config --against says what changes and what of it needs a restart", async () => {
  const config = (more: string) =>
    `clusters: [{name: c}]\nmodel_mapping_rule: {m: {rules: [{backend: vllm, cluster: c}]}}\n${more}`;
  await withConfig(config(""), async (running) => {
    const against = async (more: string) =>
      await withConfig(config(more), async (wanted) => (await run("check-config", wanted, "--against", running)).out);
    assertStringIncludes(await against(""), "nothing changes\na running gateway takes it on as it is");
    assertStringIncludes(await against("retries: 3\n"), "changes: retries\na running gateway takes it on as it is");
    assertStringIncludes(
      await against("listen: 127.0.0.1:9\nlimits: {prefixes: 1024, url_bytes: 100}\n"),
      "changes: listen, limits\nneeds a restart: listen, limits.prefixes",
    );
  });
});

Deno.test("help, version, schema, wrong usage", async () => {
  assertStringIncludes((await run("--help")).out, "Commands:");
  assertStringIncludes((await run("serve", "--help")).out, "--mock-engines");
  assertEquals((await run("version")).out.trim(), JSON.parse(await Deno.readTextFile(`${root}deno.json`)).version);
  const schema = JSON.parse((await run("config-schema")).out);
  assertEquals(schema.properties.listen.type, "string");
  for (
    const [args, message] of [
      [["dance"], 'no command "dance"'],
      [["serve"], "needs --config"],
      [["serve", "--conf", "x"], "Unknown option --conf; did you mean --config?"],
      [["serv"], 'did you mean "serve"?'],
      [["serve", "--config", "config/local.yaml", "--workers", "many"], "expected a whole number"],
      [["serve", "--config", "config/local.yaml", "--listen", "nowhere"], "expected HOST:PORT"],
      [["mock-engine", "--fault", "{"], "--fault"],
      [["check-config"], "takes 1 argument, not 0"],
      [["import"], "takes at least 1 argument"],
    ] as const
  ) {
    const { code, err } = await run(...args);
    assertEquals(code, 2, err);
    assertStringIncludes(err, message);
  }
});

Deno.test("import prints a configuration that can be used, and says plainly what it cannot read", async () => {
  const rule = { plugins: [{ config: { model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } } } }] };
  const endpoints = { clusters: [{ name: "c", endpoints: [{ address: "127.0.0.1", port: 1 }] }] };
  await withConfig(JSON.stringify(rule), (go) =>
    withConfig(JSON.stringify(endpoints), async (clusters) => {
      const { code, out } = await run("import", go, clusters);
      assertEquals(code, 0);
      await withConfig(out, async (ours) => assertEquals((await run("check-config", ours)).code, 0));
      const without = await run("import", clusters);
      assertEquals(without.code, 1);
      assertStringIncludes(without.err, "no model_mapping_rule");
      assert(!without.err.includes("at "), without.err);
      assertStringIncludes((await run("import", "/no/such/file")).err, "cannot be read");
    }));
});

Deno.test("check-config says what is wrong and where", async () => {
  assertEquals((await run("check-config", "config/local.yaml")).code, 0);
  await withConfig("clusters: [{name: a\nmodel", async (path) => {
    const { code, err } = await run("check-config", path);
    assertEquals(code, 1);
    assertStringIncludes(err, "is neither YAML nor JSON");
  });
  await withConfig("lisen: 1.2.3.4:5\nclusters: [{name: a, endpoints: [{address: x, port: 99999}]}]", async (path) => {
    const { code, err } = await run("check-config", path);
    assertEquals(code, 1);
    assertStringIncludes(err, 'lisen: unknown key; did you mean "listen"?');
    assertStringIncludes(err, "clusters[0].endpoints[0].port: Too big: expected number to be <=65535 (found 99999)");
  });
  assertStringIncludes((await run("check-config", "/nowhere.yaml")).err, "there is no such file");
  await withConfig("clusters: [{name: empty}]", async (path) => {
    assertStringIncludes((await run("check-config", path)).out, 'cluster "empty" has no endpoints');
  });
});

Deno.test("the smallest useful config works as it is", () => {
  const config = parseConfig({
    clusters: [{
      name: "qwen3.service",
      endpoints: [{ address: "127.0.0.1", port: 8000 }, { address: "127.0.0.1", port: 8001 }],
    }],
    model_mapping_rule: { qwen3: { rules: [{ backend: "vllm", cluster: "qwen3.service" }] } },
  });
  assertEquals([config.listen, config.admin.listen, config.expose_endpoint], [
    "0.0.0.0:10000",
    "127.0.0.1:15000",
    false,
  ]);
});

const SMALL = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
metadata_center: {listen: "127.0.0.1:0"}
workers: 1
clusters: [{name: c, endpoints: [{address: 127.0.0.1, port: PORT}]}]
model_mapping_rule: {m: {rules: [{backend: vllm, cluster: c}]}}
`;

const STREAM = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/** The small config with a mock engine's port, and a model "slow" whose engine is elsewhere. */
function withSlow(port: number, slowPort: number): string {
  return SMALL.replace("PORT", String(port))
    .replace("cluster: c}]}}", "cluster: c}]}, slow: {rules: [{backend: vllm, cluster: d}]}}")
    .replace(
      "}]\nmodel",
      `}, {name: d, endpoints: [{address: 127.0.0.1, port: ${slowPort}}]}]\nprobes: {enabled: false}\nmodel`,
    );
}

async function freePort(): Promise<number> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  await sleep(0);
  return port;
}

Deno.test("a port in use is said plainly, for the gateway, the admin and a mock engine", async () => {
  const engine = await freePort();
  await withConfig(SMALL.replace("PORT", String(engine)), async (path) => {
    using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const address = `127.0.0.1:${(taken.addr as Deno.NetAddr).port}`;
    for (const option of ["--listen", "--admin"]) {
      const { code, err } = await run("serve", "--config", path, option, address);
      assertEquals(code, 1);
      assertStringIncludes(err, `Cannot listen on ${address}`);
      assertStringIncludes(err, "in use");
    }
    using alsoTaken = Deno.listen({ hostname: "127.0.0.1", port: engine });
    assert(alsoTaken);
    const { code, err } = await run("serve", "--config", path, "--mock-engines", "1");
    assertEquals(code, 1);
    assertStringIncludes(err, "Cannot start a mock engine");
  });
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`serve prints a curl line that works; ${signal} refuses new work, finishes streams and exits 0`, async () => {
    const rest = gate();
    await using slow = startRawServer(() => ({
      writes: [bytes(`${STREAM}9\r\ndata: 1\n\n\r\n`), bytes("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")],
      before: (write) => write === 1 ? rest.opened : undefined,
      then: "keep",
    }));
    await withConfig(withSlow(await freePort(), slow.address.port), async (path) => {
      const child = command("serve", "--config", path, "--mock-engines", "1").spawn();
      let printed = "";
      const printing = (async () => {
        for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) printed += text;
      })();
      await until(() => printed.includes("curl "), () => `a curl line is printed: ${printed}`);
      const [, url, body] = /curl (\S+) .* -d '(.*)'/.exec(printed)!;
      const response = await fetch(url, { method: "POST", body });
      assertEquals(response.status, 200);
      assertEquals((await response.json()).object, "chat.completion");

      const stream = await fetch(url, {
        method: "POST",
        body: JSON.stringify({ model: "slow", messages: [{ role: "user", content: "x" }], stream: true }),
      });
      const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader();
      let text = (await reader.read()).value!;
      child.kill(signal);
      const late = () =>
        fetch(url, { method: "POST", body }).then((r) => r.body?.cancel().then(() => false), () => true);
      // The stream is held: the gateway is there, and refuses.
      await until(async () => await late() ?? false, "new work is refused");
      rest.open();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) text += piece.value;
      assertEquals(text, "data: 1\n\ndata: [DONE]\n\n");
      assertEquals((await child.status).code, 0);
      await printing;
      await child.stderr.cancel();
      assertStringIncludes(printed, "nothing was lost");
    });
  });
}
