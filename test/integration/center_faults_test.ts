// SPDX-License-Identifier: Apache-2.0
// The network between gateways and center misbehaves, a gateway is killed, the center knows only the documented calls.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { startCenterProcess, startFaultProxy, startPlainCenter } from "../support/center.ts";
import { startRawServer } from "../support/raw_server.ts";
import { until } from "../support/until.ts";
import { chat, post, sleep, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";

async function remoteRequests(gateway: TestGateway): Promise<number> {
  const { endpoints } = await (await fetch(`${gateway.admin}/endpoints`)).json();
  return endpoints.reduce((sum: number, one: { remote_in_flight: number }) => sum + one.remote_in_flight, 0);
}

const eventually = (what: string, condition: () => Promise<boolean> | boolean) => until(condition, what);

/** Streams that stay open until `close`. */
async function hold(gateway: TestGateway, count: number): Promise<() => Promise<void>> {
  const responses = await Promise.all(
    Array.from({ length: count }, () => post(gateway.origin, chat("x", { stream: true, max_tokens: 20_000 }))),
  );
  const readers = responses.map((response) => response.body!.getReader());
  await Promise.all(readers.map((reader) => reader.read()));
  return async () => {
    await Promise.all(readers.map((reader) => reader.cancel()));
  };
}

Deno.test("a fault proxy between one gateway and the center: delay, cut, half-open; requests are answered, figures heal", async () => {
  await using engines = startEngines(2);
  await using center = await startCenterProcess();
  await using proxy = startFaultProxy(center.port);
  const times = { stale_after_ms: 300, fade_ms: 300 };
  await using a = await startTestGateway(engines, {
    metadata_center: { host: "127.0.0.1", port: proxy.port, ...times },
  });
  await using b = await startTestGateway(engines, {
    metadata_center: { host: "127.0.0.1", port: center.port, ...times },
  });
  const release = await hold(b, 6);
  await eventually("a sees b", async () => await remoteRequests(a) === 6);
  for (const mode of ["delay", "cut", "hang"] as const) {
    proxy.mode = mode;
    for (let i = 0; i < 10; i++) {
      const response = await post(a.origin, chat("x", { max_tokens: 1 }));
      assertEquals(response.status, 200);
      await response.text();
    }
    if (mode !== "delay") {
      await eventually(
        `the remote part fades when the network does ${mode}`,
        async () => await remoteRequests(a) === 0,
      );
    }
    proxy.mode = "pass";
    await eventually(`a sees b again after ${mode}`, async () => await remoteRequests(a) === 6);
  }
  const releaseA = await hold(a, 3);
  await eventually("b sees a", async () => await remoteRequests(b) === 3);
  // What a cannot report while it is cut off is repaired when it is back.
  proxy.mode = "cut";
  await releaseA();
  await a.settled();
  proxy.mode = "pass";
  await eventually("b sees that a's requests are over", async () => await remoteRequests(b) === 0);
  await release();
  await eventually("a sees that b's requests are over", async () => await remoteRequests(a) === 0);
});

Deno.test("a gateway that is killed takes its load along within its lease", async () => {
  await using engines = startEngines(2);
  await using center = await startCenterProcess("metadata_center: {lease_ms: 1000}");
  await using survivor = await startTestGateway(engines, {
    metadata_center: { host: "127.0.0.1", port: center.port, stale_after_ms: 600_000 },
  });
  const file = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(
    file,
    JSON.stringify({
      listen: "127.0.0.1:0",
      admin: { listen: "127.0.0.1:0" },
      metadata_center: { host: "127.0.0.1", port: center.port },
      clusters: [{
        name: "c",
        endpoints: engines.map(({ address }) => ({ address: address.hostname, port: address.port })),
      }],
      model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
    }),
  );
  const root = new URL("../../", import.meta.url).pathname;
  const victim = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-net",
      "--allow-read",
      "--allow-env",
      "--allow-sys=hostname,networkInterfaces",
      `${root}src/main.ts`,
      "serve",
      "--config",
      file,
    ],
    cwd: root,
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = victim.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let printed = "";
  while (!printed.includes("curl ")) printed += (await reader.read()).value ?? "";
  const origin = /serves on (http:\/\/[^/]+)/.exec(printed)![1];
  const streams = await Promise.all(
    Array.from({ length: 5 }, () => post(origin, chat("x", { stream: true, max_tokens: 20_000 }))),
  );
  await eventually("the survivor sees the victim's load", async () => await remoteRequests(survivor) === 5);
  victim.kill("SIGKILL");
  await victim.status;
  await until(async () => await remoteRequests(survivor) === 0, "its load is gone");
  for (const stream of streams) await stream.body!.cancel().catch(() => {});
  await reader.cancel();
  await Deno.remove(file);
});

