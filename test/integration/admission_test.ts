// SPDX-License-Identifier: Apache-2.0
// Who gets in, through a whole gateway: keys, headers, limits, priorities, and why one is refused.

import { assert, assertEquals } from "@std/assert";
import OpenAI from "openai";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { withinOneMinute } from "../support/minute.ts";
import { tenantRowsOf } from "../support/snapshot.ts";

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const GOLD = "sk-gold-secret-0123456789";
const BATCH = "sk-batch-secret-9876543210";

async function tenants(gold: Record<string, unknown> = {}) {
  return [
    { name: "gold", keys_sha256: [await sha256(GOLD)], priority: "critical", weight: 4, models: ["m"], ...gold },
    { name: "night", keys_sha256: [(await sha256(BATCH)).toUpperCase()], priority: "batch" },
  ];
}

const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
/** The status of an answer whose body nobody needs. */
const statusOf = async (response: Promise<Response>) => {
  const { status, body } = await response;
  await body?.cancel();
  return status;
};
const reason = async (response: Response) => [response.status, (await response.json()).error.code];

Deno.test("keys: the right one gets in, any other and none do not, wherever it stands; engines and outputs never see one", async () => {
  const seen: string[] = [];
  const engine = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    seen.push(`${request.method} ${request.url}\n${[...request.headers].join("\n")}\n${await request.text()}`);
    return Response.json({
      id: "x",
      object: "chat.completion",
      model: "m",
      choices: [],
      usage: { prompt_tokens: 3, completion_tokens: 1 },
    });
  });
  const log = await Deno.makeTempFile();
  let pages: string[];
  {
    const address = { hostname: "127.0.0.1", port: engine.addr.port };
    await using gateway = await startTestGateway([{ address }], {
      tenants: await tenants(),
      log: { level: "error", enabled: true, path: log },
      probes: { enabled: false },
    });
    const ask = (init: RequestInit = {}, path = "/v1/chat/completions") =>
      fetch(`${gateway.origin}${path}`, { method: "POST", body: chat("Hello"), ...init });

    assertEquals(await statusOf(ask(bearer(GOLD))), 200);
    assertEquals(await statusOf(ask({ headers: { "x-api-key": GOLD } })), 200);
    assertEquals(await statusOf(ask({ headers: { authorization: `bearer  ${GOLD} ` } })), 200);
    const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: GOLD, maxRetries: 0 });
    await client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "Hello" }] });
    const wrong = [
      ask(),
      ask(bearer("")),
      ask(bearer(`${GOLD}x`)),
      ask(bearer(GOLD.slice(0, -1))),
      ask(bearer(await sha256(GOLD))),
      ask({ headers: { authorization: `Basic ${btoa(GOLD)}` } }),
      ask({ headers: { authorization: GOLD } }),
      ask({ headers: { "x-api-key": "\u00e9\u00ff" } }),
      ask({}, `/v1/chat/completions?api_key=${GOLD}`),
      ask({}, `/v1/chat/completions?key=${GOLD}&authorization=Bearer%20${GOLD}`),
      ask({ headers: { "x-aigw-tenant": "gold" } }),
    ];
    for (const response of wrong) assertEquals(await reason(await response), [401, "unauthorized"]);
    for (const path of ["/v1/models", "/v1/models/m"]) {
      assertEquals(await reason(await fetch(`${gateway.origin}${path}`)), [401, "unauthorized"]);
      assertEquals(await statusOf(fetch(`${gateway.origin}${path}`, bearer(GOLD))), 200);
    }
    assertEquals(await reason(await fetch(`${gateway.origin}/v1/responses/resp_1`)), [401, "unauthorized"]);
    assertEquals(await statusOf(fetch(`${gateway.origin}/health`)), 200);
    await assertUnauthorized(client, gateway.origin);

    pages = await Promise.all(
      ["/metrics", "/endpoints", "/workers"].map(async (path) => await (await fetch(gateway.admin + path)).text()),
    );
    assert(
      pages[0].includes('aigw_tenant_requests_total{tenant="gold"} 4'),
      pages[0].match(/aigw_tenant.*/g)?.join("\n"),
    );
  }
  // The gateway has ended: every line of its log is there.
  const lines = await Deno.readTextFile(log);
  assert(lines.includes('"tenant":"gold"') && lines.includes('"outcome":"unauthorized"'));
  for (const text of [...seen, ...pages, lines]) {
    assert(!text.includes("secret"), `a key got out: ${text.slice(0, 300)}`);
  }
  assertEquals(seen.length, 4, "nobody else got to the engine");
  await Deno.remove(log);
  await engine.shutdown();
});

async function assertUnauthorized(client: OpenAI, origin: string) {
  const stranger = new OpenAI({ baseURL: `${origin}/v1`, apiKey: "sk-wrong", maxRetries: 0 });
  const error = await stranger.models.list().catch((error) => error);
  assert(error instanceof OpenAI.AuthenticationError, String(error));
  assertEquals((await client.models.list()).data.map(({ id }) => id), ["m"]);
}

