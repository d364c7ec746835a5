// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { AccessLog, type AccessRecord, lineOf } from "../../src/telemetry/access_log.ts";
import { CellLayout, DECISION_CELLS, histogramAt } from "../../src/telemetry/cells.ts";
import { Instruments } from "../../src/telemetry/instruments.ts";
import { OUTCOMES } from "../../src/telemetry/outcome.ts";
import { MetricsText } from "../../src/telemetry/prometheus.ts";
import { readModel, readTenant } from "../../src/telemetry/readings.ts";
import { clearSeries, PATH_LABELS, pathNumber, readSeries, RequestSeries } from "../../src/telemetry/request_series.ts";
import { INFERENCE_PATHS } from "../../src/openai/api.ts";
import { ownCells } from "../../src/tables/metric_cells.ts";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import { freshKernel } from "../support/kernel.ts";
import { promtool } from "../support/promtool.ts";
import { Random, seed } from "../support/seed.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";

const LAYOUT = new CellLayout({ models: 3, tenants: 4, endpoints: 2, metric_series: 64 });

function cellsIn(limits = LAYOUT): { kernel: AttachedKernel; instruments: Instruments; cells: Float64Array } {
  const kernel = freshKernel({ metricCells: limits.count });
  const cells = ownCells(kernel);
  return { kernel, instruments: new Instruments(cells, limits), cells };
}

Deno.test("MetricsText: labels are escaped, buckets add up, what is nothing is left out", () => {
  const h = { name: "h_seconds", type: "histogram", help: "x\ny", labels: ["a"], bounds: [0.5, 2] } as const;
  const c = { name: "c_total", type: "counter", help: "z", labels: [] } as const;
  const none = { name: "none", type: "gauge", help: "", labels: [] } as const;
  const page = (format: "prometheus" | "openmetrics") =>
    new MetricsText(format).addHistogram(h, { a: 'q"\\\n' }, { counts: [3, 0, 2], sum: 9 })
      .addHistogram(h, { a: "nothing" }, { counts: [0, 0, 0], sum: 0 })
      .addSummary({ ...none, type: "summary" }, {}, 0, 0)
      .add(c, {}, 4)
      .toString();
  const labels = 'a="q\\"\\\\\\n"';
  const samples = (two: string) =>
    `h_seconds_bucket{${labels},le="0.5"} 3\nh_seconds_bucket{${labels},le="${two}"} 3\n` +
    `h_seconds_bucket{${labels},le="+Inf"} 5\nh_seconds_sum{${labels}} 9\nh_seconds_count{${labels}} 5\n`;
  assertEquals(
    page("prometheus"),
    `# TYPE h_seconds histogram\n# HELP h_seconds x\\ny\n${samples("2")}` +
      "# TYPE c_total counter\n# HELP c_total z\nc_total 4\n",
  );
  assertEquals(
    page("openmetrics"),
    `# TYPE h_seconds histogram\n# UNIT h_seconds seconds\n# HELP h_seconds x\\ny\n${samples("2.0")}` +
      "# TYPE c counter\n# HELP c z\nc_total 4\n# EOF\n",
  );
});

