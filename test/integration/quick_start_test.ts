// SPDX-License-Identifier: Apache-2.0
// Engines by URL alone, by HTTPS, below a path, with a key: what is reached, what is sent, what is served.

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { ConfigError, parseConfig } from "../../src/config/load.ts";
import { BadEndpoint, configOfEndpoints } from "../../src/control/quick_start.ts";
import { startGateway } from "../../src/server/gateway_process.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { startAigw } from "../support/process.ts";
import { sha256 } from "../support/sha256.ts";
import { makeCertificate } from "../support/tls.ts";
import { until } from "../support/until.ts";

interface Seen {
  path: string;
  authorization: string | null;
  apiKey: string | null;
  host: string | null;
}

/** An engine of a few pages that notes what it was asked; with a key, others are turned away. */
function startPlainEngine(
  { key, basePath = "", models = ["m"], tls, maxModelLen }: {
    key?: string;
    basePath?: string;
    models?: string[];
    tls?: { cert: string; key: string };
    maxModelLen?: number;
  },
) {
  const seen: Seen[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {}, ...tls }, async (request) => {
    const { headers, url } = request;
    const path = new URL(url).pathname;
    const authorization = headers.get("authorization");
    seen.push({ path, authorization, apiKey: headers.get("x-api-key"), host: headers.get("host") });
    await request.text();
    if (path.endsWith("/health")) return new Response("");
    if (key !== undefined && authorization !== `Bearer ${key}`) return Response.json({ error: "no" }, { status: 401 });
    if (path === `${basePath}/v1/models`) {
      return Response.json({ data: models.map((id) => ({ id, owned_by: "vllm", max_model_len: maxModelLen })) });
    }
    if (path === `${basePath}/v1/chat/completions`) return Response.json({ choices: [], served: true });
    return new Response("", { status: 404 });
  });
  return {
    address: { hostname: "127.0.0.1", port: server.addr.port },
    chats: () => seen.filter(({ path }) => path.endsWith("/chat/completions")),
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

const QUIET = {
  listen: "127.0.0.1:0",
  admin: { listen: "127.0.0.1:0" },
  metadata_center: { enabled: false },
  workers: 1,
  log: { level: "error" as const, enabled: false },
  probes: { models_interval_ms: 50 },
};

async function startQuick(urls: string[], more: Record<string, unknown> = {}) {
  const { clusters } = configOfEndpoints(urls, undefined, undefined);
  const gateway = await startGateway(parseConfig({ ...QUIET, clusters, ...more }));
  const origin = `http://${formatAddress(gateway.listen)}`;
  return {
    gateway,
    origin,
    models: async () => {
      const { data } = await (await fetch(`${origin}/v1/models`)).json();
      return data.map(({ id }: { id: string }) => id).sort();
    },
    [Symbol.asyncDispose]: async () => void await gateway.stop(2_000),
  };
}

async function statusOf(origin: string, model: string, headers: Record<string, string> = {}): Promise<number> {
  const response = await post(origin, chat("x", { model }), { headers });
  await response.body?.cancel();
  return response.status;
}

Deno.test("configOfEndpoints: URLs become clusters by the way they are reached; what is no URL is told", () => {
  const { clusters } = configOfEndpoints(
    ["http://10.0.0.1:8000", "10.0.0.2:8000/", "https://engines.example/base/v1", "http://[fd00::1]"],
    undefined,
    undefined,
  );
  assertEquals(
    clusters.map(({ name, endpoints, tls, base_path, discover_models }) => [
      name,
      endpoints.map(({ address, port }) => `${address} ${port}`),
      tls !== undefined,
      base_path,
      discover_models,
    ]),
    [
      ["engines-1", ["10.0.0.1 8000", "10.0.0.2 8000", "fd00::1 80"], false, "", true],
      ["engines-2", ["engines.example 443"], true, "/base", true],
    ],
  );
  for (const text of ["http://", "ftp://x", "http://x?y", "http://u:p@x", "a b"]) {
    assertThrows(() => configOfEndpoints([text], undefined, undefined), BadEndpoint, "expected a URL");
  }
});

Deno.test("engines by URL alone: all models that they list are served, each by those that list it, with their length", async () => {
  await using one = startPlainEngine({ models: ["both", "first"], maxModelLen: 8_192 });
  await using two = startPlainEngine({ models: ["both", "second"], maxModelLen: 4_096 });
  await using quick = await startQuick([one, two].map(({ address }) => `http://${formatAddress(address)}`));
  assertEquals(await quick.models(), ["both", "first", "second"]);
  const { data } = await (await fetch(`${quick.origin}/v1/models`)).json();
  assertEquals(data.map(({ max_model_len }: { max_model_len: number }) => max_model_len), [4_096, 8_192, 4_096]);
  for (let i = 0; i < 8; i++) {
    assertEquals(await statusOf(quick.origin, "first"), 200);
    assertEquals(await statusOf(quick.origin, "second"), 200);
  }
  assertEquals([one.chats().length, two.chats().length], [8, 8]);
  assertEquals(await statusOf(quick.origin, "third"), 404);
});

Deno.test("discover_models follows what engines list; a rule of the configuration stays as it is", async () => {
  const models = ["a"];
  await using engine = startPlainEngine({ models });
  await using quick = await startQuick([`http://${formatAddress(engine.address)}`], {
    model_mapping_rule: { alias: { rules: [{ backend: "vllm", cluster: "engines", target_model: "a" }] } },
  });
  assertEquals(await quick.models(), ["a", "alias"]);
  models.push("b");
  await until(async () => await statusOf(quick.origin, "b") === 200, "model b");
  models.shift();
  await until(async () => await statusOf(quick.origin, "a") === 404, "the end of model a");
  assertEquals(await quick.models(), ["alias", "b"]);
  assertEquals(await statusOf(quick.origin, "alias"), 200);
});

Deno.test("an engine's key comes from the configuration, never from the client", async () => {
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, "engine-secret\n");
  await using engine = startPlainEngine({ key: "engine-secret" });
  const { hostname, port } = engine.address;
  const cluster = { name: "c", endpoints: [{ address: hostname, port }] };
  {
    await using gateway = await startTestGateway([engine], { clusters: [{ ...cluster, api_key_file: file }] });
    assertEquals(await statusOf(gateway.origin, "m", { authorization: "Bearer mine", "x-api-key": "mine too" }), 200);
    const { authorization, apiKey } = engine.chats().at(-1)!;
    assertEquals([authorization, apiKey], ["Bearer engine-secret", null]);
    const shown = await (await fetch(`${gateway.admin}/config`)).text();
    assert(!shown.includes("engine-secret"), "the key is not shown");
  }
  await Deno.remove(file);
});

