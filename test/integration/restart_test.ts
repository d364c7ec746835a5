// SPDX-License-Identifier: Apache-2.0
// The life of a gateway's process: a second one takes over from the first, SIGTERM lets load balancers take notice, SIGHUP
// reads the configuration again and ends nothing.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import OpenAI from "openai";
import { formatAddress } from "../../src/base/address.ts";
import { chat, post, startEngines } from "../support/gateway.ts";
import { startAigw } from "../support/process.ts";
import { until } from "../support/until.ts";
import { freePort } from "../support/machine.ts";

/** A port that was free a moment ago. */
async function writeConfig(engines: { address: { port: number } }[], more = "") {
  const [listen, admin] = [freePort(), freePort()];
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  const write = (extra: string) =>
    Deno.writeTextFile(
      path,
      `listen: 127.0.0.1:${listen}
admin: {listen: 127.0.0.1:${admin}}
metadata_center: {enabled: false}
workers: 1
log: {level: error, enabled: false}
clusters:
  - {name: c, endpoints: [${engines.map(({ address }) => `{address: 127.0.0.1, port: ${address.port}}`).join(", ")}]}
model_mapping_rule: {m: {rules: [{backend: vllm, cluster: c}]}}
${extra}`,
    );
  await write(more);
  return {
    path,
    write,
    origin: `http://127.0.0.1:${listen}`,
    admin: `http://127.0.0.1:${admin}`,
    [Symbol.asyncDispose]: () => Deno.remove(path),
  };
}

/**
 * Requests by the official SDK, which tries again on another connection where one fails before an answer, as it does by
 * default; until it is told to stop.
 */
function loadOf(origin: string) {
  const client = new OpenAI({ baseURL: `${origin}/v1`, apiKey: "none" });
  const messages = [{ role: "user" as const, content: "x" }];
  const problems: string[] = [];
  let count = 0;
  let over = false;
  const running = (async () => {
    while (!over) {
      try {
        if (count++ % 2 === 0) {
          let finished = false;
          const stream = await client.chat.completions.create({ model: "m", messages, max_tokens: 5, stream: true });
          for await (const { choices } of stream) finished ||= choices[0]?.finish_reason === "length";
          if (!finished) problems.push("a stream was cut");
        } else await client.chat.completions.create({ model: "m", messages, max_tokens: 5 });
      } catch (error) {
        problems.push(String(error));
      }
    }
  })();
  return {
    get count() {
      return count;
    },
    async stop() {
      over = true;
      await running;
      return problems;
    },
    async [Symbol.asyncDispose]() {
      over = true;
      await running;
    },
  };
}

Deno.test("a second process takes over from the first under load: nothing is refused and no stream is cut", async () => {
  await using engines = startEngines(1, { speed: 100 });
  await using config = await writeConfig(engines);
  const serve = ["serve", "--config", config.path];
  await using first = await startAigw(serve, "null");
  const stream = await post(config.origin, chat("x", { stream: true, max_tokens: 300 }));
  await using stack = new AsyncDisposableStack();
  const loads = Array.from({ length: 4 }, () => stack.use(loadOf(config.origin)));
  const total = () => loads.reduce((sum, { count }) => sum + count, 0);
  await until(() => total() > 40, "some requests");
  await using second = await startAigw([...serve, "--share-addresses"], "null");
  assert(second.port > 0);
  const overlap = total();
  await until(() => total() > overlap + 40, "requests on both");
  const ended = first.end("SIGTERM");
  const text = await stream.text();
  assert(text.endsWith("data: [DONE]\n\n"), text.slice(-200));
  assertEquals(await ended, 0, "the first ends by itself");
  const alone = total();
  await until(() => total() > alone + 40, "requests on the second alone");
  const problems = (await Promise.all(loads.map((load) => load.stop()))).flat();
  assertEquals(problems, []);
});

Deno.test("without --share-addresses a second process does not start on the same addresses", async () => {
  await using engines = startEngines(1, { instant: true });
  await using config = await writeConfig(engines);
  await using _first = await startAigw(["serve", "--config", config.path], "null");
  let failed = false;
  await startAigw(["serve", "--config", config.path], "null").catch(() => failed = true);
  assert(failed);
});

Deno.test("SIGTERM: not ready at once, still accepting for shutdown_delay_ms, then drained", async () => {
  await using engines = startEngines(1, { speed: 100 });
  await using config = await writeConfig(engines, "timeouts: {shutdown_delay_ms: 1500}\n");
  await using aigw = await startAigw(["serve", "--config", config.path], "null");
  await using load = loadOf(config.origin);
  await until(() => load.count > 5, "some requests");
  let over = false;
  const ended = aigw.end("SIGTERM").finally(() => over = true);
  const ready = await until(async () => {
    const response = await fetch(`${config.admin}/readyz`);
    return (await response.text()).startsWith("draining") && response.status === 503;
  }, "/readyz at 503");
  assertEquals(ready, undefined);
  const before = load.count;
  await until(() => load.count > before + 10, "requests that came after that");
  assert(!over, "it still accepts");
  assertEquals(await load.stop(), []);
  assertEquals(await ended, 0);
});

Deno.test("SIGHUP reads the configuration again, right or wrong, and ends nothing", async () => {
  await using engines = startEngines(1, { instant: true });
  await using config = await writeConfig(engines, "reload: {watch: false}\n");
  await using aigw = await startAigw(["serve", "--config", config.path], "null");
  const status = async () => (await (await fetch(`${config.admin}/config`)).json()).status;
  await config.write("reload: {watch: false}\nretries: 3\n");
  aigw.signal("SIGHUP");
  await until(async () => (await status()).counts.applied === 1, "the reload");
  await config.write("retries: many\n");
  aigw.signal("SIGHUP");
  await until(async () => (await status()).counts.refused === 1, "its refusal");
  assertStringIncludes((await status()).last_error, "retries");
  const response = await post(config.origin, chat("x"));
  await response.body?.cancel();
  assertEquals([response.status, formatAddress(engines[0].address) !== ""], [200, true]);
});
