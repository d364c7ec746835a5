// SPDX-License-Identifier: Apache-2.0
// A call and the writing of its end.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { end } from "../../src/gateway/accounting.ts";
import type { Call } from "../../src/gateway/call.ts";
import type { Route } from "../../src/gateway/routes.ts";
import { parseConfig } from "../../src/config/load.ts";
import { policyOf } from "../../src/scheduler/policy.ts";
import type { AccessLog, AccessRecord } from "../../src/telemetry/access_log.ts";
import { callParts } from "../support/parts.ts";

const route = {
  model: 0,
  targetModel: "target",
  rule: { route_name: "r", backend: "vllm", headers: [{ key: "a", value: "b" }], scene_name: "" },
  placement: { policy: policyOf(parseConfig({}), "m") },
} as unknown as Route;

/** Sends a call to an endpoint, whose first token comes after `ms`. */
function answered(call: Call, ms: number, advance: (ms: number) => void): void {
  call.route = route;
  call.sending({ endpoint: { row: 3, name: "10.0.0.1:1" } } as Parameters<Call["sending"]>[0]);
  call.predictedMs = 2 * ms;
  advance(ms);
  call.firstToken({ firstToken: () => ms, batch: 5 });
}

Deno.test("Call: its time is the least of the config's and its client's; nonsense is refused", () => {
  const { clock, open } = callParts();
  const own = open({ headers: { "x-aigw-timeout-ms": "100" } });
  const longer = open({ headers: { "x-aigw-timeout-ms": "100000000" } });
  clock.advance(110);
  assertEquals([own.cancellation.gone, longer.cancellation.gone], [true, false]);
  clock.advance(60_000);
  assert(longer.cancellation.gone);
  for (const wrong of ["0", "-1", "1.5", "soon", "1000000000"]) {
    for (const name of ["x-aigw-timeout-ms", "x-aigw-ttft-slo-ms", "x-aigw-tpot-slo-ms"]) {
      const call = open({ headers: { [name]: wrong } });
      assertThrows(() => call.checkTimes(), GatewayError, name);
      end(call, "invalid_request");
    }
  }
  for (const call of [own, longer]) end(call, "deadline_exceeded");
});

Deno.test("Call: a client that leaves before or after its request is taken up ends it", () => {
  const { open, calls } = callParts();
  const controller = new AbortController();
  const call = open({ signal: controller.signal });
  controller.abort();
  assert(call.cancellation.gone);
  end(call, "client_closed");
  assertEquals(calls.active.size, 0);
});

Deno.test("end: whoever says the outcome first does, and no deadline is left", () => {
  const written: AccessRecord[] = [];
  const accessLog = {
    takes: () => true,
    write: (record: AccessRecord) => written.push(record),
  } as unknown as AccessLog;
  const { open, calls, deadlines } = callParts({ accessLog });
  const call = open();
  assertEquals([calls.active.size, deadlines.size], [1, 1]);
  end(call, "ok");
  end(call, "internal");
  assertEquals(written.map(({ outcome }) => outcome), ["ok"]);
  assertEquals([calls.active.size, deadlines.size], [0, 0]);
});

Deno.test("end: the snapshot is let go when all of the last request is written, and also when that fails", () => {
  const order: string[] = [];
  let broken = false;
  const accessLog = {
    takes: () => true,
    write() {
      order.push("written");
      if (broken) throw new Error("disk full");
    },
  } as unknown as AccessLog;
  const { open, calls } = callParts({ accessLog, idle: () => order.push("idle") });
  const [first, last] = [open(), open()];
  end(first, "ok");
  assertEquals(order, ["written"]);
  end(last, "ok");
  assertEquals(order, ["written", "written", "idle"]);
  broken = true;
  assertThrows(() => end(open(), "ok"), Error, "disk full");
  assertEquals([order.slice(3), calls.active.size], [["written", "idle"], 0]);
});

Deno.test("end: a sample is written of a request that was sent once and whose usage is known", () => {
  const { open, clock, samples } = callParts();
  const call = open();
  answered(call, 200, (ms) => clock.advance(ms));
  call.promptBytes = 400;
  clock.advance(90);
  call.usage = { promptTokens: 100, cachedTokens: 120, completionTokens: 10 };
  end(call, "ok");
  assertEquals([...samples.take()], [{
    model: 0,
    endpoint: 3,
    promptBytes: 400,
    promptTokens: 100,
    cachedTokens: 100, // never more than there are
    prefillMs: 200,
    tpotMs: 10,
    batch: 5,
    predicted: 2,
  }]);

  const moved = open();
  answered(moved, 10, (ms) => clock.advance(ms));
  moved.sending({ endpoint: { row: 4, name: "10.0.0.1:2" } } as Parameters<Call["sending"]>[0]);
  moved.usage = { promptTokens: 100, completionTokens: 10 };
  end(moved, "ok");
  const silent = open();
  answered(silent, 10, (ms) => clock.advance(ms));
  end(silent, "ok");
  assertEquals([...samples.take()], [], "neither of one that moved nor of one whose usage nobody told");

  const whole = open();
  whole.route = route;
  whole.sending({ endpoint: { row: 3, name: "10.0.0.1:1" } } as Parameters<Call["sending"]>[0]);
  whole.usage = { promptTokens: 100, completionTokens: 10 };
  end(whole, "ok");
  const [{ prefillMs, tpotMs, predicted }] = samples.take();
  assertEquals([prefillMs, tpotMs, predicted], [NaN, NaN, NaN], "no first token was seen");
});

Deno.test("end: the access log has what is known, and null for what is not", () => {
  const written: AccessRecord[] = [];
  const accessLog = {
    takes: () => true,
    write: (record: AccessRecord) => written.push(record),
  } as unknown as AccessLog;
  const { open, clock } = callParts({ accessLog });
  const refused = open();
  clock.advance(5);
  end(refused, "route_not_found");
  const call = open();
  clock.advance(10);
  call.decision = { lookUpMs: 0.125, decideMs: 0.25, cacheKnown: true, loadName: "7-1-2" };
  answered(call, 200, (ms) => clock.advance(ms));
  clock.advance(90);
  call.usage = { promptTokens: 100, completionTokens: 10 };
  call.status = 200;
  end(call, "ok");
  const [first, second] = written;
  assertEquals([first.outcome, first.is_local_error, first.ttft, first.prompt_tokens, first.duration_ms], [
    "route_not_found",
    true,
    0,
    null,
    5,
  ]);
  assertEquals([first.use_load, first.load_duration, first.metacenter_reqid, first.ttft_ms, first.last_rt], [
    0,
    "",
    "",
    null,
    null,
  ]);
  assertEquals(
    [second.status, second.is_local_error, second.ttft, second.ttft_ms, second.duration_ms, second.predicted_ttft],
    [200, false, 200, 210, 300, 400],
  );
  assertEquals([second.first_rt, second.last_rt], ["2023-11-14 22:13:20.215", "2023-11-14 22:13:20.305"]);
  assertEquals(
    [second.use_load, second.use_cache, second.load_duration, second.cache_duration, second.metacenter_reqid],
    [1, 1, "0.250ms", "0.125ms", "gateway-7-1-2"],
  );
  assertEquals(second.header_num, 1);
  assertEquals([second.target_model_name, second.prompt_tokens, second.cached_tokens, second.tries], [
    "target",
    100,
    null,
    1,
  ]);
});