Deno.test("a client's credentials go on to engines only where the cluster says so", async () => {
  await using engine = startPlainEngine({ key: "mine" });
  const { hostname, port } = engine.address;
  const endpoints = [{ address: hostname, port }];
  const model_mapping_rule = { m: { rules: [{ backend: "vllm", cluster: "c" }] } };
  const mine = { authorization: "Bearer mine", "x-api-key": "mine too" };
  const seen = async (config: Record<string, unknown>, sent: Record<string, string> = mine) => {
    await using gateway = await startTestGateway([engine], { model_mapping_rule, ...config });
    const status = await statusOf(gateway.origin, "m", sent);
    const { authorization, apiKey } = engine.chats().at(-1)!;
    return { status, authorization, apiKey };
  };
  const cluster = { name: "c", endpoints };
  const none = { authorization: null, apiKey: null };
  assertEquals(await seen({ clusters: [cluster] }), { status: 401, ...none });
  assertEquals(await seen({ clusters: [cluster] }, {}), { status: 401, ...none });
  const both = { authorization: "Bearer mine", apiKey: "mine too" };
  const forwarding = { clusters: [{ ...cluster, forward_credentials: true }] };
  assertEquals(await seen(forwarding), { status: 200, ...both });
  const tenants = [{ name: "t", keys_sha256: [await sha256("mine")] }];
  assertEquals((await seen({ ...forwarding, tenants }, { authorization: "Bearer mine" })).authorization, null);
});

