// SPDX-License-Identifier: Apache-2.0
// Who may call the admin and the metadata center, and what the data port says of itself.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { makeCertificate } from "../support/tls.ts";
import { until } from "../support/until.ts";

/** A request whose Host is what it says. */
async function raw(origin: string, method: string, path: string, fields: Record<string, string>): Promise<number> {
  const { hostname, port } = new URL(origin);
  using connection = await Deno.connect({ hostname, port: Number(port) });
  const lines = Object.entries({ host: "127.0.0.1", connection: "close", "content-length": "0", ...fields });
  const head = `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
  await connection.write(new TextEncoder().encode(head));
  const text = await new Response(connection.readable).text();
  return Number(text.slice(9, 12));
}

Deno.test("admin: no page may read it by another name, or change anything", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startTestGateway(engines);
  const { admin } = gateway;
  const statuses = async (fields: Record<string, string>) => [
    await raw(admin, "GET", "/endpoints", fields),
    await raw(admin, "POST", "/config/reload", fields),
    await raw(admin, "POST", "/endpoints/1.2.3.4:5/drain", fields),
  ];
  assertEquals(await statuses({}), [200, 403, 403]);
  assertEquals(await statuses({ "x-aigw-admin": "1" }), [200, 200, 404]);
  const form = { origin: "http://evil.example", "content-type": "application/x-www-form-urlencoded" };
  assertEquals(await statuses(form), [200, 403, 403]);
  assertEquals(await statuses({ host: "evil.example", "x-aigw-admin": "1" }), [403, 403, 403]);
  // Not even what only asks: prompts are read into memory.
  assertEquals(await raw(admin, "POST", "/explain", { "sec-fetch-site": "cross-site" }), 403);
  const large = { method: "PUT", body: " ".repeat(70_000), headers: { "x-aigw-admin": "1" } };
  const refused = await fetch(`${admin}/clusters/c/endpoints/1.2.3.4:5`, large);
  assertEquals([refused.status, (await refused.json()).error.code], [413, "body_too_large"]);
  // What only asks needs no such field.
  const explained = await fetch(`${admin}/explain`, { method: "POST", body: chat("Hello") });
  assertEquals([explained.status, (await explained.json()).candidates.length], [200, 1]);
  const head = await fetch(`${admin}/endpoints/`, { method: "HEAD" });
  assertEquals([head.status, await head.text()], [200, ""]);
});

Deno.test("admin: a token and TLS, where they are configured", async () => {
  const files = makeCertificate();
  if (files === undefined) return;
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/token`, "letmein\n");
    await using engines = startEngines(1, { instant: true });
    await using gateway = await startTestGateway(engines, {
      admin: {
        listen: "127.0.0.1:0",
        token_file: `${folder}/token`,
        tls: { cert_file: files.cert, key_file: files.key },
      },
    });
    using client = Deno.createHttpClient({ caCerts: [await Deno.readTextFile(files.cert)] });
    const ask = async (path: string, authorization?: string, method = "GET") => {
      const headers: Record<string, string> = authorization ? { authorization } : {};
      const response = await fetch(`https://localhost:${gateway.gateway.admin.port}${path}`, {
        client,
        headers,
        method,
      });
      return [response.status, await response.text()] as const;
    };
    assertEquals((await ask("/healthz"))[0], 200);
    assertEquals((await ask("/readyz"))[0], 200);
    for (const path of ["/endpoints", "/metrics", "/config"]) {
      assertEquals((await ask(path))[0], 401, path);
      assertEquals((await ask(path, "Bearer letmeout"))[0], 401, path);
      const [status, text] = await ask(path, "Bearer letmein");
      assertEquals(status, 200, path);
      assert(!text.includes("letmein"), `${path} shows the token`);
    }
    assertEquals((await ask("/config/reload", "Bearer letmein", "POST"))[0], 200);
    assertEquals((await ask("/config/reload", undefined, "POST"))[0], 401);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("metadata center: pages change nothing, and a token is wanted where there is one", async () => {
  await using engines = startEngines(1);
  Deno.env.set("AIGW_TEST_CENTER_TOKEN", "between-us");
  const token = { token_env: "AIGW_TEST_CENTER_TOKEN" };
  await using first = await startTestGateway(engines, { metadata_center: { listen: "127.0.0.1:0", ...token } });
  const center = first.gateway.center!.address!;
  const remote = { host: center.hostname, port: center.port, sync_interval_ms: 20 };
  await using second = await startTestGateway(engines, { metadata_center: { ...remote, ...token } });
  await using stranger = await startTestGateway(engines, { metadata_center: remote });
  const url = `http://${formatAddress(center)}`;
  const load = JSON.stringify({ cluster: "c", request_id: "1", ip: "10.0.0.1", prompt_length: 5 });
  const tell = async (headers: Record<string, string>) => {
    const response = await fetch(`${url}/v1/load/stats`, { method: "POST", body: load, headers });
    return [response.status, (await response.json()).error?.message ?? null];
  };
  assertEquals(await tell({}), [401, "unauthorized"]);
  assertEquals(await tell({ authorization: "Bearer between-us", origin: "http://evil.example" }), [403, "forbidden"]);
  assertEquals(await tell({ authorization: "Bearer between-us" }), [200, null]);
  assertEquals(await (await fetch(url)).json().then(({ data }) => data), "alive");
  const answer = await post(second.origin, chat("Hello", { max_tokens: 200, stream: true }));
  const sees = async (gateway: typeof first) =>
    (await gateway.endpoints())[0] as unknown as { remote_in_flight: number };
  await until(async () => (await sees(first)).remote_in_flight === 1, "the load of a gateway with the token is known");
  assertEquals((await sees(stranger)).remote_in_flight, 0, "one without it learns nothing");
  await answer.body?.cancel();
});