Deno.test("Instruments keep models, endpoints and tenants apart", () => {
  const { instruments, cells } = cellsIn();
  instruments.firstToken(1, true, 1_000);
  instruments.firstToken(1, false, 0.002);
  instruments.tokenTime(1, 0.021);
  instruments.granted(1, 0.3, 0.000_012);
  const usage = { promptTokens: 10, completionTokens: 3, cachedTokens: 20 };
  instruments.usage(1, usage, true);
  instruments.usage(1, { promptTokens: 5, completionTokens: 1 }, false);
  instruments.served(1, 1, { failed: false, promptBytes: 40, presumedBytes: 30, ttftSeconds: 0.5, usage });
  instruments.served(1, 0, { failed: true, promptBytes: 40, presumedBytes: 30, ttftSeconds: undefined, usage });
  instruments.tenantEnded(2, true, usage);
  const { ttftStream, ttftWhole, tokenTime, queue, counts } = readModel(cells, LAYOUT, 1);
  assertEquals([ttftStream.counts[18], ttftWhole.counts[1], tokenTime.counts[8], queue.counts[8]], [1, 1, 1, 1]);
  assertEquals(counts, {
    promptTokens: 15,
    completionTokens: 4,
    cachedTokens: 10,
    usageAnswers: 1,
    promptBytes: 40,
    presumedBytes: 30,
  });
  assertEquals(histogramAt(cells, DECISION_CELLS).counts[3], 1);
  assertEquals([...cells.subarray(LAYOUT.endpoint(0), LAYOUT.endpoint(2))], [
    ...[0, 1, 0, 0, 0, 0, 0, 0],
    ...[1, 0, 0.5, 1, 40, 30, 10, 10],
  ]);
  assertEquals(readTenant(cells, LAYOUT, 2), { sent: 1, refused: 0, promptTokens: 10, completionTokens: 3 });
  for (const row of [0, 2, LAYOUT.unknownModel]) {
    const reading = readModel(cells, LAYOUT, row);
    assertEquals([...Object.values(reading.counts), reading.ttftStream.sum, reading.queue.sum], Array(8).fill(0));
  }
});

Deno.test("request series: every combination has its own, beyond the limit outcomes stay right, rows are forgotten", () => {
  const random = new Random(seed);
  for (const metric_series of [64, 256, 4_096]) {
    const layout = new CellLayout({ models: 5, tenants: 6, endpoints: 1, metric_series });
    const { kernel, instruments } = cellsIn(layout);
    const expected = new Map<string, number>();
    const byOutcome = new Map<string, number>();
    const gone = { model: 2, tenant: 3 };
    for (let i = 0; i < 1_500; i++) {
      const key = {
        model: random.below(6),
        path: PATH_LABELS[random.below(PATH_LABELS.length)],
        outcome: OUTCOMES[random.below(4)],
        tenant: random.below(6),
      };
      instruments.ended({ ...key, seconds: 0.5 });
      byOutcome.set(key.outcome, (byOutcome.get(key.outcome) ?? 0) + 1);
      const name = JSON.stringify(key);
      expected.set(name, (expected.get(name) ?? 0) + 1);
    }
    const read = () =>
      readSeries(kernel, layout).map(({ requests, seconds, model, path, outcome, tenant }) => {
        assertEquals(seconds, requests / 2);
        return { name: JSON.stringify({ model, path, outcome, tenant }), requests, model, outcome, tenant };
      });
    const series = read();
    for (const [outcome, count] of byOutcome) {
      const sum = series.filter((one) => one.outcome === outcome).reduce((total, one) => total + one.requests, 0);
      assertEquals(sum, count, outcome);
    }
    const apart = series.filter(({ model }) => model !== undefined);
    for (const { name, requests } of apart) assert(requests <= expected.get(name)!, name);
    if (metric_series === 4_096) {
      assertEquals(apart.length, expected.size);
      for (const { name, requests } of apart) assertEquals(requests, expected.get(name), name);
    } else assert(apart.length <= metric_series);
    const own = new RequestSeries(ownCells(kernel), layout);
    clearSeries(kernel, layout, "model", gone.model, own);
    clearSeries(kernel, layout, "tenant", gone.tenant, own);
    const left = read();
    const stay = (one: { model?: number; tenant?: number }) =>
      one.model !== undefined && one.model !== 2 && one.tenant !== 3;
    assertEquals(left.filter(stay), series.filter(stay));
    assert(left.every((one) => one.model === undefined || stay(one)));
    const sum = (all: typeof left) => all.reduce((total, { requests }) => total + requests, 0);
    assertEquals(sum(left), sum(series), "their outcomes are still counted");
    // The places of those that went are taken again, and no key stands twice.
    for (let i = 0; i < 2_000; i++) {
      const path = PATH_LABELS[random.below(PATH_LABELS.length)];
      instruments.ended({ model: 2, path, outcome: "ok", tenant: random.below(6), seconds: 0.5 });
    }
    const names = read().map(({ name }) => name);
    assertEquals(new Set(names).size, names.length);
  }
});

