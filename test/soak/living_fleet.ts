// SPDX-License-Identifier: Apache-2.0
// A fleet and a configuration that change all the time, under load: `deno task soak:fleet`. Every request has to be answered
// whole, every counter has to be 0 after, rows have to stay bounded, and nobody's figures may come under another's name.

import { helpOf } from "../support/task_help.ts";
import { assert, assertEquals } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Config } from "../../src/config/schema.ts";
import type { ConfigSource } from "../../src/control/reloader.ts";
import type { MockEngine } from "../../src/mock/server.ts";
import { startGateway } from "../../src/server/gateway_process.ts";
import { startDnsServer } from "../support/dns_server.ts";
import { CHANGE, chat, post, sleep, startEngines } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { sha256 } from "../support/sha256.ts";

export interface SoakOptions {
  /** What changes: everything by reloads, the clusters file, or the answers of a DNS server. */
  readonly by: "reload" | "file" | "dns";
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly changes: number;
  readonly log?: (line: string) => void;
}

export interface SoakResult {
  readonly requests: number;
  readonly changes: number;
  readonly failed: string[];
  /** Rows at the end and at most, by what they are of. */
  readonly rows: Record<string, number>;
  readonly maxRows: Record<string, number>;
  readonly rssMiB: number;
}

const ENGINES = 8;
/** A model or a tenant that comes lives for so many changes. */
const LIFE = 4;

const key = (tenant: string) => `key of ${tenant}`;

export async function soakLivingFleet(options: SoakOptions): Promise<SoakResult> {
  const random = new Random(seed);
  await using engines = startEngines(ENGINES, { speed: 200 });
  await using dns = startDnsServer();
  const file = await Deno.makeTempFile({ suffix: ".json" });
  const state = new FleetState(engines, random, options.by, file, dns);
  await state.next(0);
  const source: ConfigSource = {
    name: "the test's",
    load: () => state.config(),
    files: () => [],
  };
  const gateway = await startGateway(await state.config(), { source });
  const origin = `http://${formatAddress(gateway.listen)}`;
  const admin = `http://${formatAddress(gateway.admin)}`;
  const failed: string[] = [];
  const pending = new Set<Promise<void>>();
  let requests = 0;
  const send = (body: string, tenant: string): Promise<void> => {
    requests++;
    const sent = whole(origin, body, tenant).then((problem) => {
      if (problem !== undefined) failed.push(problem);
      pending.delete(sent);
    });
    pending.add(sent);
    return sent;
  };
  const maxRows: Record<string, number> = {};
  const began = performance.now();
  const end = began + options.seconds * 1_000;
  const loading = (async () => {
    for (let i = 0; performance.now() < end; i++) {
      const due = began + i * 1_000 / options.requestsPerSecond;
      if (due > performance.now()) await sleep(due - performance.now());
      send(
        chat(`question ${random.below(50)} ${"word ".repeat(random.below(300))}`, {
          stream: i % 2 === 0,
          max_tokens: 1 + random.below(40),
        }),
        "stays",
      );
    }
  })();
  for (let change = 1; change <= options.changes; change++) {
    const due = began + change * options.seconds * 1_000 / options.changes;
    if (due > performance.now()) await sleep(due - performance.now());
    await state.next(change);
    if (options.by === "reload") {
      const { result, error } = await (await fetch(`${admin}/config/reload`, CHANGE)).json();
      if (result !== "applied") failed.push(`change ${change}: ${result}: ${error}`);
      await visit(state, send, admin, origin, failed);
    }
    for (const [of, count] of Object.entries(await rowsIn(admin))) maxRows[of] = Math.max(maxRows[of] ?? 0, count);
  }
  await loading;
  await Promise.all(pending);
  await settled(admin);
  const metrics = await metricsOf(admin);
  assertEquals(answered(metrics), state.sent.get("m")! + requests);
  const rssMiB = Math.round(Deno.memoryUsage().rss / 2 ** 20);
  const rows = await rowsIn(admin);
  assertEquals(await gateway.stop(5_000), 0, "nothing is cut at the end");
  await Deno.remove(file);
  options.log?.(
    `${options.by}: ${requests} requests, ${options.changes} changes, ${failed.length} failed, ${rssMiB} MiB, ` +
      `rows at most ${JSON.stringify(maxRows)}, in the end ${JSON.stringify(rows)}`,
  );
  return { requests, changes: options.changes, failed, rows, maxRows, rssMiB };
}

