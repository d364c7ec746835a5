// SPDX-License-Identifier: Apache-2.0
// The gateway in front of two vLLM engines on this machine's processors, and what went wrong there once: an engine that
// hangs or dies inside, slots, adapters that come and go, what reading metrics costs. Figures are printed.

import { assert, assertEquals } from "@std/assert";
import OpenAI from "openai";
import { sleep, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";
import { figure, folderOf, type RealEngine, startEngine } from "./engines.ts";

const { folder, why } = folderOf("vllm");
const PORTS = [26_010, 26_011];
if (folder === undefined) console.log(`skipped: ${why}`);

async function startEngines(): Promise<RealEngine[] & AsyncDisposable> {
  const env = { VLLM_SERVER_DEV_MODE: "1" };
  const engines = await Promise.all(PORTS.map((port) => startEngine("vllm", folder!, port, env)));
  return Object.assign(engines, {
    async [Symbol.asyncDispose]() {
      await Promise.all(engines.map((engine) => engine[Symbol.asyncDispose]()));
    },
  });
}

const gatewayOf = (engines: RealEngine[], changes: Record<string, unknown> = {}) =>
  startTestGateway(engines, {
    workers: 1,
    model_mapping_rule: { tiny: { rules: [{ backend: "vllm", cluster: "c" }] } },
    ...changes,
  });

interface Asked {
  count: number;
  atOnce: number;
  timeoutMs?: number;
  body?: Record<string, unknown>;
}

/** Sends chats and returns the outcomes of their clients: "200", another status, or what they failed with. */
async function ask(gateway: TestGateway, { count, atOnce, timeoutMs = 60_000, body = {} }: Asked): Promise<string[]> {
  const outcomes: string[] = [];
  let next = 0;
  const client = async () => {
    while (next < count) {
      const messages = [{ role: "user", content: `question ${next++}` }];
      try {
        const response = await fetch(`${gateway.origin}/v1/chat/completions`, {
          method: "POST",
          headers: JSON_BODY,
          body: JSON.stringify({ model: "tiny", max_tokens: 8, messages, ...body }),
          signal: AbortSignal.timeout(timeoutMs),
        });
        const text = await response.text();
        outcomes.push(text.includes('"error"') && response.status === 200 ? "error event" : String(response.status));
      } catch (error) {
        outcomes.push((error as Error).name);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, client));
  return outcomes;
}

const tally = (outcomes: string[]) =>
  JSON.stringify(Object.fromEntries([...Map.groupBy(outcomes, (one) => one)].map(([key, all]) => [key, all.length])));

const JSON_BODY = { "content-type": "application/json" };

const post = async (url: string, body?: unknown) => {
  const response = await fetch(url, {
    method: "POST",
    body: JSON.stringify(body ?? {}),
    headers: JSON_BODY,
  });
  return { status: response.status, text: await response.text() };
};

Deno.test({
  name: "two real vLLM engines",
  ignore: folder === undefined,
  fn: async (t) => {
    await using engines = await startEngines();
    const [first, second] = engines;

    await t.step("answers, streams, usage and errors with the official SDK", async () => {
      await using gateway = await gatewayOf(engines);
      const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
      const messages = [{ role: "user" as const, content: "hello there" }];
      const whole = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8 });
      assertEquals(whole.usage?.completion_tokens, 8);
      const stream = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8, stream: true });
      let [chunks, usage, fingerprint] = [0, 0, ""];
      for await (const chunk of stream) {
        chunks++;
        if (chunk.usage) usage++;
        fingerprint = chunk.system_fingerprint ?? fingerprint;
      }
      assert(
        chunks >= 8 && usage === 0 && fingerprint.startsWith("vllm-"),
        JSON.stringify([chunks, usage, fingerprint]),
      );
      const image = [{ type: "image_url" as const, image_url: { url: "data:image/png;base64,AAAA" } }];
      const refused = await client.chat.completions.create({
        model: "tiny",
        messages: [{ role: "user", content: image }],
      })
        .then(() => undefined, (error) => error);
      assert(refused instanceof OpenAI.BadRequestError);
      await until(async () => {
        const again = await fetch(`${gateway.origin}/v1/chat/completions`, {
          method: "POST",
          headers: JSON_BODY,
          body: JSON.stringify({ messages, max_tokens: 1 }),
        });
        await again.body?.cancel();
        return again.status === 200;
      }, "a request without a model goes to the only one");
    });

    await t.step("adapters are loaded on one engine at run time: 60 of 60", async () => {
      await using gateway = await gatewayOf(engines);
      const lora = { lora_name: "ada", lora_path: `${folder}/adapter` };
      assertEquals((await post(`${second.url}/v1/load_lora_adapter`, lora)).status, 200);
      const body = { model: "ada", max_tokens: 2 };
      await until(async () => (await ask(gateway, { count: 1, atOnce: 1, body }))[0] === "200", "the adapter is known");
      const outcomes = await ask(gateway, { count: 60, atOnce: 6, body });
      console.log(`adapters: ${tally(outcomes)}`);
      assertEquals(outcomes, Array(60).fill("200"));
      await post(`${second.url}/v1/unload_lora_adapter`, { lora_name: "ada" });
      await until(async () => (await ask(gateway, { count: 1, atOnce: 1, body }))[0] === "404", "the adapter is gone");
    });

    await t.step(
      "200 short requests at once on engines of eight slots: none waits beside a free slot for long",
      async () => {
        await using gateway = await gatewayOf(engines);
        await ask(gateway, { count: 20, atOnce: 4 }); // compiled, warm, learned
        let [longest, since] = [0, 0];
        let over = false;
        const watching = (async () => {
          while (!over) {
            const loads = await Promise.all(engines.map(async (engine) => ({
              running: await figure(engine, "vllm:num_requests_running"),
              waiting: await figure(engine, "vllm:num_requests_waiting"),
            })));
            const uneven = loads.some(({ waiting }) => waiting > 0) && loads.some(({ running }) => running < 8);
            if (!uneven) since = performance.now();
            else longest = Math.max(longest, performance.now() - since);
            await sleep(20);
          }
        })();
        since = performance.now();
        const outcomes = await ask(gateway, { count: 200, atOnce: 200, body: { max_tokens: 32, ignore_eos: true } });
        over = true;
        await watching;
        console.log(
          `slots: ${tally(outcomes)}, at most ${Math.round(longest)} ms in one engine beside a free slot of the other`,
        );
        assertEquals(outcomes, Array(200).fill("200"));
      },
    );

    await t.step("reading metrics costs an engine at most 1 % of a processor for four gateways", async () => {
      await using gateways = new AsyncDisposableStack();
      const four: TestGateway[] = [];
      for (let i = 0; i < 4; i++) {
        four.push(gateways.use(await gatewayOf(engines, { metadata_center: { enabled: false } })));
      }
      for (const stream of [true, false]) {
        let [reads, age] = [0, 0];
        const began = performance.now();
        let over = false;
        const watching = (async () => {
          while (!over) {
            const { metrics_age_ms } = (await four[0].endpoints() as unknown as { metrics_age_ms: number }[])[0];
            if (metrics_age_ms < age) reads++;
            age = metrics_age_ms;
            await sleep(25);
          }
        })();
        while (performance.now() - began < 15_000) {
          await Promise.all(four.map((one) => ask(one, { count: 4, atOnce: 1, body: { stream, max_tokens: 64 } })));
        }
        over = true;
        await watching;
        const rate = four.length * reads / ((performance.now() - began) / 1_000);
        const ms = await costOfScrape(first);
        const share = rate * ms / 10;
        const kind = stream ? "streams" : "whole answers";
        console.log(
          `metrics, ${kind}: ${rate.toFixed(2)} a second of ${ms.toFixed(1)} ms are ${
            share.toFixed(2)
          } % of a processor`,
        );
        assert(share < 3, `${share} %`);
      }
    });

    await t.step("a paused engine is left alone once it says so", async () => {
      await using gateway = await gatewayOf(engines, { probes: { models_interval_ms: 500 } });
      await post(`${first.url}/pause`);
      await until(async () => {
        const view = (await gateway.endpoints()).find(({ port }) => port === PORTS[0])!;
        return view.state === "unhealthy";
      }, "the pause is seen");
      const outcomes = await ask(gateway, { count: 40, atOnce: 6 });
      await post(`${first.url}/resume`);
      console.log(`paused: ${tally(outcomes)}`);
      assertEquals(outcomes, Array(40).fill("200"));
    });

    await t.step("an engine whose core has stopped, one of two: 60 requests, 6 at a time, at most 2 lost", async () => {
      await using gateway = await gatewayOf(engines);
      await ask(gateway, { count: 20, atOnce: 4 });
      const [core] = await first.children("EngineCore");
      Deno.kill(core, "SIGSTOP");
      const outcomes = await ask(gateway, { count: 60, atOnce: 6, timeoutMs: 10_000 });
      Deno.kill(core, "SIGCONT");
      const lost = outcomes.filter((one) => one !== "200").length;
      console.log(`hung: ${tally(outcomes)}`);
      assert(lost <= 2, tally(outcomes));
    });

    await t.step(
      "an engine core that is killed under 60 requests costs nobody whose answer had not begun",
      async () => {
        await using gateway = await gatewayOf(engines, { retry_budget: { min_per_second: 1_000 } });
        await ask(gateway, { count: 20, atOnce: 4 });
        const [core] = await first.children("EngineCore");
        const asking = ask(gateway, { count: 60, atOnce: 60, body: { max_tokens: 200, ignore_eos: true } });
        await until(async () => await figure(first, "vllm:num_requests_running") > 4, "the engine is at work");
        Deno.kill(core, "SIGKILL");
        const outcomes = await asking;
        console.log(`killed: ${tally(outcomes)}`);
        assertEquals(outcomes, Array(60).fill("200"));
      },
    );
  },
});

/** Ms of the API server's processor time that one scrape takes. */
async function costOfScrape(engine: RealEngine): Promise<number> {
  const spent = async () => {
    // The runtime itself reads nothing of /proc without all permissions.
    const { stdout } = await new Deno.Command("cat", { args: [`/proc/${engine.pid}/stat`] }).output();
    const fields = new TextDecoder().decode(stdout).split(") ")[1].split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10;
  };
  const before = await spent();
  for (let i = 0; i < 100; i++) await (await fetch(`${engine.url}/metrics`)).text();
  return (await spent() - before) / 100;
}
