// SPDX-License-Identifier: Apache-2.0
// A real Envoy asks the gateway: the official SDK through it, streams, refusals, conversations that stay on their engine, an
// engine that is killed, a picker that is gone, and what an exchange costs beside the gateway's own front.

import { assert, assertEquals, assertRejects } from "@std/assert";
import OpenAI from "openai";
import { formatAddress } from "../../src/base/address.ts";
import { chat, post, startEngineProcess, startEngines, startTestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";
import { type EnvoySettings, noEnvoy, PROGRAM, startEnvoy } from "./envoy_process.ts";

if (noEnvoy) console.log(noEnvoy);
const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, ignore: noEnvoy !== undefined, fn });

type Gateway = Awaited<ReturnType<typeof startTestGateway>>;

const pickerOf = ({ gateway }: Gateway) => formatAddress(gateway.extProc!);

const startPicker = (endpoints: Parameters<typeof startTestGateway>[0], changes: Record<string, unknown> = {}) =>
  startTestGateway(endpoints, { workers: 1, ext_proc: { listen: "127.0.0.1:0" }, ...changes });

const MODES: [string, Pick<EnvoySettings, "duplex">][] = [["duplex", { duplex: true }], ["buffered", {
  duplex: false,
}]];

for (const [name, mode] of MODES) {
  test(`Envoy (${name}): the official SDK gets answers, streams, lists and errors as without Envoy`, async () => {
    await using engines = startEngines(2);
    await using gateway = await startPicker(engines, { limits: { body_bytes: 40_000 } });
    await using envoy = await startEnvoy({ ...mode, picker: pickerOf(gateway) });
    const client = new OpenAI({ baseURL: `${envoy.origin}/v1`, apiKey: "none", maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "Hello" }];
    const whole = await client.chat.completions.create({ model: "m", messages });
    assert(whole.choices[0].message.content);
    const stream = await client.chat.completions.create({ model: "m", messages, stream: true, max_tokens: 5 });
    const chunks = await Array.fromAsync(stream);
    assertEquals(chunks.at(-1)!.choices[0].finish_reason, "length");
    assert(chunks.every(({ usage }) => !usage));
    const asked = await client.chat.completions.create({
      model: "m",
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    assert((await Array.fromAsync(asked)).at(-1)!.usage!.prompt_tokens > 0);
    assertEquals((await Array.fromAsync(client.models.list())).map(({ id }) => id), ["m"]);
    await assertRejects(() => client.chat.completions.create({ model: "other", messages }), OpenAI.NotFoundError);
    const long = [{ role: "user" as const, content: "x".repeat(50_000) }];
    const tooLarge = await assertRejects(
      () => client.chat.completions.create({ model: "m", messages: long }),
      OpenAI.APIError,
    );
    assertEquals(tooLarge.status, 413);
    assertEquals((await client.embeddings.create({ model: "m", input: "some text" })).data.length, 1);
    await gateway.settled();
  });

  test(`Envoy (${name}): conversations stay on their engine, and engines share them`, async () => {
    await using engines = startEngines(4, { speed: 200 });
    await using gateway = await startPicker(engines);
    await using envoy = await startEnvoy({ ...mode, picker: pickerOf(gateway), messageTimeout: "30s" });
    const conversations = Array.from({ length: 12 }, (_, i) => ({
      messages: [{ role: "user", content: `conversation ${i} `.repeat(1_500) }],
      engine: "",
    }));
    let stayed = 0;
    for (let turn = 0; turn < 5; turn++) {
      for (const conversation of conversations) {
        const { messages } = conversation;
        const response = await post(envoy.origin, JSON.stringify({ model: "m", messages, max_tokens: 8 }));
        assertEquals(response.status, 200);
        const engine = response.headers.get("x-mock-engine")!;
        const { choices: [{ message }] } = await response.json();
        messages.push(message, { role: "user", content: `turn ${turn}` });
        if (engine === conversation.engine) stayed++;
        conversation.engine = engine;
      }
    }
    assertEquals(stayed, 4 * conversations.length);
    assert(new Set(conversations.map(({ engine }) => engine)).size > 1);
    await gateway.settled();
  });

  test(`Envoy (${name}): clients that leave take their load with them`, async () => {
    await using engines = startEngines(2);
    await using gateway = await startPicker(engines);
    await using envoy = await startEnvoy({ ...mode, picker: pickerOf(gateway), messageTimeout: "30s" });
    await Promise.all(Array.from({ length: 20 }, async (_, i) => {
      const abort = new AbortController();
      const response = await post(envoy.origin, chat(`${i}`, { stream: true, max_tokens: 2_000 }), {
        signal: abort.signal,
      });
      const reader = response.body!.getReader();
      await reader.read();
      abort.abort();
      await reader.cancel().catch(() => {});
    }));
    await gateway.settled();
  });

  test(`Envoy (${name}): 3,000 short exchanges, 64 at a time, and none is lost`, async () => {
    await using engines = startEngines(4, { instant: true });
    await using gateway = await startPicker(engines);
    await using envoy = await startEnvoy({ ...mode, picker: pickerOf(gateway), threads: 2, messageTimeout: "30s" });
    let left = 3_000;
    const statuses = new Map<number, number>();
    await Promise.all(Array.from({ length: 64 }, async () => {
      while (left-- > 0) {
        const response = await post(envoy.origin, chat(`${left % 50}`));
        await response.text();
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
      }
    }));
    assertEquals([...statuses], [[200, 3_000]]);
    await gateway.settled();
  });
}

test("Envoy: a request waits in the gateway for longer than Envoy's message timeout, where bodies are full duplex", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines, { queue: { room_tokens: 64, pack_tokens: 64 } });
  await using envoy = await startEnvoy({ duplex: true, picker: pickerOf(gateway), messageTimeout: "0.2s" });
  engines[0].pause();
  const asked = Array.from({ length: 3 }, (_, i) => post(envoy.origin, chat(`${i}`.repeat(4_000))));
  await until(async () => await gateway.metric("aigw_tenant_waiting_requests") === 2, "two wait");
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  engines[0].resume();
  for (const response of await Promise.all(asked)) {
    assertEquals(response.status, 200, await response.text());
  }
});