// A model and a tenant in the middle of their lives are used, and their figures are theirs alone.
async function visit(
  state: FleetState,
  send: (body: string, tenant: string) => Promise<void>,
  admin: string,
  origin: string,
  failed: string[],
): Promise<void> {
  const { model, tenant } = state.visited;
  if (model === undefined || tenant === undefined) return;
  const before = await metricsOf(admin);
  if (answered(before, model) !== 0) failed.push(`${model} has ${answered(before, model)} requests before its first`);
  for (let i = 0; i < 3; i++) {
    state.visits++;
    await send(chat("hi", { model, max_tokens: 2, stream: i === 1 }), tenant);
  }
  const response = await post(origin, chat("hi", { model: "m", max_tokens: 1 }), {
    headers: { authorization: `Bearer ${key(tenant)}` },
  });
  await response.body?.cancel();
  state.sent.set("m", state.sent.get("m")! + 1);
  const left = response.headers.get("x-ratelimit-remaining-requests");
  if (left !== "996") failed.push(`${tenant} has ${left} of 1000 requests left after 4`);
  const after = answered(await metricsOf(admin), model);
  if (after !== 3) failed.push(`${model} has ${after} requests after 3`);
}

/** The configuration of the moment, and the engines in it. */
class FleetState {
  readonly sent = new Map([["m", 0]]);
  visits = 0;
  /** Comes with each change; used in the middle of its life. */
  visited: { model?: string; tenant?: string } = {};
  #members: MockEngine[] = [];
  #change = 0;

  constructor(
    readonly engines: readonly MockEngine[],
    readonly random: Random,
    readonly by: SoakOptions["by"],
    readonly file: string,
    readonly dns: ReturnType<typeof startDnsServer>,
  ) {}

  async next(change: number): Promise<void> {
    this.#change = change;
    const { random } = this;
    // At least three, so that a request that has to move finds another one.
    this.#members = this.engines.filter(() => random.chance(0.6));
    for (const engine of this.engines) {
      if (this.#members.length < 3 && !this.#members.includes(engine)) this.#members.push(engine);
    }
    const middle = change - LIFE / 2;
    this.visited = middle > 0 ? { model: `m${middle}`, tenant: `t${middle}` } : {};
    const clusters = [{ name: "c", endpoints: this.#endpoints() }];
    await Deno.writeTextFile(`${this.file}.new`, JSON.stringify({ clusters }));
    await Deno.rename(`${this.file}.new`, this.file);
    this.dns.records = {
      SRV: { "_http.c.test": this.#members.map(({ address: { port } }) => ({ target: "host.test", port })) },
      A: { "host.test": ["127.0.0.1"] },
    };
  }

  #endpoints() {
    return this.#members.map(({ address: { hostname, port } }) => ({
      address: hostname,
      port,
      labels: { shade: this.random.pick(["light", "dark"]), all: "yes" },
    }));
  }