Deno.test("every path that is served has a label, and no other has one of its own", () => {
  for (const path of INFERENCE_PATHS.keys()) assertEquals(PATH_LABELS[pathNumber(path)], path);
  for (
    const [path, label] of [
      ["/v1/responses/resp_1", "/v1/responses/{id}"],
      ["/v1/responses/resp_1/cancel", "/v1/responses/{id}"],
      ["/v1/models/m", "/v1/models"],
      ["/health", "/health"],
      ["/nothing", "other"],
      ["", "other"],
      ["/v1/chat/completions/x", "other"],
    ]
  ) assertEquals(PATH_LABELS[pathNumber(path)], label);
});

Deno.test("access log: one JSON line a request with the known fields, into a file", async () => {
  const path = await Deno.makeTempFile();
  try {
    {
      await using engines = startEngines(1, { speed: 50 });
      await using gateway = await startTestGateway(engines, { log: { enabled: true, path, level: "error" } });
      await (await post(gateway.origin, chat("hi", { stream: true }))).text();
      await (await post(gateway.origin, chat("hi", { model: "nope" }))).text();
      await gateway.settled();
    }
    const records: AccessRecord[] = (await Deno.readTextFile(path)).trim().split("\n").map((line) => JSON.parse(line));
    records.sort((a, b) => a.status - b.status);
    assertEquals(
      records.map((
        { status, outcome, ai_model_name, ai_stream_request, is_local_error },
      ) => [status, outcome, ai_model_name, ai_stream_request, is_local_error]),
      [
        [200, "ok", "m", true, false],
        [404, "model_not_found", "nope", false, true],
      ],
    );
    const [ok, unknown] = records;
    assert(ok.ttft_ms !== null && ok.ttft <= ok.ttft_ms + 1 && ok.ttft_ms <= ok.duration_ms && ok.prompt_bytes > 0);
    assertMatch(ok.first_rt!, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$/);
    assert(ok.first_rt! <= ok.last_rt!);
    assertMatch(ok.load_duration, /^\d+\.\d{3}ms$/);
    assertMatch(ok.metacenter_reqid, /-\d+--?\d+-\d+$/);
    assertEquals([ok.use_load, ok.use_cache, ok.header_num, ok.is_vl, ok.target_model_name], [1, 0, 0, false, "m"]);
    assertEquals([unknown.use_load, unknown.ttft, unknown.first_rt, unknown.metacenter_reqid], [0, 0, null, ""]);
  } finally {
    await Deno.remove(path);
  }
});

const { log: LOG } = parseConfig({});

/** A record of a request that went well. */
const RECORD: AccessRecord = {
  time: "2026-11-26T10:00:00.123Z",
  trace_id: "id",
  path: "/v1/chat/completions",
  route_name: "",
  header_num: 0,
  ai_model_name: "m",
  target_model_name: "m",
  ai_backend_protocol: "vllm",
  ai_stream_request: true,
  lora_id: "",
  is_vl: false,
  tenant: "anonymous",
  endpoint: "10.0.0.1:8000",
  metacenter_reqid: "",
  status: 200,
  outcome: "ok",
  is_local_error: false,
  prompt_bytes: 40,
  use_load: 1,
  use_cache: 1,
  load_duration: "",
  cache_duration: "",
  cached_bytes: 0,
  cached_chunks: 0,
  tries: 1,
  queued_ms: 0.2,
  predicted_ttft: 30,
  prompt_tokens: 12,
  completion_tokens: 20,
  cached_tokens: 8,
  known_cached_tokens: null,
  ttft: 34,
  first_rt: null,
  last_rt: null,
  ttft_ms: 34.7,
  duration_ms: 213.9,
};

