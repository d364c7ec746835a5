// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { CHANGE, chat, post, sleep, startEngineProcess, startEngines, startTestGateway } from "../support/gateway.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { gate, until } from "../support/until.ts";

/** What a streaming client saw. */
async function streamOf(response: Response): Promise<"complete" | "error event" | "cut"> {
  try {
    const text = await response.text();
    if (!text.trimEnd().endsWith("data: [DONE]")) return "cut";
    return /^data: \{"error":/m.test(text) ? "error event" : "complete";
  } catch {
    return "cut";
  }
}

Deno.test("64 streams, one of 4 engines killed: unanswered requests move on, cut streams say so, counters return to 0", async () => {
  const engines = await Promise.all(Array.from({ length: 4 }, () => startEngineProcess()));
  // Some 25 retries come at once; how the system shares connections out may leave them all to one worker.
  await using gateway = await startTestGateway(engines, {
    retry_budget: { min_per_second: 100 },
    // The others are alive, however late they answer.
    probes: { timeout_ms: 10_000 },
  });
  const random = new Random(seed);
  const results = Array.from({ length: 64 }, async () => {
    await sleep(random.below(1_000));
    // A third of the prompts are long enough to be still in prefill when their engine dies.
    const content = `${random.next()} `.repeat(random.chance(0.3) ? 2_000 : 20);
    const response = await post(gateway.origin, chat(content, { stream: true, max_tokens: 60 }));
    return { status: response.status, engine: response.headers.get("x-mock-engine"), end: await streamOf(response) };
  });
  await sleep(700);
  const [victim, ...others] = engines;
  await victim.kill();
  const killed = `127.0.0.1:${victim.address.port}`;
  for (const { status, engine, end } of await Promise.all(results)) {
    assertEquals(status, 200);
    if (engine !== killed) assertEquals(end, "complete");
    else assert(end === "complete" || end === "error event", end);
  }
  await gateway.settled();
  let states: string[] = [];
  await until(async () => {
    states = (await gateway.endpoints()).map(({ port, state }) =>
      port === victim.address.port ? state : `other ${state}`
    );
    return `${states.sort()}` === "other available,other available,other available,unhealthy";
  }, () => `the killed engine alone is unhealthy, and the states are ${states}`);
  await Promise.all(others.map((engine) => engine.kill()));
});

Deno.test("an engine that died comes back when it answers its probe", async () => {
  const first = await startEngineProcess();
  const { port } = first.address;
  await using gateway = await startTestGateway([first], {
    probes: { health_interval_ms: 50, metrics_interval_ms: 50 },
  });
  const state = (wanted: string) =>
    until(async () => (await gateway.endpoints())[0].state === wanted, `the engine is ${wanted}`);
  await first.kill();
  await state("unhealthy");
  const ready = await fetch(`${gateway.admin}/readyz`);
  assertEquals([ready.status, await ready.text()], [503, "no endpoint is available\n"]);
  const refused = await post(gateway.origin, chat("x"));
  assertEquals([refused.status, (await refused.json()).error.code], [503, "no_endpoint"]);
  await using _again = await startEngineProcess(["--listen", `127.0.0.1:${port}`]);
  await state("available");
  const answered = await post(gateway.origin, chat("x"));
  assertEquals(answered.status, 200);
  await answered.text();
});

Deno.test("500 clients that leave at random moments leave nothing behind", async () => {
  await using engines = startEngines(4, { speed: 6 });
  await using gateway = await startTestGateway(engines);
  const random = new Random(seed);
  let left = 0;
  await Promise.all(Array.from({ length: 500 }, async (_, i) => {
    await sleep(random.below(1_500));
    const controller = new AbortController();
    const timer = setTimeout(() => {
      left++;
      controller.abort();
    }, random.below(400));
    try {
      const stream = random.chance(0.5);
      const body = chat(`${i} ${"word ".repeat(random.below(2_000))}`, { stream, max_tokens: 1 + random.below(60) });
      await (await post(gateway.origin, body, { signal: controller.signal })).text();
    } catch {
      // it left
    }
    clearTimeout(timer);
  }));
  assert(left > 100, `${left} left`);
  await gateway.settled();
  await until(() => engines.every(({ model }) => model.idle), "the engines are let go");
  assertEquals(engines.map(({ model }) => [model.waiting, model.running, model.cache.inUse]), Array(4).fill([0, 0, 0]));
});

/** What the admin address tells of the workers. */
async function workersOf(gateway: { admin: string }): Promise<{ state: string; restarts: number }[]> {
  const { workers } = await (await fetch(`${gateway.admin}/workers`)).json();
  return workers.map(({ state, restarts }: { state: string; restarts: number }) => ({ state, restarts }));
}

Deno.test("a worker that dies gives its load back and is replaced; the other serves on", async () => {
  const rest = gate();
  const events = ['data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "data: [DONE]\n\n"];
  const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
  const [one, two] = events.map((event) => `${event.length.toString(16)}\r\n${event}\r\n`);
  const engine = () =>
    startRawServer(() => ({
      writes: [bytes(head + one), bytes(`${two}0\r\n\r\n`)],
      before: (write) => write === 1 ? rest.opened : undefined,
      then: "keep",
    }));
  await using first = engine();
  await using second = engine();
  await using gateway = await startTestGateway([first, second], { probes: { enabled: false } });
  let cut = 0;
  const streams = Array.from({ length: 40 }, async () => {
    let end = "cut";
    try {
      end = await streamOf(await post(gateway.origin, chat("x", { stream: true })));
    } catch {
      // its worker died before it had the head
    }
    if (end === "cut") cut++;
    return end;
  });
  const load = async () => (await gateway.endpoints()).reduce((sum, { in_flight }) => sum + in_flight, 0);
  await until(async () => await load() === 40, "all 40 streams are counted");
  const restarted = await fetch(`${gateway.admin}/workers/1/restart?now`, CHANGE);
  assertEquals((await restarted.json()).restarting, true);
  await until(
    async () => (await workersOf(gateway)).every(({ state }) => state === "serving") && await load() === 40 - cut,
    "the worker is replaced, and its streams, which are cut, are counted no more",
  );
  assertEquals(await workersOf(gateway), [{ state: "serving", restarts: 1 }, { state: "serving", restarts: 0 }]);
  const left = await load();
  rest.open();
  const ends = await Promise.all(streams);
  assert(ends.every((end) => end === "complete" || end === "cut"), `${ends}`);
  assertEquals(ends.filter((end) => end === "complete").length, left, "what was counted came to its end");
  await gateway.settled();
  for (let i = 0; i < 20; i++) {
    const response = await post(gateway.origin, chat(`again ${i}`, { stream: true }));
    assertEquals([response.status, await streamOf(response)], [200, "complete"]);
  }
  await gateway.settled();
});

Deno.test("workers that are replaced again and again under load leave no load behind", async () => {
  await using engines = startEngines(2, { speed: 5 });
  await using gateway = await startTestGateway(engines);
  let running = true;
  let answered = 0;
  const clients = Array.from({ length: 32 }, async (_, i) => {
    while (running) {
      try {
        const response = await post(gateway.origin, chat(`${i} ${answered}`, { stream: i % 2 === 0, max_tokens: 6 }));
        await response.text();
        if (response.status === 200) answered++;
      } catch {
        await sleep(5);
      }
    }
  });
  for (let i = 0; i < 10; i++) {
    const before = answered;
    await until(() => answered >= before + 10, "requests are answered between two restarts");
    await (await fetch(`${gateway.admin}/workers/${1 + i % 2}/restart?now`, CHANGE)).text();
  }
  running = false;
  await Promise.all(clients);
  await gateway.settled();
});

Deno.test("a worker that is replaced cuts no stream and refuses no connection", async () => {
  await using engines = startEngines(2, { speed: 5 });
  await using gateway = await startTestGateway(engines);
  let running = true;
  const failed: string[] = [];
  let answered = 0;
  const clients = Array.from({ length: 16 }, async (_, i) => {
    while (running) {
      try {
        // On a connection of its own: one that is kept could be closed at any time.
        const response = await post(gateway.origin, chat(`${i} ${answered}`, { stream: i % 2 === 0, max_tokens: 20 }), {
          headers: { connection: "close" },
        });
        const text = await response.text();
        const whole = i % 2 === 0 ? text.endsWith("data: [DONE]\n\n") : text.endsWith("}");
        if (response.status !== 200 || !whole || text.includes('"error"')) failed.push(`${response.status} ${text}`);
        answered++;
      } catch (error) {
        failed.push(`${error} ${(error as Error).cause}`);
      }
    }
  });
  for (let i = 0; i < 6; i++) {
    const before = answered;
    await until(() => answered >= before + 20, "requests are answered between two replacements");
    await until(async () => {
      const response = await fetch(`${gateway.admin}/workers/${1 + i % 2}/restart`, CHANGE);
      await response.text();
      return response.status === 200; // not while those before it still finish
    }, "the worker is replaced");
  }
  running = false;
  await Promise.all(clients);
  // The runtime closes its listener with what waits in its backlog: that a connection in it is reset is the system's.
  const reset = failed.filter((text) => /connection (reset|closed)|SendRequest|broken pipe/i.test(text));
  assertEquals(failed.filter((text) => !reset.includes(text)), []);
  assert(reset.length <= 12, `${reset.length} of ${answered} were reset: ${reset[0]}`);
  assertEquals((await workersOf(gateway)).reduce((sum, { restarts }) => sum + restarts, 0), 6);
  await gateway.settled();
});

Deno.test("mock engine faults: status, delay, stall, error chunk, the first N, a share", async () => {
  await using engines = startEngines(1, { speed: 20 });
  await using gateway = await startTestGateway(engines, { retries: 0 });
  await using impatient = await startTestGateway(engines, { timeouts: { stream_idle_ms: 300 }, retries: 0 });
  const fault = (value: unknown) =>
    fetch(`http://127.0.0.1:${engines[0].address.port}/faults`, { method: "POST", body: JSON.stringify(value) });
  const once = async (more: Record<string, unknown> = {}, through = gateway) => {
    const response = await post(through.origin, chat("x", { max_tokens: 3, ...more }));
    return { status: response.status, text: await response.text() };
  };
  await (await fault({ kind: "status", status: 500, first: 2 })).text();
  assertEquals([(await once()).status, (await once()).status, (await once()).status], [500, 500, 200]);
  await (await fault({ kind: "stall", after_tokens: 1 })).text();
  const stalled = await once({ stream: true }, impatient);
  assert(stalled.text.includes('"code":"upstream_timeout"'), stalled.text);
  await (await fault({ kind: "cut", after_tokens: 1 })).text();
  assert((await once({ stream: true })).text.includes('"code":"upstream_failed"'));
  await (await fault({ kind: "error_chunk", after_tokens: 1 })).text();
  assert((await once({ stream: true })).text.includes("fault: error chunk"));
  await (await fault({ kind: "status", status: 429, share: 0.5 })).text();
  const statuses = await Promise.all(Array.from({ length: 60 }, async () => (await once()).status));
  assert(statuses.includes(429) && statuses.includes(200));
  const wrong = await fault({ kind: "explode" });
  assertEquals(wrong.status, 400);
  await wrong.text();
  await gateway.settled();
});

Deno.test("endpoints [dead, always 503, good] with default settings: at most the first three see an error", async () => {
  const answer = (status: number) => () => ({
    writes: [bytes(`HTTP/1.1 ${status} X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}`)],
    then: "keep" as const,
  });
  await using busy = startRawServer(answer(503));
  await using good = startRawServer(answer(200));
  const dead = { address: { hostname: "127.0.0.1", port: 1 } };
  // Probes would find the dead one out; the requests are to.
  await using gateway = await startTestGateway([dead, busy, good], { workers: 1, probes: { enabled: false } });
  const statuses: number[] = [];
  for (let i = 0; i < 60; i++) {
    const response = await post(gateway.origin, chat(`hello ${i}`));
    await response.body?.cancel();
    statuses.push(response.status);
  }
  const failed = statuses.flatMap((status, i) => status === 200 ? [] : [i]);
  assert(failed.every((i) => i < 3), `${statuses}`);
  await gateway.settled();
});
