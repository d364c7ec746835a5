// SPDX-License-Identifier: Apache-2.0
// A gateway that listens in several places: by the runtime's server, by the direct one, by another of the runtime's.

import { assert, assertEquals } from "@std/assert";
import OpenAI from "openai";
import { formatAddress } from "../../src/base/address.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";

Deno.test("further listeners: the official SDK, errors, a stream whose client leaves, connections counted", async () => {
  await using engines = startEngines(2, { speed: 20 });
  await using gateway = await startTestGateway(engines, {
    listeners: [{ address: "127.0.0.1:0" }, { address: "127.0.0.1:0", server: "serve" }],
  });
  const origins = gateway.gateway.listeners.map((address) => `http://${formatAddress(address)}`);
  assertEquals(new Set([gateway.served, ...origins]).size, 3);
  for (const origin of origins) {
    const client = new OpenAI({ baseURL: `${origin}/v1`, apiKey: "none", maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "hello" }];
    const whole = await client.chat.completions.create({ model: "m", messages, max_tokens: 3 });
    assertEquals(whole.usage!.completion_tokens, 3);
    let finished: string | null = null;
    for await (
      const chunk of await client.chat.completions.create({ model: "m", messages, max_tokens: 3, stream: true })
    ) {
      finished = chunk.choices[0]?.finish_reason ?? finished;
    }
    assertEquals(finished, "length");
    const wrong = await post(origin, "{");
    assertEquals([wrong.status, (await wrong.json()).error.code], [400, "invalid_json"]);
    const unknown = await post(origin, chat("x", { model: "nope" }));
    assertEquals([unknown.status, unknown.headers.get("x-aigw-reason")], [404, "model_not_found"]);
    await unknown.body!.cancel();
    const long = await post(origin, chat("x", { stream: true, max_tokens: 20_000 }));
    if (origin === origins[0]) {
      await until(async () => await gateway.metric("aigw_client_connections") > 0, "its connection is counted");
    }
    await long.body!.cancel();
    await gateway.settled();
  }
  assert(await gateway.metric("aigw_client_connections_refused_total") === 0);
});
