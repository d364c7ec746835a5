// SPDX-License-Identifier: Apache-2.0
// Where requests go, where it does not depend on time: one at a time, or all in flight at once.

import { assert, assertEquals } from "@std/assert";
import { post, startTestGateway } from "../support/gateway.ts";
import { bytes, type RawServer, startRawServer, startTokenEngine } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { gate, until } from "../support/until.ts";

function words(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.below(2 ** 30).toString(36)).join(" ");
}

Deno.test("conversations stay where their cache is: every follow-up turn on an idle fleet", async () => {
  const random = new Random(seed);
  await using stack = new AsyncDisposableStack();
  const engines = [0, 1, 2, 3].map(() => stack.use(startTokenEngine()));
  await using gateway = await startTestGateway(engines, { probes: { enabled: false } });
  const conversations = Array.from({ length: 20 }, () => ({
    messages: [{ role: "user", content: words(random, 4_000) }],
    engine: "",
  }));
  const used = new Set<string>();
  let stayed = 0;
  for (let turn = 0; turn < 6; turn++) {
    for (const conversation of conversations) {
      const { messages } = conversation;
      const body = JSON.stringify({ model: "m", messages, stream: true, max_tokens: 4 });
      const response = await post(gateway.origin, body);
      const engine = response.headers.get("x-aigw-endpoint")!;
      assert((await response.text()).endsWith("data: [DONE]\n\n"));
      if (engine === conversation.engine) stayed++;
      conversation.engine = engine;
      used.add(engine);
      messages.push({ role: "assistant", content: words(random, 20) }, { role: "user", content: words(random, 20) });
    }
  }
  assertEquals(stayed, 5 * conversations.length);
  assert(used.size > 1, "and not because there is but one engine");
  await gateway.settled();
});

Deno.test("cold prompts at once spread evenly: max/mean at most 1.3", async () => {
  const random = new Random(seed);
  const rest = gate();
  const event = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n';
  const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
  // The first token comes at once, the end when all are there.
  const engine = (): RawServer =>
    startRawServer(() => ({
      writes: [bytes(`${head}${event.length.toString(16)}\r\n${event}\r\n`), bytes("0\r\n\r\n")],
      before: (write) => write === 1 ? rest.opened : undefined,
      then: "keep",
    }));
  await using stack = new AsyncDisposableStack();
  const engines = [0, 1, 2, 3].map(() => stack.use(engine()));
  await using gateway = await startTestGateway(engines, { probes: { enabled: false } });
  const answers = Array.from({ length: 200 }, async () => {
    const messages = [{ role: "user", content: words(random, 100) }];
    const response = await post(gateway.origin, JSON.stringify({ model: "m", messages, stream: true, max_tokens: 4 }));
    await response.text();
    return response.status;
  });
  let counts: number[] = [];
  await until(async () => {
    counts = (await gateway.endpoints()).map(({ in_flight }) => in_flight);
    return counts.reduce((sum, count) => sum + count, 0) === 200;
  }, () => `200 are in flight, not ${counts}`);
  const ratio = Math.max(...counts) / (200 / 4);
  console.log(`200 cold prompts: ${counts.join(" ")}, max/mean ${ratio.toFixed(2)}`);
  assert(ratio <= 1.3, `${counts}`);
  rest.open();
  assertEquals(new Set(await Promise.all(answers)), new Set([200]));
  await gateway.settled();
});
