// SPDX-License-Identifier: Apache-2.0
// Engines with several data-parallel ranks behind one address: each rank is an endpoint of its own.

import { assert, assertEquals } from "@std/assert";
import { sleep, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";

/** An engine that keeps which rank each request names, and tells metrics of two ranks. */
function rankedEngine() {
  const asked: string[] = [];
  const held = { ms: 0 };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/metrics") {
      const gauge = (rank: number, waiting: number) =>
        `vllm:num_requests_waiting{engine="${rank}",model_name="m"} ${waiting}\nvllm:num_requests_running{engine="${rank}"} 1\n`;
      return new Response(gauge(0, 3) + gauge(1, 7));
    }
    if (request.method === "GET") return new Response("ok");
    assertEquals(request.headers.get("host"), `127.0.0.1:${server.addr.port}`);
    asked.push(request.headers.get("x-data-parallel-rank") ?? "none");
    await request.text();
    await sleep(held.ms);
    const event = { id: "a", choices: [{ index: 0, delta: { content: "a" }, finish_reason: "stop" }] };
    return new Response(`data: ${JSON.stringify(event)}\n\ndata: [DONE]\n\n`, {
      headers: { "content-type": "text/event-stream" },
    });
  });
  const { hostname, port } = server.addr;
  return { address: { hostname, port }, asked, held, [Symbol.asyncDispose]: () => server.shutdown() };
}

const clusters = (engines: { address: { hostname: string; port: number } }[], ranks: number) => [{
  name: "c",
  endpoints: engines.map(({ address: { hostname, port } }) => ({ address: hostname, port })),
  data_parallel_ranks: ranks,
}];

/** Asks, and returns the endpoint that answered. */
async function ask(gateway: TestGateway, content: string, headers: Record<string, string> = {}): Promise<string> {
  const response = await fetch(`${gateway.origin}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content }] }),
  });
  assertEquals(response.status, 200);
  await response.text();
  return response.headers.get("x-aigw-endpoint")!;
}

Deno.test("ranks: each is an endpoint of its own, named to its engine, with its own metrics, and kept to", async () => {
  await using engine = rankedEngine();
  await using gateway = await startTestGateway([], {
    clusters: clusters([engine], 2),
    probes: { metrics_interval_ms: 20, metrics_budget_percent: 100 },
  });
  const { port } = engine.address;
  const names = [`127.0.0.1:${port}`, `127.0.0.1:${port}#1`];
  const view = async () =>
    await gateway.endpoints() as unknown as { endpoint: string; waiting: number; state: string }[];
  assertEquals((await view()).map(({ endpoint }) => endpoint).sort(), names);
  await until(async () => JSON.stringify((await view()).map(({ waiting }) => waiting)) === "[3,7]", "metrics of each");

  // Conversations stay on their rank, and both ranks have some; what a client says itself does not count.
  const ranks = new Map<string, Set<string>>();
  for (let turn = 0; turn < 3; turn++) {
    for (let one = 0; one < 6; one++) {
      const text = `${one} `.repeat(2_000) + "and so on. ".repeat(200 * turn);
      const name = await ask(gateway, text, { "X-Data-Parallel-Rank": "9" });
      assertEquals(engine.asked.pop(), name.endsWith("#1") ? "1" : "0");
      ranks.set(String(one), (ranks.get(String(one)) ?? new Set()).add(name));
    }
  }
  assert([...ranks.values()].every((its) => its.size === 1), JSON.stringify([...ranks].map(([, its]) => [...its])));
  assertEquals(new Set([...ranks.values()].flatMap((its) => [...its])).size, 2);

  // One rank, and the whole engine.
  const post = async (path: string) => {
    const headers = { "x-aigw-admin": "test" };
    const response = await fetch(`${gateway.admin}/endpoints/${path}`, { method: "POST", headers });
    assertEquals(response.status, 200, await response.text());
  };
  await post(`${encodeURIComponent(names[1])}/drain`);
  assertEquals((await view()).map(({ state }) => state), ["available", "draining"]);
  await post(`${names[0]}/drain`);
  assertEquals((await view()).map(({ state }) => state), ["draining", "draining"]);
});

Deno.test("ranks: gateways tell each other what each has", async () => {
  await using engine = rankedEngine();
  const ports = [0, 1].map(() => {
    using probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return (probe.addr as Deno.NetAddr).port;
  });
  const start = (own: number, other: number) =>
    startTestGateway([], {
      clusters: clusters([engine], 2),
      probes: { enabled: false },
      metadata_center: {
        listen: `127.0.0.1:${own}`,
        peers: [`127.0.0.1:${other}`],
        lease_ms: 600_000,
        stale_after_ms: 600_000,
      },
    });
  await using first = await start(ports[0], ports[1]);
  await using second = await start(ports[1], ports[0]);
  engine.held.ms = 1_500;
  const asking = [ask(first, "one"), ask(first, "two"), ask(first, "three")];
  const figures = async (gateway: TestGateway, key: "in_flight" | "remote_in_flight") =>
    (await gateway.endpoints() as unknown as Record<string, number>[]).map((one) => one[key]);
  await until(async () => {
    const own = await figures(first, "in_flight");
    const seen = await figures(second, "remote_in_flight");
    return own[0] + own[1] === 3 && own[0] > 0 && own[1] > 0 && JSON.stringify(own) === JSON.stringify(seen);
  }, "the second knows how many are on each rank");
  await Promise.all(asking);
  await first.settled();
});