Deno.test("headers: a tenant is believed only where that is configured, a priority never above its tenant's", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using closed = await startTestGateway(engines, { tenants: await tenants() });
  const ask = (gateway: { origin: string }, headers: Record<string, string>) =>
    post(gateway.origin, chat("x", { max_tokens: 1 }), { headers });
  const keys = { authorization: `Bearer ${BATCH}` };
  await (await ask(closed, { ...keys, "x-aigw-tenant": "gold", "x-llm-d-inference-fairness-id": "gold" })).text();
  assertEquals(await closed.metric('aigw_tenant_requests_total{tenant="gold"}'), 0);
  assertEquals(await closed.metric('aigw_tenant_requests_total{tenant="night"}'), 1);
  for (const priority of ["urgent", "1001", "-1001", "1e3", "critical ,batch", "__proto__", "constructor"]) {
    assertEquals(await reason(await ask(closed, { ...keys, "x-aigw-priority": priority })), [400, "invalid_request"]);
  }
  for (const priority of ["critical", "standard", "batch", "-5", "1000"]) {
    const response = await ask(closed, { ...keys, "x-aigw-priority": priority });
    assertEquals(response.status, 200);
    await response.text();
  }

  await using open = await startTestGateway(engines, {
    tenants: [{ name: "gold", priority: "critical" }],
    tenancy: { trust_headers: true, objectives: { chatty: 50 } },
  });
  const both: Record<string, string>[] = [
    { "x-aigw-tenant": "gold" },
    { "x-llm-d-inference-fairness-id": "gold", "x-llm-d-inference-objective": "chatty" },
  ];
  for (const headers of both) {
    await (await ask(open, headers)).text();
  }
  assertEquals(await open.metric('aigw_tenant_requests_total{tenant="gold"}'), 2);
});

Deno.test("models: a tenant uses those that it may", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using gateway = await startTestGateway(engines, {
    model_mapping_rule: {
      m: { rules: [{ backend: "vllm", cluster: "c" }] },
      other: { rules: [{ backend: "vllm", cluster: "c" }] },
    },
    tenants: await tenants(),
  });
  const other = JSON.stringify({ model: "other", messages: [{ role: "user", content: "x" }] });
  assertEquals(await reason(await post(gateway.origin, other, bearer(GOLD))), [403, "model_not_allowed"]);
  assert(await statusOf(post(gateway.origin, other, bearer(BATCH))) !== 403);
});

Deno.test("100,000 tenant names from outside take no memory: they share the rows that there are", async () => {
  const { Tenants } = await import("../../src/admission/tenants.ts");
  const { parseConfig } = await import("../../src/config/load.ts");
  const none = { authorization: undefined, apiKey: undefined, priority: undefined };
  const trusting = new Tenants(parseConfig({ limits: { tenants: 16 }, tenancy: { trust_headers: true } }), new Map());
  const wary = new Tenants(parseConfig({ limits: { tenants: 16 } }), new Map());
  const rows = new Set<number>();
  for (let i = 0; i < 100_000; i++) {
    const tenant = trusting.identify({ ...none, tenant: `tenant-${i}-${"x".repeat(i % 100)}` });
    rows.add(tenant.row);
    assertEquals(tenant.name, "other");
    assertEquals(wary.identify({ ...none, tenant: `tenant-${i}` }).row, 0);
  }
  assertEquals([...rows].sort((a, b) => a - b), [12, 13, 14, 15], "a quarter of limits.tenants");
});

Deno.test("the comparison of keys takes as long for a key that is nearly right as for any other", async () => {
  const { Tenants } = await import("../../src/admission/tenants.ts");
  const { parseConfig } = await import("../../src/config/load.ts");
  const keys = await Promise.all(Array.from({ length: 64 }, (_, i) => sha256(`key-${i}`)));
  const config = parseConfig({
    tenants: keys.map((key, i) => ({ name: `t${i}`, keys_sha256: [key] })),
    limits: { tenants: 128 },
  });
  const tenants = new Tenants(config, tenantRowsOf(config));
  const none = { authorization: undefined, priority: undefined, tenant: undefined };
  // Every digest is looked at whichever key it is: the first, the last, and none find the right one.
  assertEquals(tenants.identify({ ...none, apiKey: "key-0" }).name, "t0");
  assertEquals(tenants.identify({ ...none, apiKey: "key-63" }).name, "t63");
  const time = (key: string) => {
    const began = performance.now();
    for (let i = 0; i < 3_000; i++) {
      try {
        tenants.identify({ ...none, apiKey: key });
      } catch {
        // not known
      }
    }
    return performance.now() - began;
  };
  time("key-0");
  const [first, last] = [time("key-0"), time("key-63")];
  console.log(`3,000 comparisons: first key ${first.toFixed(1)} ms, last of 64 ${last.toFixed(1)} ms`);
});