Deno.test("data port: it says where things are, whether it is ready, and takes paths with a slash at the end", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startTestGateway(engines);
  const { origin } = gateway;
  assertStringIncludes(await (await fetch(origin)).text(), "operators find");
  for (const path of ["/health", "/health?ready", "/health/", "/v1/models/", "/v1/models"]) {
    for (const method of ["GET", "HEAD"]) {
      const response = await fetch(origin + path, { method });
      assertEquals(response.status, 200, `${method} ${path}`);
      const text = await response.text();
      if (method === "HEAD") assertEquals(text, "");
    }
  }
  const slash = await fetch(`${origin}/v1/chat/completions/?x=1`, { method: "POST", body: chat("Hello") });
  assertEquals([slash.status, (await slash.json()).object], [200, "chat.completion"]);
  const wrong = await fetch(`${origin}/v1/nothing/`, { method: "POST" });
  assertEquals([wrong.status, (await wrong.json()).error.code], [404, "route_not_found"]);
  await engines[0].stop();
  await until(async () => {
    const response = await fetch(`${origin}/health?ready=1`);
    await response.body?.cancel();
    return response.status === 503;
  }, "a gateway without endpoints is not ready");
  const alive = await fetch(`${origin}/health`);
  assertEquals([alive.status, await alive.text()], [200, ""]);
});

Deno.test('the model "*" stands for every name that has no rules of its own', async () => {
  await using engines = startEngines(2, { instant: true });
  const of = (i: number) => ({ address: engines[i].address.hostname, port: engines[i].address.port });
  await using gateway = await startTestGateway([], {
    clusters: [{ name: "own", endpoints: [of(0)] }, { name: "any", endpoints: [of(1)] }],
    model_mapping_rule: {
      m: { rules: [{ backend: "vllm", cluster: "own" }] },
      "*": { rules: [{ backend: "vllm", cluster: "any", target_model: "base" }] },
    },
  });
  const answered = async (model: string) => {
    const response = await post(gateway.origin, chat("Hello", { model }));
    const { model: by } = await response.json();
    return [response.status, by, response.headers.get("x-aigw-endpoint")];
  };
  const [own, any] = [0, 1].map((i) => formatAddress(engines[i].address));
  assertEquals(await answered("m"), [200, "m", own]);
  assertEquals(await answered("whatever"), [200, "base", any]);
  const { data } = await (await fetch(`${gateway.origin}/v1/models`)).json();
  assertEquals(data.map(({ id }: { id: string }) => id), ["m"]);
});