  async config(): Promise<Config> {
    const { random } = this;
    const living = Array.from({ length: LIFE }, (_, i) => this.#change - i).filter((born) => born > 0);
    const models = Object.fromEntries(living.map((born) => [`m${born}`, {
      rules: [{ backend: "vllm", cluster: "c" }],
    }]));
    const tenants = await Promise.all(["stays", ...living.map((born) => `t${born}`)].map(async (name) => ({
      name,
      keys_sha256: [await sha256(key(name))],
      weight: 1 + random.below(5),
      limits: name === "stays" ? {} : { requests_per_minute: 1_000 },
    })));
    const source = this.by === "file" ? { clusters_file: this.file } : this.by === "dns"
      ? {
        clusters: [{
          name: "c",
          dns: [{ name: "_http.c.test", type: "SRV", interval_ms: 50, server: this.dns.address }],
        }],
      }
      : { clusters: [{ name: "c", endpoints: this.#endpoints() }] };
    const config = parseConfig({
      listen: "127.0.0.1:0",
      admin: { listen: "127.0.0.1:0" },
      metadata_center: { listen: "127.0.0.1:0" },
      workers: 2,
      log: { level: "error", enabled: false },
      limits: { endpoints: 64, models: 16, tenants: 24, clusters: 4, prefixes: 16_384 },
      timeouts: { drain_ms: 2_000 },
      reload: { interval_ms: 50 },
      probes: { metrics_interval_ms: 100 },
      queue: { slack_ms: random.below(500), charge: random.below(4) },
      retries: 1 + random.below(2),
      ...(this.by === "file" ? {} : source),
      model_mapping_rule: {
        m: {
          rules: [
            { backend: "vllm", cluster: "c" },
            {
              backend: "vllm",
              cluster: "c",
              headers: [{ key: "x-shade", value: "dark" }],
              subset: [{ labels: { shade: random.pick(["light", "dark"]) }, weight: 1 + random.below(9) }],
            },
          ],
        },
        ...models,
      },
      ...(this.by === "file" ? { clusters: [{ name: "c" }] } : {}),
      tenants,
    });
    if (this.by === "file") {
      config.clusters_file = this.file;
      config.clusters[0].from_file = true;
    }
    return config;
  }
}

/** What is wrong with an answer; undefined when it came whole. */
async function whole(origin: string, body: string, tenant: string): Promise<string | undefined> {
  try {
    const response = await post(origin, body, { headers: { authorization: `Bearer ${key(tenant)}` } });
    const text = await response.text();
    if (response.status !== 200) return `${response.status}: ${text.slice(0, 300)}`;
    const stream = response.headers.get("content-type")!.startsWith("text/event-stream");
    if (stream && (!text.endsWith("data: [DONE]\n\n") || text.includes('"error"'))) return `cut: ${text.slice(-300)}`;
    if (!stream && JSON.parse(text).choices[0].message.content === "") return "an empty answer";
  } catch (error) {
    return String(error);
  }
}

async function metricsOf(admin: string): Promise<Map<string, number>> {
  const text = await (await fetch(`${admin}/metrics`)).text();
  return new Map(
    text.split("\n").map((line) => {
      const at = line.lastIndexOf(" ");
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

/** Requests of a model that were answered; of any when it is not named, those of tenants that have gone too. */
function answered(metrics: ReadonlyMap<string, number>, model?: string): number {
  let sum = 0;
  for (const [series, value] of metrics) {
    if (!series.startsWith("aigw_requests_total{") || !series.includes('outcome="ok"')) continue;
    if (model === undefined || series.includes(`{model="${model}",`)) sum += value;
  }
  return sum;
}

async function rowsIn(admin: string): Promise<Record<string, number>> {
  const rows: Record<string, number> = {};
  for (const [series, value] of await metricsOf(admin)) {
    const of = /^aigw_table_rows\{table="(clusters|models|tenants|endpoints)"/.exec(series)?.[1];
    if (of !== undefined) rows[of] = (rows[of] ?? 0) + value;
  }
  return rows;
}

async function settled(admin: string): Promise<void> {
  for (let i = 0; i < 400; i++) {
    const { endpoints } = await (await fetch(`${admin}/endpoints`)).json();
    const busy = endpoints.filter((one: { in_flight: number; prompt_bytes: number }) =>
      one.in_flight !== 0 || one.prompt_bytes !== 0
    );
    if (busy.length === 0) return;
    await sleep(25);
  }
  throw new Error("load was left behind");
}

if (import.meta.main) {
  helpOf(
    "Usage: deno task soak:fleet [SECONDS (60)] [CHANGES (200)]\n\nOf each of three ways in which a fleet changes.",
  );
  const [seconds, changes] = [Number(Deno.args[0] ?? 60), Number(Deno.args[1] ?? 200)];
  for (const by of ["reload", "file", "dns"] as const) {
    const { failed } = await soakLivingFleet({ by, seconds, requestsPerSecond: 300, changes, log: console.log });
    assert(failed.length === 0, failed.slice(0, 10).join("\n"));
  }
}
