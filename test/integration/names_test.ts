// SPDX-License-Identifier: Apache-2.0
// An endpoint, a model and a tenant have one name each, wherever they are written.

import { assert, assertEquals } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { CHANGE, chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { sha256 } from "../support/sha256.ts";
import { until } from "../support/until.ts";

Deno.test("names are the same in headers, log, metrics, explain and admin", async () => {
  await using engines = startEngines(1, { speed: 50, address: { hostname: "::1", port: 0 } });
  const path = await Deno.makeTempFile();
  const name = formatAddress({ hostname: "::1", port: engines[0].address.port });
  await using gateway = await startTestGateway([{ address: { ...engines[0].address, hostname: "::1" } }], {
    log: { level: "error", enabled: true, path },
    tenants: [{ name: "team-a", keys_sha256: [await sha256("key")] }],
    model_mapping_rule: { "org/M 8B": { rules: [{ backend: "vllm", cluster: "c" }] } },
  });
  const body = chat("hi", { model: "org/M 8B", max_tokens: 1 });
  const answer = await post(gateway.origin, body, { headers: { authorization: "Bearer key" } });
  await answer.text();
  assertEquals([answer.status, answer.headers.get("x-aigw-endpoint")], [200, name]);

  await gateway.settled();
  const admin = async (path: string, init?: RequestInit) => await (await fetch(`${gateway.admin}${path}`, init)).json();
  const explained = await admin("/explain", { method: "POST", body });
  assertEquals([explained.model, explained.chosen, explained.candidates[0].endpoint], ["org/M 8B", name, name]);
  assertEquals((await admin("/endpoints")).endpoints[0].endpoint, name);
  assertEquals((await admin(`/endpoints/${name}/drain`, CHANGE)).endpoint, name);

  const metrics = await (await fetch(`${gateway.admin}/metrics`)).text();
  const labels = (label: string) =>
    new Set([...metrics.matchAll(new RegExp(`[{,]${label}="([^"]*)"`, "g"))].map(([, value]) => value));
  assertEquals(labels("endpoint"), new Set([name]));
  assert(labels("model").has("org/M 8B") && labels("tenant").has("team-a"));

  await until(() => Deno.readTextFileSync(path).includes("\n"), "the request is logged");
  const { endpoint, ai_model_name, tenant } = JSON.parse(Deno.readTextFileSync(path));
  assertEquals([endpoint, ai_model_name, tenant], [name, "org/M 8B", "team-a"]);
  Deno.removeSync(path);
});

Deno.test("a request without a model goes to the only one that engines list, and is named after it", async () => {
  await using engines = startEngines(1, { speed: 50, models: ["m"] });
  const path = await Deno.makeTempFile();
  await using gateway = await startTestGateway(engines, { log: { level: "error", enabled: true, path } });
  const body = JSON.stringify({ messages: [{ role: "user", content: "hi" }] });
  await until(async () => {
    const answer = await post(gateway.origin, body);
    await answer.text();
    return answer.status === 200;
  }, "the engine has listed its model");
  await until(() => Deno.readTextFileSync(path).includes('"ok"'), "the request is logged");
  const last = JSON.parse(Deno.readTextFileSync(path).trim().split("\n").at(-1)!);
  assertEquals(last.ai_model_name, "m");
  Deno.removeSync(path);
});