Deno.test("access log drops and counts when its buffer is full", () => {
  const path = Deno.makeTempFileSync();
  const log = new AccessLog({ ...LOG, path }, () => {});
  for (let i = 0; i < 10_005; i++) log.write({ ...RECORD, status: i });
  assertEquals(log.dropped, 5);
  log.close();
  assertEquals(Deno.readTextFileSync(path).split("\n").length, 10_001);
  Deno.removeSync(path);
});

Deno.test("access log for people: a line a request, whatever a client wrote", () => {
  assertEquals(
    lineOf(RECORD),
    "10:00:00.123 200 /v1/chat/completions m 10.0.0.1:8000 214 ms, first token 35 ms, 12 (8 cached) + 20 tokens",
  );
  const refused: AccessRecord = {
    ...RECORD,
    ai_model_name: "a\nb\u001b[2J",
    endpoint: "",
    status: 404,
    outcome: "model_not_found",
    tenant: "gold",
    tries: 2,
    queued_ms: 12,
    ttft_ms: null,
    prompt_tokens: null,
  };
  assertEquals(
    lineOf(refused),
    "10:00:00.123 404 /v1/chat/completions a?b?[2J 214 ms, waited 12 ms, 2 tries, tenant gold, model_not_found, id id",
  );
  const path = Deno.makeTempFileSync();
  const log = new AccessLog({ ...LOG, path, format: "text" }, () => {});
  log.write(RECORD);
  log.close();
  assertEquals(Deno.readTextFileSync(path), `${lineOf(RECORD)}\n`);
  Deno.removeSync(path);
});

Deno.test("access log: a sample of what went well, all of what did not", () => {
  const path = Deno.makeTempFileSync();
  const draws = [0.1, 0.9, 0.24, 0.26];
  const log = new AccessLog({ ...LOG, path, sample: 0.25 }, () => {}, () => draws.shift()!);
  assertEquals([1, 2, 3, 4].map(() => log.takes("ok")), [true, false, true, false]);
  assertEquals([log.takes("engine_failed"), log.takes("client_closed")], [true, true]);
  log.close();
  Deno.removeSync(path);
});