Deno.test("a center that knows only the documented calls: load goes out, comes in by polling, own load is not counted twice", async () => {
  await using engines = startEngines(1);
  await using plain = startPlainCenter();
  const remote = { metadata_center: { host: "127.0.0.1", port: plain.port } };
  await using a = await startTestGateway(engines, remote);
  await using b = await startTestGateway(engines, remote);
  const release = await hold(a, 4);
  await eventually("the center knows", () => plain.loads.get("127.0.0.1")?.queued === 4);
  await eventually(
    "b sees a, and a does not see itself",
    async () => await remoteRequests(b) === 4 && await remoteRequests(a) === 0,
  );
  await release();
  await eventually(
    "all is over",
    async () => await remoteRequests(b) === 0 && plain.loads.get("127.0.0.1")?.queued === 0,
  );
  assertEquals(plain.loads.get("127.0.0.1"), { queued: 0, prompt: 0 });
  const metrics = await (await fetch(`${a.admin}/metrics`)).text();
  for (const labels of ['method="POST",path="/v1/load/stats"', 'method="GET",path="/v1/load/stats"']) {
    const own = `{center="127.0.0.1:${plain.port}",${labels}`;
    assertStringIncludes(metrics, `aigw_metadata_center_call_seconds_count${own}}`);
    assertStringIncludes(metrics, `aigw_metadata_center_call_seconds_bucket${own},le="0.2048"}`);
  }
});

Deno.test("a center of that kind that began anew, or was away, has right figures again, and no phantom", async () => {
  await using engines = startEngines(1);
  await using plain = startPlainCenter();
  const remote = { metadata_center: { host: "127.0.0.1", port: plain.port, endpoint_cooldown_ms: 100 } };
  await using a = await startTestGateway(engines, remote);
  await using b = await startTestGateway(engines, remote);
  const queued = () => plain.loads.get("127.0.0.1")?.queued ?? 0;
  const [ofA, ofB] = [await hold(a, 4), await hold(b, 3)];
  const agreed = (seenByA: number, seenByB: number) =>
    eventually(
      `a sees ${seenByA} and b ${seenByB}`,
      async () =>
        queued() === seenByA + seenByB && await remoteRequests(a) === seenByA && await remoteRequests(b) === seenByB,
    );
  await agreed(3, 4);
  plain.forget();
  await agreed(3, 4);
  plain.away = true;
  await ofA();
  await until(async () => (await a.endpoints())[0].in_flight === 0, "a has nothing in flight");
  await sleep(200);
  assertEquals(queued(), 7);
  plain.away = false;
  await agreed(3, 0);
  await ofB();
  await agreed(0, 0);
  assertEquals(plain.loads.get("127.0.0.1"), { queued: 0, prompt: 0 });
});

Deno.test("a center that takes everything and never answers holds up no request, nor the gateway's start", async () => {
  await using engines = startEngines(1, { speed: 50 });
  await using silent = startRawServer(() => ({ writes: [], then: "hang" }));
  const never = { update_stats_timeout_ms: 600_000, fetch_metric_timeout_ms: 600_000 };
  await using gateway = await startTestGateway(engines, {
    metadata_center: { host: "127.0.0.1", port: silent.address.port, ...never },
  });
  let answered = 0;
  const asked = Array.from({ length: 10 }, async () => {
    const response = await post(gateway.origin, chat("x", { max_tokens: 1 }));
    await response.text();
    if (response.status === 200) answered++;
  });
  await until(() => answered === 10, () => `10 requests are answered, not ${answered}`);
  await Promise.all(asked);
  await until(() => silent.requests.length > 0, "the center was asked");
});