Deno.test("limits: requests, tokens and concurrency, with what is left in the answer and when to come back", () =>
  withinOneMinute(async () => {
    await using engines = startEngines(1, { speed: 20 });
    await using gateway = await startTestGateway(engines, {
      tenants: await tenants({
        limits: { requests_per_minute: 5, input_tokens_per_minute: 100_000, output_tokens_per_minute: 1_000 },
      }),
    });
    const ask = (tokens: number) => post(gateway.origin, chat("x", { max_tokens: tokens }), bearer(GOLD));
    const first = await ask(10);
    assertEquals(first.status, 200);
    await first.text();
    assertEquals(first.headers.get("x-ratelimit-limit-requests"), "5");
    assertEquals(first.headers.get("x-ratelimit-remaining-requests"), "4");
    assertEquals(first.headers.get("x-ratelimit-limit-output-tokens"), "1000");
    assert(/^(\d+ms|\d+s|\d+m\d+s)$/.test(first.headers.get("x-ratelimit-reset-requests")!));
    const large = await ask(2_000);
    assert(Number(large.headers.get("retry-after")) >= 1);
    assertEquals(await reason(large), [429, "rate_limited"]);
    // The refused one took nothing of the other limits.
    for (let i = 0; i < 4; i++) {
      const next = await ask(5);
      assertEquals([next.status, next.headers.get("x-ratelimit-remaining-requests")], [200, String(3 - i)]);
      await next.text();
    }
    const sixth = await ask(1);
    assert(Number(sixth.headers.get("retry-after")) >= 1 && Number(sixth.headers.get("retry-after")) <= 120);
    assertEquals(sixth.headers.get("x-aigw-reason"), "rate_limited");
    await sixth.text();
    assertEquals(await statusOf(post(gateway.origin, chat("x", { max_tokens: 1 }), bearer(BATCH))), 200);
  }));

Deno.test("limits: 200 requests of one tenant at once overshoot its tokens by at most 2 %", () =>
  withinOneMinute(async () => {
    await using engines = startEngines(4, { speed: 20 });
    const limit = 3_000;
    await using gateway = await startTestGateway(engines, {
      tenants: await tenants({ limits: { output_tokens_per_minute: limit, concurrency: 150 } }),
    });
    const answers = await Promise.all(Array.from({ length: 200 }, async (_, i) => {
      const response = await post(gateway.origin, chat(`${i}`, { max_tokens: 40, stream: i % 2 === 0 }), bearer(GOLD));
      const text = await response.text();
      const code = response.headers.get("x-aigw-reason") ?? "";
      return { status: response.status, code, text };
    }));
    const used = await gateway.metric('aigw_tenant_completion_tokens_total{tenant="gold"}');
    const got = answers.filter(({ status }) => status === 200).length;
    console.log(`200 at once: ${got} answered, ${used} tokens of ${limit}`);
    assert(used <= 1.02 * limit && used >= 0.9 * limit, `${used} tokens`);
    for (const { status, code } of answers) {
      assert(
        status === 200 || (status === 429 && ["rate_limited", "tenant_concurrency"].includes(code)),
        `${status} ${code}`,
      );
    }
    assertEquals(await gateway.metric('aigw_tenant_concurrency{tenant="gold"}'), 0);
    await gateway.settled();
  }));

Deno.test("limits: what was reserved and not used is given back; concurrency ends with each request, however it ends", () =>
  withinOneMinute(async () => {
    await using engines = startEngines(1, { speed: 20 });
    const [engine] = engines;
    await using gateway = await startTestGateway(engines, {
      tenants: await tenants({ limits: { output_tokens_per_minute: 100, concurrency: 1 } }),
    });
    const left = async (body: string, headers: Record<string, string> = {}) => {
      const response = await post(gateway.origin, body, { headers: { ...bearer(GOLD).headers, ...headers } });
      await response.text();
      return [response.status, response.headers.get("x-ratelimit-remaining-output-tokens")];
    };
    // An engine's own refusal costs nothing.
    for (let i = 0; i < 5; i++) {
      const [status] = await left(chat("x", { max_tokens: 90 }), { "x-mock-fault": '{"kind":"status","status":400}' });
      assertEquals(status, 400);
    }
    assertEquals((await left(chat("x", { max_tokens: 3 })))[0], 200);
    assertEquals((await left(chat("x", { max_tokens: 7 })))[0], 200);
    const [status, remaining] = await left(chat("x", { max_tokens: 1 }));
    assertEquals(status, 200);
    assert(Number(remaining) >= 88 && Number(remaining) <= 90, `${remaining} left`);
    // A client that leaves a stream: its engine takes most of a second for a token, and is held after the first.
    engine.setSpeed(0.01);
    const controller = new AbortController();
    const stream = await post(gateway.origin, chat("x", { max_tokens: 80, stream: true }), {
      ...bearer(GOLD),
      signal: controller.signal,
    });
    await stream.body!.getReader().read();
    engine.pause();
    const second = await post(gateway.origin, chat("x", { max_tokens: 1 }), bearer(GOLD));
    assertEquals(await reason(second), [429, "tenant_concurrency"]);
    controller.abort();
    await gateway.settled();
    engine.setSpeed(20);
    engine.resume();
    assertEquals(await gateway.metric('aigw_tenant_concurrency{tenant="gold"}'), 0);
    const after = await left(chat("x", { max_tokens: 1 }));
    assertEquals(after[0], 200);
    assert(Number(after[1]) > 40, `${after[1]} left: what the client did not take is given back`);
  }));
