// SPDX-License-Identifier: Apache-2.0
// Engines that tell what their caches hold: what the gateway knew before it sent a request against what its engine found.

import { assert, assertEquals } from "@std/assert";
import { encode } from "@msgpack/msgpack";
import type { MockEngine, MockEngineOptions } from "../../src/mock/server.ts";
import { PromptTokenizer } from "../../src/tokens/prompt_tokenizer.ts";
import { SegmentCache } from "../../src/tokens/segment_cache.ts";
import { ZmtpConnection } from "../../src/zmtp/connection.ts";
import { post, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { freePort } from "../support/machine.ts";
import { Random, seed } from "../support/seed.ts";
import { tinyTokenizer, tinyTokenizerFile } from "../support/tiny_tokenizer.ts";
import { until } from "../support/until.ts";

interface Told {
  endpoint: string;
  known_cached_tokens: number | null;
  cached_tokens: number | null;
  prompt_tokens: number | null;
}

const file = await tinyTokenizerFile();

async function startExact(engines: MockEngine[], changes: Record<string, unknown> = {}) {
  const path = await Deno.makeTempFile();
  const gateway = await startTestGateway(engines, {
    workers: 1,
    log: { level: "error", enabled: true, path },
    tokenizers: { m: { file } },
    // A busy machine may take its time; on its own the product does not wait for so long.
    kv_events: { least_prompt_bytes: 0, wait_ms: 1_000, look_ms: 100, retry_ms: 50 },
    ...changes,
  });
  const exact = async () => {
    const views = await gateway.endpoints() as unknown as { kv_events: { exact: boolean; why: string } | null }[];
    return views.map(({ kv_events }) => kv_events);
  };
  await until(async () => (await exact()).every((view) => view?.exact), "every engine tells all that it holds");
  // The gateway has heard all that the engines have told.
  const heard = () =>
    until(async () => {
      const views = await gateway.endpoints() as unknown as { port: number; kv_events: { batches: number } }[];
      return engines.every(({ address: { port }, kvBatches }) =>
        views.find((view) => view.port === port)!.kv_events.batches === kvBatches
      );
    }, "all events are heard");
  let read = 0;
  /** Records that were written since the last look, at least `count`. */
  const told = async (count: number): Promise<Told[]> => {
    let lines: string[] = [];
    await until(async () => {
      lines = (await Deno.readTextFile(path)).split("\n").slice(read, -1);
      return lines.length >= count;
    }, "the access log");
    read += lines.length;
    return lines.map((line) => JSON.parse(line));
  };
  await until(async () => {
    await converse(gateway, { conversations: 1, turns: 1, atOnce: 1, words: 1 });
    return (await told(1)).every(({ known_cached_tokens }) => known_cached_tokens !== null);
  }, "the tokenizer is there");
  return {
    gateway,
    exact,
    heard,
    told,
    async [Symbol.asyncDispose]() {
      await gateway[Symbol.asyncDispose]();
      await Deno.remove(path);
    },
  };
}

const exactEngines = (count: number, options: Partial<MockEngineOptions> = {}) =>
  startEngines(count, { speed: 50, kvEvents: { files: tinyTokenizer() }, ...options });

const text = (random: Random, words: number) =>
  Array.from({ length: words }, () => random.next().toString(36).slice(2, 8)).join(" ");

/** Conversations, so many at once; each turn brings its own before. */
async function converse(gateway: TestGateway, { conversations, turns, atOnce, words = 40, after }: {
  conversations: number;
  turns: number;
  atOnce: number;
  words?: number;
  /** What is waited for after each answer. */
  after?: () => Promise<void>;
}): Promise<number> {
  const random = new Random(seed);
  const system = { role: "system", content: text(random, 60) };
  const all = Array.from({ length: conversations }, () => ({ messages: [system], turns: 0 }));
  let sent = 0;
  const client = async () => {
    for (let one; (one = all.find(({ turns: done }) => done < turns)) !== undefined;) {
      all.splice(all.indexOf(one), 1);
      one.messages.push({ role: "user", content: text(random, words) });
      const body = JSON.stringify({ model: "m", messages: one.messages, max_tokens: 4 });
      const answer = await (await post(gateway.origin, body)).json();
      one.messages.push({ role: "assistant", content: answer.choices[0].message.content });
      one.turns++;
      await after?.();
      sent++;
      all.push(one);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, client));
  return sent;
}

const wrong = (told: Told[]) =>
  told.filter(({ known_cached_tokens, cached_tokens }) => known_cached_tokens !== cached_tokens);

Deno.test("one at a time: what is known to be cached is what the engine finds, to the token, whatever it gives up", async () => {
  await using engines = exactEngines(2, { profile: { kvBlocks: 400 } });
  await using exact = await startExact(engines);
  const sent = await converse(exact.gateway, { conversations: 12, turns: 6, atOnce: 1, after: exact.heard });
  const told = await exact.told(sent);
  assertEquals(wrong(told), []);
  const found = told.reduce((sum, { cached_tokens }) => sum + cached_tokens!, 0);
  assert(found > 10_000, `${found} tokens found`);
  // Something was given up.
  assert(engines.some(({ model }) => model.cache.queries > model.cache.hits + 400));

  // An empty cache is known to be empty.
  for (const { address } of engines) {
    const reset = await fetch(`http://127.0.0.1:${address.port}/reset_prefix_cache`, { method: "POST" });
    await reset.body?.cancel();
  }
  await until(async () => {
    const views = await exact.gateway.endpoints() as unknown as { kv_events: { blocks: number } }[];
    return views.every(({ kv_events }) => kv_events.blocks === 0);
  }, "no block is held");
  const again = await converse(exact.gateway, { conversations: 2, turns: 2, atOnce: 1, after: exact.heard });
  assertEquals(wrong(await exact.told(again)), []);
});

Deno.test("events that are lost on the way are asked for; those that come late are presumed meanwhile", async () => {
  const random = new Random(seed);
  await using engines = exactEngines(2, { kvEvents: { files: tinyTokenizer(), lose: () => random.chance(0.2) } });
  await using exact = await startExact(engines);
  await converse(exact.gateway, { conversations: 6, turns: 5, atOnce: 3 });
  const views = (await exact.exact()) as unknown as { exact: boolean; lost: number; batches: number }[];
  assert(views.every(({ exact, lost, batches }) => exact && lost === 0 && batches > 0), JSON.stringify(views));
});

Deno.test("engines that tell nothing, a model without a tokenizer, a file that is none: as before", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using gateway = await startTestGateway(engines, {
    tokenizers: { m: { file: "/nowhere/tokenizer.json" } },
    kv_events: { least_prompt_bytes: 0, look_ms: 100 },
  });
  assertEquals(await converse(gateway, { conversations: 2, turns: 2, atOnce: 2 }), 4);
  const [view] = await gateway.endpoints() as unknown as { kv_events: { exact: boolean; why: string } }[];
  assertEquals([view.kv_events.exact, view.kv_events.why], [false, "it does not say where it publishes"]);
  await using plain = await startTestGateway(engines);
  assertEquals(await converse(plain, { conversations: 1, turns: 1, atOnce: 1 }), 1);
  const [other] = await plain.endpoints() as unknown as { kv_events: null }[];
  assertEquals(other.kv_events, null);
});

