// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";

Deno.test("explain takes no turn of those that take turns", async () => {
  await using engines = startEngines(3, { instant: true });
  await using gateway = await startTestGateway(engines, {
    algorithm: "round_robin",
  });
  const body = chat("Hello", { model: "m" });
  const served: (string | null)[] = [];
  for (let i = 0; i < 6; i++) {
    const { chosen } = await (await fetch(`${gateway.admin}/explain`, { method: "POST", body })).json();
    const answer = await post(gateway.origin, body);
    await answer.text();
    served.push(answer.headers.get("x-aigw-endpoint"));
    assertEquals(chosen, served.at(-1));
  }
  assertEquals(new Set(served).size, 3);
  assertEquals(served.slice(3), served.slice(0, 3));
});

Deno.test("explain tells why: candidates, scores and the choice, and dispatches nothing", async () => {
  await using engines = startEngines(3, { speed: 5 });
  await using gateway = await startTestGateway(engines);
  const body = chat("long ".repeat(500));
  const first = await post(gateway.origin, body);
  await first.text();
  const explained = await (await fetch(`${gateway.admin}/explain`, { method: "POST", body })).json();
  assertEquals(explained.chosen, first.headers.get("x-mock-engine"));
  assertEquals(explained.candidates.length, 3);
  assertEquals(explained.candidates[0].cached_bytes, explained.prompt.bytes);
  assert(explained.candidates[0].score > explained.candidates[1].score);
  assert(
    explained.candidates.every(({ has_room, prefill_ms_per_kib }: { has_room: boolean; prefill_ms_per_kib: number }) =>
      has_room && prefill_ms_per_kib > 0
    ),
  );
  assertEquals([explained.would_wait, explained.candidates[0].prompt_bytes, explained.candidates[0].in_flight], [
    false,
    0,
    0,
  ]);
  // While one prompt is computed there, the next one would wait, or be computed elsewhere.
  for (const engine of engines) engine.pause();
  const long = post(gateway.origin, chat("word ".repeat(60_000), { stream: true, max_tokens: 1 }));
  let busy: { prompt_bytes: number; uncached_bytes: number; has_room: boolean } | undefined;
  await until(async () => {
    const { candidates } = await (await fetch(`${gateway.admin}/explain`, { method: "POST", body })).json();
    busy = candidates.find(({ prompt_bytes }: { prompt_bytes: number }) => prompt_bytes > 0);
    return busy !== undefined;
  }, "the long prompt is counted");
  assert(
    busy && busy.prompt_bytes >= 300_000 && busy.uncached_bytes >= 300_000 && !busy.has_room,
    JSON.stringify(busy),
  );
  for (const engine of engines) engine.resume();
  await (await long).text();
  assertEquals((await gateway.endpoints()).reduce((sum, { dispatched }) => sum + dispatched, 0), 2);
  const wrong = await fetch(`${gateway.admin}/explain`, { method: "POST", body: '{"model":"x","messages":[{}]}' });
  assertEquals([wrong.status, (await wrong.json()).error.code], [404, "model_not_found"]);
});

Deno.test("explain says how much of a prompt many share, which draws it nowhere", async () => {
  await using engines = startEngines(2, { instant: true });
  await using gateway = await startTestGateway(engines);
  const conversation = (own: string) => chat("rules ".repeat(400) + own.repeat(400));
  const shared = async () => {
    const body = conversation("mine ");
    const { prompt } = await (await fetch(`${gateway.admin}/explain`, { method: "POST", body })).json();
    return prompt.bytes_shared_by_many;
  };
  for (const own of ["one ", "two ", "three "]) {
    assertEquals(await shared(), 0, own);
    await (await post(gateway.origin, conversation(own))).text();
  }
  // The first began it, two more parted from it: as many as there are engines.
  const bytes = await shared();
  assert(bytes >= 1_536 && bytes <= 2_560, String(bytes));
});
