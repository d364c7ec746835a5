// SPDX-License-Identifier: Apache-2.0
// `deno task soak:center`: the metadata center of two gateways is killed, paused, or replaced by one of the other kind, again
// and again under load. After each return the gateways must see each other's requests, no more and no less, and no breaker
// may stay open. AIGW_SOAK_ROUNDS says how often (100).

import { helpOf } from "../support/task_help.ts";
import { startCenterProcess, startPlainCenter } from "../support/center.ts";
import { startMockEngine } from "../../src/mock/server.ts";
import { chat, post, sleep, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";

helpOf(`Usage: deno task soak:center

A metadata center that is killed, paused and replaced under load; AIGW_SOAK_ROUNDS says how often (100).`);

const ROUNDS = Number(Deno.env.get("AIGW_SOAK_ROUNDS") ?? 100);
/** Figures are to be right this long after the center's return, and breakers closed. */
const RIGHT_MS = 2_000;
const CLOSED_MS = 5_000;
/** A round that takes longer has failed. */
const MOST_MS = 60_000;

interface Center {
  readonly kind: "ours" | "plain";
  readonly port: number;
  /** Holds it up for so long. */
  pause(ms: number): Promise<void>;
  end(): Promise<void>;
}

async function start(kind: Center["kind"], port: number): Promise<Center> {
  if (kind === "ours") {
    const center = await startCenterProcess("", port);
    return {
      kind,
      port: center.port,
      async pause(ms) {
        center.signal("SIGSTOP");
        await sleep(ms);
        center.signal("SIGCONT");
      },
      end: () => center.kill(),
    };
  }
  const center = startPlainCenter(port);
  return {
    kind,
    port: center.port,
    async pause(ms) {
      center.away = true;
      await sleep(ms);
      center.away = false;
    },
    end: async () => await center[Symbol.asyncDispose](),
  };
}

const random = new Random(seed);
// Addresses of their own: a center of the documented calls knows engines by these alone.
const engines = [2, 3, 4, 5].map((last) =>
  startMockEngine({ address: { hostname: `127.0.0.${last}`, port: 0 }, speed: 2 })
);
let center = await start("ours", 0);
const metadata_center = { host: "127.0.0.1", port: center.port, stale_after_ms: 600_000, endpoint_cooldown_ms: 500 };
const gateways = await Promise.all([0, 1].map(() => startTestGateway(engines, { metadata_center })));

let running = true;
let failed = 0;
let answered = 0;
const clients = Array.from({ length: 16 }, async (_, i) => {
  while (running) {
    const body = chat(`${random.below(1_000)} ${"word ".repeat(random.below(50))}`, { stream: true, max_tokens: 30 });
    const response = await post(gateways[i % 2].origin, body);
    await response.text();
    if (response.status === 200) answered++;
    else failed++;
  }
});

interface View {
  /** Requests in flight at each engine: those of the gateway, and those that it knows of from others. */
  readonly own: string;
  readonly remote: string;
  readonly ownTotal: number;
  readonly state: string;
}

async function view({ admin }: TestGateway): Promise<View> {
  const { endpoints, metadata_center } = await (await fetch(`${admin}/endpoints`)).json();
  type Row = { in_flight: number; remote_in_flight: number };
  return {
    own: endpoints.map((one: Row) => one.in_flight).join(" "),
    remote: endpoints.map((one: Row) => one.remote_in_flight).join(" "),
    ownTotal: endpoints.reduce((sum: number, one: Row) => sum + one.in_flight, 0),
    state: metadata_center.centers[0].state,
  };
}

/** Ms until `right` is; throws after MOST_MS. */
async function timeUntil(what: string, right: (views: View[]) => boolean): Promise<number> {
  const began = performance.now();
  for (;;) {
    const views = await Promise.all(gateways.map(view));
    const ms = performance.now() - began;
    if (right(views)) return ms;
    if (ms > MOST_MS) throw new Error(`${what}: not after ${MOST_MS} ms, ${JSON.stringify(views)}`);
    await sleep(20);
  }
}

const agreed: number[] = [];
const closed: number[] = [];
const done: Record<string, number> = {};
for (let round = 0; round < ROUNDS; round++) {
  const action = random.pick(["kill", "pause", "replace"] as const);
  done[`${action} ${center.kind}`] = (done[`${action} ${center.kind}`] ?? 0) + 1;
  const before = center.kind;
  const ms = 100 + random.below(1_500);
  if (action === "pause") await center.pause(ms);
  else {
    const { kind, port } = center;
    await center.end();
    await sleep(ms);
    center = await start(action === "kill" ? kind : kind === "ours" ? "plain" : "ours", port);
  }
  // The engines stand still, so that there is a truth to compare with.
  for (const engine of engines) engine.pause();
  agreed.push(
    await timeUntil(
      `round ${round}, ${action}: each sees the other's load`,
      ([a, b]) => a.ownTotal === 8 && b.ownTotal === 8 && a.remote === b.own && b.remote === a.own,
    ),
  );
  if (agreed.at(-1)! > RIGHT_MS) {
    console.log(`round ${round}, ${action} ${before} for ${ms} ms: right after ${agreed.at(-1)!.toFixed(0)} ms`);
  }
  closed.push(
    await timeUntil(
      `round ${round}, ${action}: the breakers are closed`,
      (views) => views.every(({ state }) => state === "available"),
    ),
  );
  for (const engine of engines) engine.resume();
  await sleep(random.below(200));
}
running = false;
await Promise.all(clients);
for (const gateway of gateways) await gateway.settled();
const left = await timeUntil("no phantom is left", (views) => views.every(({ remote }) => remote === "0 0 0 0"));

const at = (values: number[], share: number) => values.toSorted((a, b) => a - b)[Math.floor(values.length * share)];
const report = (values: number[]) =>
  `median ${at(values, 0.5).toFixed(0)} ms, p95 ${at(values, 0.95).toFixed(0)} ms, most ${
    Math.max(...values).toFixed(0)
  } ms`;
console.log(`${ROUNDS} rounds: ${JSON.stringify(done)}; ${answered} requests answered, ${failed} failed`);
console.log(
  `figures right: ${report(agreed)}, later than ${RIGHT_MS} ms ${agreed.filter((ms) => ms > RIGHT_MS).length} times`,
);
console.log(
  `breakers closed after that: ${report(closed)}, later than ${CLOSED_MS} ms ${
    closed.filter((ms) => ms > CLOSED_MS).length
  } times; no phantom ${left.toFixed(0)} ms after the last request`,
);
for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
await center.end();
for (const engine of engines) await engine.stop();
Deno.exit(failed === 0 ? 0 : 1);
