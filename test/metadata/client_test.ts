// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock, systemClock } from "../../src/base/clock.ts";
import { Center } from "../../src/metadata/center.ts";
import { CenterClient } from "../../src/metadata/client.ts";
import { HostList } from "../../src/metadata/hosts.ts";
import { type CenterEvent, CenterServer } from "../../src/metadata/server.ts";
import { until } from "../support/until.ts";

Deno.test("CenterClient: after its lease has run out while it lives, it tells what is open anew", async () => {
  const clock = new ManualClock(1_700_000_000_000);
  const center = new Center(clock);
  const server = new CenterServer(center, { version: "test" });
  await using http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, server.handle);
  const breaker = { maxFailures: 5, cooldownMs: 100, halfOpenRequests: 1 };
  const hosts = new HostList(systemClock, {
    host: "127.0.0.1",
    port: http.addr.port,
    lookupIntervalMs: 60_000,
    coldStartMs: 0,
    breaker,
  });
  const client = new CenterClient(systemClock, hosts, {
    gateway: "g",
    syncIntervalMs: 60_000,
    coalesceMs: 1,
    updateTimeoutMs: 60_000,
    fetchTimeoutMs: 60_000,
    watchSilenceMs: 60_000,
    queue: 100,
    failoverRetries: 0,
    renewMs: 50,
  });
  const open: CenterEvent = {
    type: "load.stats.set",
    body: { cluster: "c", request_id: "r", prompt_length: 7, ip: "10.0.0.1", port: 1, gateway: "g" },
  };
  client.start(["c"], { fresh() {}, loads() {}, saved() {}, reported() {}, asked() {} }, () => [open]);
  client.send("c", [open]);
  const prompt = () => (center.loads("c") ?? []).reduce((sum, { promptLength }) => sum + promptLength, 0);
  await until(() => prompt() === 7, "the center knows the request");
  const before = center.leaseNumber("g");
  clock.advance(10_000);
  center.expireLeases();
  assertEquals([prompt(), center.leaseNumber("g")], [0, undefined]);
  await until(() => prompt() === 7, "it is told anew");
  assertEquals(center.leaseNumber("g") !== before, true);
  await client.stop();
});
