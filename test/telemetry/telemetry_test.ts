// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertMatch } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { AccessLog, type AccessRecord } from "../../src/telemetry/access_log.ts";
import { cellCount, Instruments, readModel } from "../../src/telemetry/instruments.ts";
import { OUTCOMES } from "../../src/telemetry/outcome.ts";
import { PrometheusText } from "../../src/telemetry/prometheus.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";

Deno.test("PrometheusText escapes labels and adds histogram buckets up", () => {
  const text = new PrometheusText().family("h", "histogram", "x").histogram("h", { a: 'q"\\\n' }, [1, 2], {
    counts: [3, 0, 2],
    sum: 9,
  })
    .toString();
  assertEquals(
    text,
    '# HELP h x\n# TYPE h histogram\nh_bucket{a="q\\"\\\\\\n",le="1"} 3\nh_bucket{a="q\\"\\\\\\n",le="2"} 3\nh_bucket{a="q\\"\\\\\\n",le="+Inf"} 5\nh_sum{a="q\\"\\\\\\n"} 9\nh_count{a="q\\"\\\\\\n"} 5\n',
  );
});

Deno.test("Instruments keep models apart and count every outcome", () => {
  const cells = new Float64Array(cellCount(2, 2));
  const instruments = new Instruments(cells, 2);
  for (const outcome of OUTCOMES) instruments.ended(1, outcome, 0.3);
  instruments.firstToken(1, 1_000);
  assertEquals([...readModel(cells, 1).outcomes], OUTCOMES.map(() => 1));
  assertEquals(readModel(cells, 1).ttft.counts.at(-1), 1);
  assertEquals(
    readModel(cells, 0).outcomes.every((count) => count === 0) && readModel(cells, 2).duration.sum === 0,
    true,
  );
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

Deno.test("access log drops and counts when its buffer is full", () => {
  const path = Deno.makeTempFileSync();
  const { lines, rotation } = parseConfig({}).log;
  const log = new AccessLog(path, { lines, rotation }, () => {});
  for (let i = 0; i < 10_005; i++) log.write({ status: i } as AccessRecord);
  assertEquals(log.dropped, 5);
  log.close();
  assertEquals(Deno.readTextFileSync(path).split("\n").length, 10_001);
  Deno.removeSync(path);
});

Deno.test("/metrics has requests, durations, TTFT and in-flight, in valid exposition format", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using gateway = await startTestGateway(engines);
  await (await post(gateway.origin, chat("hi", { stream: true, max_tokens: 3 }))).text();
  await gateway.settled();
  const text = await (await fetch(`${gateway.admin}/metrics`)).text();
  for (const line of text.trim().split("\n")) {
    assert(
      /^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z_]+="[^"]*",?)*\})? (NaN|[+-]?Inf|-?[\d.e+-]+))$/.test(line),
      line,
    );
  }
  assert(text.includes('aigw_requests_total{model="m",outcome="ok"} 1\n'));
  assert(text.includes('aigw_completion_tokens_total{model="m"} 3\n'));
  assert(text.includes('aigw_usage_answers_total{model="m"} 1\n'));
  assert(text.includes('aigw_ttft_seconds_count{model="m"} 1\n'));
  assert(text.includes('aigw_request_duration_seconds_count{model="m"} 1\n'));
  assert(
    text.includes(`aigw_endpoint_in_flight_requests{cluster="c",endpoint="127.0.0.1:${engines[0].address.port}"} 0\n`),
  );
  assert(text.includes('aigw_version{version="'));
});