Deno.test("an engine below a path, and one with HTTPS that is verified, by requests and probes alike", async () => {
  await using below = startPlainEngine({ basePath: "/openai" });
  {
    const cluster = {
      name: "c",
      base_path: "/openai",
      endpoints: [{ address: "127.0.0.1", port: below.address.port }],
    };
    await using gateway = await startTestGateway([below], { clusters: [cluster] });
    assertEquals(await statusOf(gateway.origin, "m"), 200);
    assertEquals(below.chats()[0].path, "/openai/v1/chat/completions");
  }
  const certificate = makeCertificate();
  if (!certificate) return;
  const [cert, key] = [Deno.readTextFileSync(certificate.cert), Deno.readTextFileSync(certificate.key)];
  await using secure = startPlainEngine({ tls: { cert, key } });
  const clusterWith = (tls: Record<string, string>) => ({
    clusters: [{ name: "c", tls, endpoints: [{ address: "127.0.0.1", port: secure.address.port }] }],
    retries: 0,
  });
  {
    await using gateway = await startTestGateway([secure], clusterWith({ ca_file: certificate.cert }));
    assertEquals(await statusOf(gateway.origin, "m"), 200);
    assertEquals((await gateway.endpoints())[0].state, "available");
    assertEquals(secure.chats()[0].host, formatAddress(secure.address));
  }
  {
    const named = clusterWith({ ca_file: certificate.cert, server_name: "localhost" });
    await using gateway = await startTestGateway([secure], named);
    assertEquals(await statusOf(gateway.origin, "m"), 200);
    assertEquals(secure.chats().at(-1)!.host, "localhost");
  }
  for (const tls of [{}, { ca_file: certificate.cert, server_name: "other.example" }]) {
    const before = secure.chats().length;
    await using gateway = await startTestGateway([secure], { ...clusterWith(tls as Record<string, string>) });
    const status = await statusOf(gateway.origin, "m");
    assert(status === 502 || status === 503, `a certificate that is not trusted: ${status}`);
    assertEquals(secure.chats().length, before);
  }
});

Deno.test("what cannot be of how engines are reached is refused with its place", async () => {
  const refused = async (cluster: Record<string, unknown>, more: Record<string, unknown> = {}) => {
    try {
      await startGateway(parseConfig({ ...QUIET, clusters: [{ name: "c", ...cluster }], ...more }));
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      return error.message;
    }
    throw new Error("it was taken");
  };
  assertStringIncludes(
    await refused({ api_key_env: "AIGW_TEST_NO_SUCH_VARIABLE" }),
    "clusters[0].api_key_env: AIGW_TEST",
  );
  assertStringIncludes(
    await refused({ api_key_file: "/nowhere" }),
    "clusters[0].api_key_file: /nowhere cannot be read",
  );
  assertStringIncludes(await refused({ tls: { ca_file: "/dev/null" } }), "holds no PEM certificate");
  assertStringIncludes(await refused({ base_path: "x/" }), "expected a path like /openai");
  assertStringIncludes(await refused({ dns: [{ name: "x" }] }), "an SRV name has no port, any other needs one");
  const grpc = { model_mapping_rule: { m: { rules: [{ backend: "triton", cluster: "c" }] } } };
  assertStringIncludes(await refused({ tls: {} }, grpc), '"grpc" goes in cleartext');
});

Deno.test("aigw serve --endpoint: two mock engines, one command", async () => {
  await using engines = startEngines(2, { instant: true, models: ["tiny"] });
  const urls = engines.flatMap(({ address }) => ["--endpoint", `http://${formatAddress(address)}`]);
  const alone = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--center", "127.0.0.1:0", "--workers", "1"];
  await using aigw = await startAigw(["serve", ...urls, ...alone], "null");
  assertEquals(await statusOf(`http://127.0.0.1:${aigw.port}`, "tiny"), 200);
});
