// SPDX-License-Identifier: Apache-2.0
// What is exported for OpenTelemetry: a gateway as a process, and a stand-in for the collector that it reports to.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { startAigw } from "../support/process.ts";
import { chat, post } from "../support/gateway.ts";
import { until } from "../support/until.ts";
import { freePort } from "../support/machine.ts";

interface Attribute {
  key: string;
  value: {
    stringValue?: string;
    intValue?: string;
    doubleValue?: number;
    arrayValue?: { values: Attribute["value"][] };
  };
}
interface Span {
  name: string;
  kind: number;
  traceId: string;
  spanId: string;
  parentSpanId: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: Attribute[];
  events: { name: string; timeUnixNano: string }[];
  status: { code: number; message: string };
}
type Value = string | number | Value[] | undefined;

function valueOf({ stringValue, intValue, doubleValue, arrayValue }: Attribute["value"]): Value {
  if (arrayValue) return arrayValue.values.map(valueOf);
  return intValue !== undefined ? `int ${intValue}` : stringValue ?? doubleValue;
}
const attributesOf = (attributes: Attribute[]) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, valueOf(value)]));

/** A collector, and an engine that keeps the heads of its requests. */
function startCollector() {
  const spans: (Span & { scope: string })[] = [];
  const metrics = new Map<string, Record<string, Value>[]>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    // deno-lint-ignore no-explicit-any -- OTLP as JSON
    const body = await request.json() as any;
    for (const { scopeSpans = [] } of body.resourceSpans ?? []) {
      for (const { scope, spans: told } of scopeSpans) {
        spans.push(...told.map((one: Span) => ({ ...one, scope: scope.name })));
      }
    }
    for (const { scopeMetrics = [] } of body.resourceMetrics ?? []) {
      for (const { metrics: told } of scopeMetrics) {
        for (const { name, sum, gauge, histogram } of told) {
          const { dataPoints } = sum ?? gauge ?? histogram;
          metrics.set(name, dataPoints.map((one: { attributes: Attribute[] }) => attributesOf(one.attributes)));
        }
      }
    }
    return Response.json({});
  });
  return { spans, metrics, port: server.addr.port, [Symbol.asyncDispose]: () => server.shutdown() };
}