Deno.test("without a tokenizer, a cache that is cleared is presumed empty", async () => {
  await using engines = exactEngines(1);
  const { hostname, port } = engines[0].address;
  const { endpoint } = (await (await fetch(`http://127.0.0.1:${port}/kv_event_sources`)).json())["0"];
  await using gateway = await startTestGateway([], {
    kv_events: { retry_ms: 50 },
    clusters: [{ name: "c", kv_events: { endpoint }, endpoints: [{ address: hostname, port }] }],
  });
  const view = async () =>
    (await gateway.endpoints() as unknown as { kv_events: { why: string; batches: number } | null }[])[0];
  await until(
    async () => (await view()).kv_events?.why === "there is no tokenizer of a model of its cluster",
    "it is listened to",
  );
  const body = JSON.stringify({
    model: "m",
    messages: [{ role: "user", content: "a word or two ".repeat(300) }],
    max_tokens: 1,
  });
  const presumed = async () => {
    const explained = await (await fetch(`${gateway.admin}/explain`, { method: "POST", body })).json();
    return explained.candidates[0].cached_bytes as number;
  };
  await (await post(gateway.origin, body)).text();
  await until(async () => await presumed() > 4_000, "it is presumed to hold what it was sent");
  await gateway.settled();
  const reset = await fetch(`http://127.0.0.1:${port}/reset_prefix_cache`, { method: "POST" });
  await reset.body?.cancel();
  await until(async () => await presumed() === 0, "and not what it has cleared");
});