Deno.test("/metrics: every family is right in both formats, none is empty, and promtool has nothing to say", async () => {
  await using engines = startEngines(2, { speed: 50 });
  await using gateway = await startTestGateway(engines, {
    model_mapping_rule: {
      m: { rules: [{ backend: "vllm", cluster: "c" }] },
      unused: { rules: [{ backend: "vllm", cluster: "c" }] },
    },
  });
  const prompt = "a prompt of some length ".repeat(200);
  for (let i = 0; i < 2; i++) {
    await (await post(gateway.origin, chat(prompt, { stream: true, max_tokens: 3 }))).text();
    await (await post(gateway.origin, chat(prompt, { max_tokens: 3 }))).text();
  }
  await (await post(gateway.origin, chat("hi", { model: "nope" }))).text();
  await gateway.settled();
  const page = async (accept?: string) => {
    const response = await fetch(`${gateway.admin}/metrics`, accept ? { headers: { accept } } : {});
    return { type: response.headers.get("content-type")!, text: await response.text() };
  };
  const { text, type } = await page();
  assertMatch(type, /^text\/plain; version=0\.0\.4/);
  const families = new Map<string, number>();
  for (const line of text.trimEnd().split("\n")) {
    const opened = /^# TYPE (\w+) (counter|gauge|histogram|summary)$/.exec(line);
    if (opened) families.set(opened[1], 0);
    if (line.startsWith("#")) continue;
    const sample = /^(\w+?)(\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\})? (NaN|[+-]?Inf|-?[\d.e+-]+)$/.exec(line)!;
    assert(sample !== null, line);
    const family = families.has(sample[1]) ? sample[1] : sample[1].replace(/_(bucket|sum|count)$/, "");
    assert(families.has(family), `${line} belongs to no family`);
    families.set(family, families.get(family)! + 1);
  }
  assertEquals([...families].filter(([, samples]) => samples === 0), []);
  assert(!text.includes('model="unused"'), "there is no series of nothing");
  const chats = 'model="m",path="/v1/chat/completions",outcome="ok",tenant="anonymous"';
  const endpoint = engines.map(({ address }) => `127.0.0.1:${address.port}`);
  for (
    const sample of [
      `aigw_requests_total{${chats}} 4`,
      'aigw_requests_total{model="",path="/v1/chat/completions",outcome="model_not_found",tenant="anonymous"} 1',
      'aigw_completion_tokens_total{model="m"} 12',
      'aigw_usage_answers_total{model="m"} 4',
      'aigw_ttft_seconds_count{model="m",answer="stream"} 2',
      'aigw_ttft_seconds_count{model="m",answer="whole"} 2',
      'aigw_time_per_output_token_seconds_count{model="m"} 2',
      'aigw_queue_seconds_count{model="m"} 4',
      "aigw_decision_seconds_count 4",
      'aigw_request_duration_seconds_count{model="m"} 4',
      `aigw_endpoint_in_flight_requests{cluster="c",endpoint="${endpoint[0]}"} 0`,
      `aigw_endpoint_state{cluster="c",endpoint="${endpoint[1]}",state="available"} 1`,
      'aigw_cluster_endpoints{cluster="c",state="available"} 2',
    ]
  ) assertStringIncludes(text, `${sample}\n`);
  const value = (name: string) => Number(new RegExp(`^${name} (.*)$`, "m").exec(text)?.[1]);
  assert(value('aigw_presumed_cached_bytes_total\\{model="m"\\}') > 3 * 4_000, "three found the prompt");
  assert(value('aigw_cached_prompt_tokens_total\\{model="m"\\}') > 0);
  assert(value("process_cpu_seconds_total") > 0 && value("aigw_shared_memory_bytes") > 0);
  assert(value('aigw_table_rows\\{table="prefixes",state="in use"\\}') >= 0);
  const open = await page("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
  assertMatch(open.type, /^application\/openmetrics-text/);
  assert(open.text.endsWith("# EOF\n"));
  // In OpenMetrics a counter's family has no _total, and no two have one name.
  const names = [...open.text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
  assertEquals(names.length, new Set(names).size);
  assert(names.every((name) => !name.endsWith("_total")));
  const checked = await promtool(["check", "metrics"], text);
  if (checked !== undefined) assertEquals(checked, { code: 0, said: "" });
});

Deno.test("metrics have other systems' names where they are asked for", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startTestGateway(engines, {
    admin: { listen: "127.0.0.1:0", metric_names: ["go", "inference_extension"] },
  });
  await (await post(gateway.origin, chat("hi"))).text();
  const text = await (await fetch(`${gateway.admin}/metrics`)).text();
  for (
    const sample of [
      "watched_clusters_total 1",
      'watched_cluster_endpoints{cluster="c"} 1',
      "aigw_rule_total 1",
      'inference_pool_ready_pods{name="c"} 1',
      'inference_objective_request_total{model_name="m",target_model_name="m"} 1',
      "inference_extension_scheduler_e2e_duration_seconds_count 1",
    ]
  ) assertStringIncludes(text, `${sample}\n`);
});

Deno.test("the number of series stays bounded with any number of models and tenants", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startTestGateway(engines, {
    limits: { metric_series: 64, tenants: 8 },
    tenancy: { trust_headers: true },
  });
  const tenants = Array.from({ length: 400 }, (_, i) => `tenant-${i}`);
  for (let i = 0; i < tenants.length; i += 20) {
    await Promise.all(
      tenants.slice(i, i + 20).map(async (tenant, k) => {
        const body = chat("hi", { model: k % 2 === 0 ? "m" : `model-${i}-${k}` });
        await (await post(gateway.origin, body, { headers: { "x-aigw-tenant": tenant } })).text();
      }),
    );
  }
  const text = await (await fetch(`${gateway.admin}/metrics`)).text();
  const series = text.match(/^aigw_requests_total\{.*$/gm)!;
  assert(series.length <= 64, `${series.length} series`);
  assertEquals(series.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0), 400);
  assert(!/tenant-\d|model-\d/.test(text), "names of strangers are no labels");
});
