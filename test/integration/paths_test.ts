// SPDX-License-Identifier: Apache-2.0
// Paths of engines beside generation: forms, other JSON, further ones by the config.

import { assert, assertEquals } from "@std/assert";
import { startTestGateway } from "../support/gateway.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";

const OK = bytes('HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"text":""}');

Deno.test("paths: forms and other JSON reach the engine unchanged, by the model that they name or the only one", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  await using gateway = await startTestGateway([server], {
    probes: { enabled: false },
    routes: [{ path: "/v1/custom" }],
  });
  const [model] = (await (await fetch(`${gateway.origin}/v1/models`)).json()).data.map(({ id }: { id: string }) => id);
  const send = async (path: string, body: BodyInit, headers: Record<string, string> = {}) => {
    const response = await fetch(`${gateway.origin}${path}`, { method: "POST", body, headers });
    return [response.status, await response.text()] as const;
  };
  const form = new FormData();
  form.append("file", new Blob([new Uint8Array(200_000)]), "a.wav");
  form.append("model", model);
  const json = JSON.stringify({ model, input: "x" });
  for (const path of ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"]) {
    assertEquals(await send(path, form), [200, '{"text":""}'], path);
    assertEquals(JSON.parse((await send(path, json))[1]).error.code, "invalid_request", path);
  }
  const others = [
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/moderations",
    "/classify",
    "/pooling",
    "/generate",
  ];
  for (const path of [...others, "/invocations", "/v1/chat/completions/render", "/v1/custom?a=1"]) {
    assertEquals(await send(path, json), [200, '{"text":""}'], path);
    assert(server.requests.at(-1)!.startsWith(`POST ${path} `) && server.requests.at(-1)!.endsWith(json), path);
    assertEquals(await send(path, '{"input":"x"}'), [200, '{"text":""}'], path);
    assertEquals((await send(path, '{"model":"nobody"}'))[0], 404, path);
  }
  const [status, realtime] = await send("/v1/realtime", "");
  assertEquals([status, JSON.parse(realtime).error.code], [501, "not_supported"]);
  assertEquals((await send("/v1/nothing", json))[0], 404);
  await gateway.settled();
});

Deno.test("rules match :path, :method and :authority as they match header fields", async () => {
  await using server = startRawServer(() => ({ writes: [OK], then: "keep" }));
  const rule = (route_name: string, headers: { key: string; value: string }[], target_model: string) => ({
    backend: "vllm",
    cluster: "c",
    route_name,
    headers,
    target_model,
  });
  await using gateway = await startTestGateway([server], {
    probes: { enabled: false },
    model_mapping_rule: {
      m: {
        rules: [
          rule(
            "completions",
            [{ key: ":path", value: "/v1/completions?a=1" }, { key: ":method", value: "POST" }],
            "by path",
          ),
          rule("host", [{ key: ":authority", value: "models.example" }], "by host"),
          rule("rest", [], "rest"),
        ],
      },
    },
  });
  const sent = async (path: string, headers: Record<string, string> = {}) => {
    const body = JSON.stringify({ model: "m", prompt: "x", messages: [{ role: "user", content: "x" }] });
    const response = await fetch(`${gateway.origin}${path}`, { method: "POST", body, headers });
    assertEquals(response.status, 200);
    await response.text();
    return JSON.parse(server.requests.at(-1)!.split("\r\n\r\n")[1]).model;
  };
  assertEquals(await sent("/v1/completions?a=1"), "by path");
  assertEquals(await sent("/v1/completions?a=2"), "rest");
  // fetch sets no Host of its own.
  const { hostname, port } = new URL(gateway.origin);
  const body = JSON.stringify({ model: "m", prompt: "x" });
  const head = `POST /v1/completions HTTP/1.1\r\nhost: models.example\r\nconnection: close\r\n`;
  using connection = await Deno.connect({ hostname, port: Number(port) });
  await connection.write(bytes(`${head}content-length: ${body.length}\r\n\r\n${body}`));
  assert((await new Response(connection.readable).text()).startsWith("HTTP/1.1 200"));
  assertEquals(JSON.parse(server.requests.at(-1)!.split("\r\n\r\n")[1]).model, "by host");
  assertEquals(
    await sent("/v1/chat/completions", { ":path": "/v1/completions?a=1" }).catch(() => "refused"),
    "refused",
  );
  await gateway.settled();
});