Deno.test("engines that have other tokens than the tokenizer named here are presumed, and it is said", async () => {
  const files = tinyTokenizer();
  const other = { ...files, config: { ...files.config, chat_template: "{{ messages[0].content }}" } };
  await using engines = exactEngines(1, { kvEvents: { files: other } });
  await using gateway = await startTestGateway(engines, {
    tokenizers: { m: { file } },
    kv_events: { look_ms: 100, retry_ms: 50 },
  });
  await until(async () => {
    const [{ kv_events }] = await gateway.endpoints() as unknown as {
      kv_events: { exact: boolean; why: string } | null;
    }[];
    assert(!kv_events?.exact);
    return /^it has other tokens of m than the tokenizer named here: \d+ tokens there, \d+ here$/.test(
      kv_events?.why ?? "",
    );
  }, "the difference is told");
});

Deno.test("engines that connect out are known by their topics; strangers are let go", async () => {
  const [port, own] = [freePort(), tinyTokenizer()];
  await using engines = exactEngines(1, { kvEvents: { files: own, untold: true } });
  const { port: enginePort } = engines[0].address;
  await using gateway = await startTestGateway(engines, {
    workers: 1,
    tokenizers: { m: { file } },
    kv_events: { listen: `127.0.0.1:${port}`, look_ms: 100, retry_ms: 50, connect_ms: 300 },
  });
  const view = async () =>
    (await gateway.endpoints() as unknown as {
      kv_events: { exact: boolean; blocks: number; batches: number } | null;
    }[])[0].kv_events;
  const connect = async () => {
    let stream: Deno.TcpConn | undefined;
    await until(async () => {
      stream = await Deno.connect({ hostname: "127.0.0.1", port }).catch(() => undefined);
      return stream !== undefined;
    }, "the port is open");
    return await ZmtpConnection.open(stream!, "PUB", 65_536);
  };
  const batch = (sequence: number, events: unknown[]) => {
    const number = new Uint8Array(8);
    number[7] = sequence;
    return [number, encode([Date.now() / 1_000, events, 0], { useBigInt64: true })];
  };
  const topic = new TextEncoder().encode(`kv@127.0.0.1:${enginePort}@m`);
  const tokens = [
    ...new PromptTokenizer(own, new SegmentCache(0)).tokensOf({
      messages: [{ role: "user", content: "x".repeat(99) }],
    })!,
  ];
  const stored = {
    type: "BlockStored",
    block_hashes: [1n],
    parent_block_hash: null,
    token_ids: tokens.slice(0, 16),
    block_size: 16,
  };
  {
    using engine = await connect();
    await engine.receive(); // its subscription
    await engine.send([topic, ...batch(0, [stored])]);
    await until(async () => (await view())?.blocks === 1 && (await view())!.exact, "what it tells is known");
    await engine.send([topic, ...batch(1, [{ type: "BlockRemoved", block_hashes: [1n] }])]);
    await until(async () => (await view())?.blocks === 0, "and what it drops");
  }
  await until(async () => !(await view())!.exact, "its connection ended");
  using stranger = await connect();
  await stranger.receive();
  await stranger.send([new TextEncoder().encode("kv@10.9.9.9:1@m"), ...batch(0, [stored])]);
  assertEquals(await stranger.receive().catch(() => undefined), undefined, "nobody knows it");
  const silent = await Deno.connect({ hostname: "127.0.0.1", port });
  const bytes = new Uint8Array(128);
  let read: number | null = 0;
  while (read !== null) read = await silent.read(bytes).catch(() => null);
  silent.close();
});

Deno.test("two endpoints that publish at one address are both presumed", async () => {
  await using engines = exactEngines(2);
  const sources = await (await fetch(`http://127.0.0.1:${engines[0].address.port}/kv_event_sources`)).json();
  const { endpoint, replay_endpoint } = sources["0"];
  await using gateway = await startTestGateway([], {
    tokenizers: { m: { file } },
    kv_events: { look_ms: 100, retry_ms: 50 },
    clusters: [{
      name: "c",
      kv_events: { endpoint, replay_endpoint },
      endpoints: engines.map(({ address: { hostname, port } }) => ({ address: hostname, port })),
    }],
  });
  await until(async () => {
    const views = await gateway.endpoints() as unknown as { kv_events: { why: string } | null }[];
    return views.every(({ kv_events }) => kv_events?.why === "another endpoint publishes at the same address");
  }, "both say so");
});