test("Envoy: what the gateway refuses for load tells when to come back", async () => {
  await using engines = startEngines(1);
  await using gateway = await startPicker(engines, {
    queue: { room_tokens: 64, pack_tokens: 64 },
    admission: { standard: { requests: 1 } },
  });
  await using envoy = await startEnvoy({ duplex: true, picker: pickerOf(gateway), messageTimeout: "30s" });
  engines[0].pause();
  const client = new OpenAI({ baseURL: `${envoy.origin}/v1`, apiKey: "none", maxRetries: 0 });
  const asked = Array.from(
    { length: 4 },
    (_, i) =>
      client.chat.completions.create({ model: "m", messages: [{ role: "user", content: `${i}`.repeat(4_000) }] }).then(
        () => 200,
        (error) => error,
      ),
  );
  const refused = await Promise.any(asked.map(async (one) => {
    const outcome = await one;
    if (outcome === 200) throw new Error("answered");
    return outcome;
  }));
  assert(refused instanceof OpenAI.RateLimitError, String(refused));
  assertEquals(refused.headers!.get("x-aigw-reason"), "queue_full");
  assert(Number(refused.headers!.get("retry-after")) >= 1);
  engines[0].resume();
  await Promise.all(asked);
});

test("Envoy: an engine that is killed costs no request that Envoy can bring elsewhere", async () => {
  const processes = await Promise.all([1, 2, 3].map(() => startEngineProcess(["--speed", "50", "--model", "m"])));
  await using gateway = await startPicker(processes, { ext_proc: { listen: "127.0.0.1:0", fallbacks: 2 } });
  const endpoints = processes.map(({ address }) => address);
  await using envoy = await startEnvoy({ duplex: true, picker: pickerOf(gateway), endpoints, messageTimeout: "30s" });
  const outcomes = new Map<string, number>();
  let over = false;
  const clients = Array.from({ length: 6 }, async (_, i) => {
    for (let k = 0; !over; k++) {
      const response = await post(envoy.origin, chat(`${i} ${k}`, { max_tokens: 2 }));
      const text = await response.text().catch(() => "broken off");
      const outcome = response.status === 200 && text.endsWith("}")
        ? "whole"
        : `${response.status} ${text.slice(0, 80)}`;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  });
  await until(() => (outcomes.get("whole") ?? 0) > 60, "all are at work");
  await processes[0].kill();
  const then = outcomes.get("whole")!;
  await until(() => outcomes.get("whole")! > then + 200, "the others go on");
  over = true;
  await Promise.all(clients);
  // What the engine had when it died is lost; what had not been sent is not.
  const lost = [...outcomes].filter(([outcome]) => outcome !== "whole");
  assert(lost.reduce((sum, [, count]) => sum + count, 0) <= 6, JSON.stringify(lost));
  await Promise.all(processes.slice(1).map((one) => one.kill()));
  await gateway.settled();
});

test("Envoy: without its picker it goes on by itself or refuses, as it is told to", async () => {
  await using engines = startEngines(2);
  const endpoints = engines.map(({ address }) => address);
  for (const failOpen of [true, false]) {
    const gateway = await startPicker(engines);
    await using envoy = await startEnvoy({ duplex: false, picker: pickerOf(gateway), endpoints, failOpen });
    const first = await post(envoy.origin, chat("with"));
    assertEquals([first.status, (await first.text()).length > 0], [200, true]);
    await gateway[Symbol.asyncDispose]();
    const response = await post(envoy.origin, chat("without"));
    await response.text();
    assertEquals(response.status, failOpen ? 200 : 500);
  }
});

test("Envoy takes the configuration that ships", async () => {
  const path = new URL("../../config/envoy/envoy.yaml", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(PROGRAM, { args: ["--mode", "validate", "-c", path] }).output();
  assert(success, new TextDecoder().decode(stderr));
});

async function cpuMs(pid: number): Promise<number> {
  const text = await Deno.readTextFile(`/proc/${pid}/stat`);
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

test("Envoy: what an exchange costs, beside the gateway's own front (figures)", async () => {
  const engine = await startEngineProcess(["--instant", "--model", "m"]);
  const { startAigw } = await import("../support/process.ts");
  const { freePort } = await import("../support/machine.ts");
  const [listen, picker, admin] = [freePort(), freePort(), freePort()];
  const path = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(
    path,
    JSON.stringify({
      listen: `127.0.0.1:${listen}`,
      workers: 1,
      ext_proc: { listen: `127.0.0.1:${picker}` },
      admin: { listen: `127.0.0.1:${admin}` },
      metadata_center: { enabled: false },
      log: { enabled: false },
      clusters: [{ name: "c", endpoints: [{ address: "127.0.0.1", port: engine.port }] }],
      model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
    }),
  );
  await using gateway = await startAigw(["serve", "--config", path]);
  await using duplex = await startEnvoy({ duplex: true, picker: `127.0.0.1:${picker}`, messageTimeout: "30s" });
  await using buffered = await startEnvoy({ duplex: false, picker: `127.0.0.1:${picker}`, messageTimeout: "30s" });
  const ways = [
    ["own front", `http://127.0.0.1:${listen}`, undefined],
    ["Envoy, full duplex", duplex.origin, duplex.pid],
    ["Envoy, buffered", buffered.origin, buffered.pid],
  ] as const;
  const costs = new Map<string, number[][]>();
  for (let round = 0; round < 4; round++) {
    for (const [what, origin, envoy] of ways) {
      const before = [await cpuMs(gateway.pid), envoy === undefined ? 0 : await cpuMs(envoy)];
      const began = performance.now();
      let left = 3_000;
      await Promise.all(Array.from({ length: 32 }, async () => {
        while (left-- > 0) await (await post(origin, chat(`${left % 50} ${"x".repeat(2_000)}`))).text();
      }));
      const after = [await cpuMs(gateway.pid), envoy === undefined ? 0 : await cpuMs(envoy)];
      // The first round is for warming up.
      const perSecond = 3_000_000 / (performance.now() - began);
      const each = [...after.map((ms, i) => (ms - before[i]) / 3), perSecond];
      if (round > 0) costs.set(what, [...costs.get(what) ?? [], each]);
    }
  }
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1];
  for (const [what, rounds] of costs) {
    const [ours, envoys, rate] = [0, 1, 2].map((i) => median(rounds.map((one) => one[i])));
    console.log(
      `${what}: ${ours.toFixed(0)} us of the gateway's processor time an exchange, ${envoys.toFixed(0)} of Envoy's, ` +
        `${rate.toFixed(0)} a second`,
    );
  }
  await engine.kill();
  await Deno.remove(path);
});
