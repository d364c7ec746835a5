// SPDX-License-Identifier: Apache-2.0
// Two real vLLM engines that tell what their caches hold: what the gateway knew of each prompt when it chose the engine,
// against the `cached_tokens` of the engine's own answer. Figures are printed.

import { assert } from "@std/assert";
import { sleep, startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { folderOf, type RealEngine, startEngine } from "./engines.ts";

const { folder, why } = folderOf("vllm");
const PORTS = [26_020, 26_021];
if (folder === undefined) console.log(`skipped: ${why}`);

/** A port of its own for events and for what was missed, which the engine chooses and tells. */
const KV_EVENTS = {
  enable_kv_cache_events: true,
  publisher: "zmq",
  endpoint: "tcp://*:0",
  replay_endpoint: "tcp://*:0",
  topic: "kv",
};
const FLAGS = [
  "--enable-prefix-caching",
  "--enable-prompt-tokens-details",
  "--kv-events-config",
  JSON.stringify(KV_EVENTS),
];
const start = (port: number) => startEngine("vllm", folder!, port, { VLLM_SERVER_DEV_MODE: "1" }, FLAGS);

interface Told {
  trace_id: string;
  known_cached_tokens: number | null;
  cached_tokens: number | null;
  prompt_tokens: number;
  outcome: string;
}

const WORDS = "bran clion dement frer guist haner joum kist lion mann nest opling prous quier rument stion trist veness"
  .split(" ");
const text = (random: Random, words: number) => Array.from({ length: words }, () => random.pick(WORDS)).join(" ");

async function converse(origin: string, { conversations, turns, atOnce, name }: {
  conversations: number;
  turns: number;
  atOnce: number;
  name: string;
}): Promise<number> {
  const random = new Random(seed + conversations);
  const systems = [0, 1].map(() => ({ role: "system", content: text(random, 60) }));
  const all = Array.from({ length: conversations }, (_, i) => ({ messages: [systems[i % 2]], done: 0 }));
  let sent = 0;
  const client = async () => {
    for (let one; (one = all.find(({ done }) => done < turns)) !== undefined;) {
      all.splice(all.indexOf(one), 1);
      one.messages.push({ role: "user", content: text(random, 30 + random.below(60)) });
      const response = await fetch(`${origin}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-request-id": `${name}-${sent++}` },
        body: JSON.stringify({
          model: "tiny",
          messages: one.messages,
          max_tokens: 16 + random.below(16),
          temperature: 0,
        }),
      });
      const answer = await response.json();
      one.messages.push({ role: "assistant", content: answer.choices[0].message.content });
      one.done++;
      all.push(one);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, client));
  return sent;
}

Deno.test({
  name: "two real vLLM engines tell what they hold",
  ignore: folder === undefined,
  fn: async (t) => {
    const engines: RealEngine[] = await Promise.all(PORTS.map(start));
    const path = await Deno.makeTempFile();
    await using gateway = await startTestGateway(engines, {
      workers: 1,
      log: { level: "info", enabled: true, path },
      model_mapping_rule: { tiny: { rules: [{ backend: "vllm", cluster: "c" }] } },
      tokenizers: { tiny: { file: `${folder}/model/tokenizer.json` } },
      kv_events: { least_prompt_bytes: 0, wait_ms: 50, look_ms: 500, retry_ms: 200 },
    });
    const views = async () =>
      await gateway.endpoints() as unknown as {
        kv_events: { exact: boolean; why: string; lost: number; lag_ms: number };
      }[];
    const exact = () =>
      until(
        async () => (await views()).every(({ kv_events }) => kv_events?.exact),
        "both tell all that they hold",
        60_000,
      );
    const toldOf = async (name: string, count: number): Promise<Told[]> => {
      let told: Told[] = [];
      await until(async () => {
        const lines = (await Deno.readTextFile(path)).split("\n").slice(0, -1);
        told = lines.map((line) => JSON.parse(line)).filter(({ trace_id }) => trace_id?.startsWith(name));
        return told.length >= count;
      }, "the access log");
      return told;
    };
    const judge = async (name: string, count: number, least: number) => {
      const told = (await toldOf(name, count)).filter(({ outcome }) => outcome === "ok");
      const right = told.filter((one) => one.known_cached_tokens === (one.cached_tokens ?? 0));
      const sum = (key: "known_cached_tokens" | "cached_tokens" | "prompt_tokens") =>
        told.reduce((all, one) => all + (one[key] ?? 0), 0);
      console.log(
        `${name}: exact in ${right.length} of ${told.length}; tokens known ${sum("known_cached_tokens")}, found ${
          sum("cached_tokens")
        } of ${sum("prompt_tokens")}; ${JSON.stringify((await views()).map(({ kv_events }) => kv_events))}`,
      );
      const wrong = told.filter((one) => !right.includes(one));
      console.log(wrong.slice(0, 12).map((one) => `${one.known_cached_tokens}/${one.cached_tokens}`).join(" "));
      assert(right.length >= least * told.length, `${right.length} of ${told.length}`);
    };

    await exact();
    await until(async () => {
      await converse(gateway.origin, { conversations: 1, turns: 1, atOnce: 1, name: "first" });
      return (await toldOf("first", 1)).some(({ known_cached_tokens }) => known_cached_tokens !== null);
    }, "the tokenizer is there");

    await t.step("12 conversations of 6 turns, 3 at once", async () => {
      const sent = await converse(gateway.origin, { conversations: 12, turns: 6, atOnce: 3, name: "three" });
      await judge("three", sent, 0.98);
    });

    await t.step("30 at once, by late binding", async () => {
      const sent = await converse(gateway.origin, { conversations: 30, turns: 6, atOnce: 30, name: "thirty" });
      await judge("thirty", sent, 0.95);
    });

    await t.step("caches are reset, an engine is restarted: nothing is known that is not there", async () => {
      for (const { url } of engines) {
        await (await fetch(`${url}/reset_prefix_cache`, { method: "POST" })).body?.cancel();
      }
      await engines[1][Symbol.asyncDispose]();
      engines[1] = await start(PORTS[1]);
      await exact();
      await sleep(1_000);
      const sent = await converse(gateway.origin, { conversations: 12, turns: 6, atOnce: 3, name: "again" });
      await judge("again", sent, 0.95);
    });

    for (const engine of engines) await engine[Symbol.asyncDispose]();
    await Deno.remove(path);
  },
});
