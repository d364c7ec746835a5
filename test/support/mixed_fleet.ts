// SPDX-License-Identifier: Apache-2.0
// A fleet of gateways on one metadata center, some of ours and some that behave as Go's do, before engines that hold every
// request until the end. What is looked at is where they send them.

import { heldEngine } from "./held_engine.ts";
import { post, startTestGateway, type TestGateway } from "./gateway.ts";
import { GoGateway } from "./go_gateway.ts";
import type { Random } from "./seed.ts";
import { gate, until } from "./until.ts";

export interface MixedFleetOptions {
  readonly centerPort: number;
  readonly ours: number;
  readonly go: number;
  readonly engines: number;
  /** Requests that each gateway sends at once, before any hears of the others' in this round. */
  readonly burst: number;
  readonly rounds: number;
  readonly random: Random;
}

// What is told is told in time, however busy the machine.
const PATIENT = { stale_after_ms: 600_000, update_stats_timeout_ms: 10_000, fetch_metric_timeout_ms: 10_000 };

/** Sends requests by all gateways; returns how many each engine got. */
export async function spreadOf(options: MixedFleetOptions): Promise<number[]> {
  const { centerPort: port, ours, go, engines: count, burst, rounds, random } = options;
  const end = gate();
  await using stack = new AsyncDisposableStack();
  // Engines of their own addresses: Go tells them apart by these alone.
  const engines = Array.from({ length: count }, (_, i) => stack.use(heldEngine(() => end.opened, `127.0.0.${i + 2}`)));
  const ips = engines.map(({ address: { hostname } }) => hostname);
  const fleet: TestGateway[] = [];
  for (let i = 0; i < ours; i++) {
    const metadata_center = { host: "127.0.0.1", port, ...PATIENT };
    fleet.push(stack.use(await startTestGateway(engines, { probes: { enabled: false }, workers: 1, metadata_center })));
  }
  const others = Array.from({ length: go }, () => new GoGateway(`http://127.0.0.1:${port}`, "c"));
  const placed: number[] = Array(count).fill(0);
  const streams: Response[] = [];
  const ids: string[] = [];
  const messages = () => [{ role: "user", content: Array.from({ length: 40 }, () => random.below(1e9)).join(" ") }];

  const byOurs = async ({ origin }: TestGateway) => {
    const response = await post(origin, JSON.stringify({ model: "m", messages: messages(), stream: true }));
    streams.push(response);
    placed[ips.indexOf(response.headers.get("x-aigw-endpoint")!.split(":")[0])]++;
  };
  const byGo = async (gateway: GoGateway) => {
    const [asked, id] = [messages(), `go-${port}-${ids.length}`];
    ids.push(id);
    const ip = await gateway.choose(asked, ips);
    await gateway.begin(id, ip, 400);
    await gateway.firstToken(id);
    placed[ips.indexOf(ip)]++;
  };
  // The center has heard of all, and each of ours knows of the others' requests as well as its own.
  const known = (requests: number) =>
    until(async () => {
      const reader = new GoGateway(`http://127.0.0.1:${port}`, "c");
      const loads = [...(await reader.load()).values()];
      const sum = loads.reduce((total, one) => total + one.requests, 0);
      if (sum !== requests || loads.some(({ promptBytes }) => promptBytes !== 0)) return false;
      const seen = await Promise.all(fleet.map(async (gateway) => {
        const { endpoints } = await (await fetch(`${gateway.admin}/endpoints`)).json();
        type Row = { in_flight: number; remote_in_flight: number; prompt_bytes: number; remote_prompt_bytes: number };
        const rows: Row[] = endpoints;
        if (rows.some((row) => row.prompt_bytes + row.remote_prompt_bytes > 0)) return -1;
        return rows.reduce((total, row) => total + row.in_flight + row.remote_in_flight, 0);
      }));
      return seen.every((total) => total === requests);
    }, `all know of ${requests} requests`);

  let sent = 0;
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < (burst === 1 ? ours + go : 1); turn++) {
      // One at a time every gateway knows all before it; in bursts all decide on what they knew.
      const senders = burst === 1 ? [turn] : Array.from({ length: (ours + go) * burst }, (_, i) => i % (ours + go));
      await Promise.all(senders.map((i) => i < ours ? byOurs(fleet[i]) : byGo(others[i - ours])));
      sent += senders.length;
      await known(sent);
    }
  }
  end.open();
  for (const stream of streams) await stream.text();
  for (const id of ids) await others[0].end(id);
  await known(0);
  return placed;
}

/** The largest part over the mean one. */
export function unevenness(placed: readonly number[]): number {
  return Math.max(...placed) * placed.length / placed.reduce((sum, one) => sum + one, 0);
}