Deno.test("OpenTelemetry: spans of requests with right parents and attributes, our context for engines, metrics", async () => {
  await using collector = startCollector();
  const heads: string[] = [];
  await using engine = await startEngine(heads);
  for (const front of ["serve", "direct"] as const) {
    collector.spans.length = heads.length = 0;
    const config = await Deno.makeTempFile({ suffix: ".yaml" });
    const direct = freePort();
    await Deno.writeTextFile(
      config,
      `listen: 127.0.0.1:0\nlisteners: [{address: "127.0.0.1:${direct}"}]\nworkers: 1\nadmin: {listen: "127.0.0.1:0"}\n` +
        `metadata_center: {enabled: false}\nlog: {enabled: false}\n` +
        `clusters: [{name: c, endpoints: [{address: 127.0.0.1, port: ${engine.port}}]}]\n` +
        "model_mapping_rule: {m: {rules: [{backend: vllm, cluster: c}]}}\n",
    );
    await using gateway = await startAigw(["serve", "--config", config], "inherit", {
      OTEL_DENO: "true",
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`,
      OTEL_BSP_SCHEDULE_DELAY: "100",
      OTEL_METRIC_EXPORT_INTERVAL: "200",
    });
    const origin = `http://127.0.0.1:${front === "direct" ? direct : gateway.port}`;
    const [trace, caller] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
    const headers = { traceparent: `00-${trace}-${caller}-01`, tracestate: "vendor=1", "x-other": "kept" };
    await until(async () => (await (await fetch(`${origin}/health?ready`)).text()) === "", "the engine is available");
    await (await post(origin, chat("Hello", { stream: true, max_tokens: 3 }), { headers })).text();
    await (await post(origin, chat("Hello", { max_tokens: 4 }), { headers })).text();
    await (await post(origin, chat("Hello", { model: "nope" }), { headers })).text();
    const ours = () => collector.spans.filter(({ scope }) => scope === "aigw");
    await until(() => ours().length === 3, () => `three spans of ours come, not ${ours().length}`);
    const [stream, whole, refused] = ours().sort((a, b) =>
      Number(BigInt(a.startTimeUnixNano) - BigInt(b.startTimeUnixNano))
    );
    for (const span of [stream, whole]) {
      assertEquals([span.name, span.kind, span.traceId, span.status.code], ["chat m", 3, trace, 0]);
      assert(BigInt(span.endTimeUnixNano) > BigInt(span.startTimeUnixNano));
      const attributes = attributesOf(span.attributes);
      const tokens = span === stream ? 3 : 4;
      const expected: Record<string, Value> = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": `int ${tokens}`,
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.output_tokens": `int ${tokens}`,
        "server.address": "127.0.0.1",
        "server.port": `int ${engine.port}`,
        "http.response.status_code": "int 200",
        "aigw.outcome": "ok",
        "aigw.tries": "int 1",
      };
      for (const [name, value] of Object.entries(expected)) assertEquals(attributes[name], value, `${front} ${name}`);
      assertMatch(String(attributes["gen_ai.usage.input_tokens"]), /^int \d+$/);
      assertEquals(
        span.events.map(({ name }) => name),
        span === stream ? ["aigw.sent", "aigw.first_token"] : ["aigw.sent"],
      );
    }
    assertEquals([refused.name, refused.status.code, refused.status.message], ["chat nope", 2, "model_not_found"]);
    assertEquals(attributesOf(refused.attributes)["error.type"], "model_not_found");
    // The runtime's own server has a span of its own around ours; either is in the caller's trace.
    const parents = [stream, whole, refused].map(({ parentSpanId }) => parentSpanId);
    if (front === "direct") assertEquals(parents, [caller, caller, caller]);
    else {
      await until(
        () => parents.every((id) => collector.spans.some(({ spanId }) => spanId === id)),
        "the outer ones come",
      );
      for (const id of parents) {
        const outer = collector.spans.find(({ spanId }) => spanId === id)!;
        assertEquals([outer.kind, outer.parentSpanId, outer.traceId], [2, caller, trace]);
      }
    }
    // Engines see us as their caller.
    const chats = heads.filter((head) => head.startsWith("POST"));
    assertEquals(chats.length, 2);
    for (const [i, head] of chats.entries()) {
      const span = [stream, whole][i];
      assertEquals([...head.matchAll(/^traceparent: (.*)$/gim)].map(([, value]) => value.trim()), [
        `00-${trace}-${span.spanId}-01`,
      ]);
      assert(head.includes("x-other: kept"), head);
    }
    // Probes are no requests of anybody's: no span tells of them.
    assert(heads.some((head) => head.startsWith("GET")));
    const probing = collector.spans.filter(({ attributes, kind }) =>
      kind === 3 && String(attributesOf(attributes)["url.full"] ?? "").includes(`:${engine.port}`)
    );
    assertEquals(probing, []);
    await until(
      () => collector.metrics.get("aigw_requests")?.some(({ model }) => model === "m") ?? false,
      "metrics come",
    );
    const requests = collector.metrics.get("aigw_requests")!;
    assert(
      requests.some(({ model, outcome, path }) => model === "m" && outcome === "ok" && path === "/v1/chat/completions"),
    );
    await until(() => collector.metrics.has("gen_ai.server.request.duration"), "histograms of requests come");
    const labels = collector.metrics.get("gen_ai.server.request.duration")!;
    assert(labels.some((one) => one["gen_ai.request.model"] === "m" && one["error.type"] === undefined));
    assert(labels.some((one) => one["gen_ai.request.model"] === "_OTHER" && one["error.type"] === "model_not_found"));
    for (const name of ["gen_ai.server.time_to_first_token", "aigw_cluster_saturation_ratio", "process_cpu_seconds"]) {
      assert(collector.metrics.has(name), name);
    }
    await gateway.end("SIGTERM");
    await Deno.remove(config);
  }
});

/** A mock engine behind a relay that keeps what is said to it. */
async function startEngine(heads: string[]) {
  const engine = await startAigw(["mock-engine", "--listen", "127.0.0.1:0", "--instant"], "null");
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const decoder = new TextDecoder();
  (async () => {
    for await (const client of listener) relay(client).catch(() => {});
  })().catch(() => {});
  async function relay(client: Deno.TcpConn): Promise<void> {
    const server = await Deno.connect({ hostname: "127.0.0.1", port: engine.port });
    const kept = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(piece, controller) {
        const text = decoder.decode(piece);
        if (/^(?:GET|POST) /.test(text)) heads.push(text);
        controller.enqueue(piece);
      },
    });
    await Promise.all([
      client.readable.pipeThrough(kept).pipeTo(server.writable),
      server.readable.pipeTo(client.writable),
    ]);
  }
  return {
    port: (listener.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose]() {
      listener.close();
      await engine[Symbol.asyncDispose]();
    },
  };
}
