// SPDX-License-Identifier: Apache-2.0
// The client of a remote center. Changes leave in batches, in order, from a bounded queue for each cluster; the figures
// of the others come by the watch stream, or by polling a center that has none.
//
// Repair: a delivery that failed, a queue that overflowed, or a center that has forgotten us (its epoch changed) makes the
// next success begin anew: the center drops all that it holds of this gateway and is told every open request.

import { ServerSentEventParseStream } from "@std/http/server-sent-event-parse-stream";
import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import { TimeLimit } from "../base/time_limit.ts";
import { CallCounter, type CallStats } from "./call_stats.ts";
import { sentNow } from "./engine_report.ts";
import type { EngineLoad } from "./engine_load.ts";
import { DirectFetch } from "./direct_fetch.ts";
import type { Host, HostList } from "./hosts.ts";
import type { CenterLink, LinkListener } from "./link.ts";
import { type Asks, type CenterRequest, PlainLedger } from "./plain_ledger.ts";
import type { CenterEvent } from "./server.ts";
import { addressOf, parseExact, printExact, readEngineReport } from "./wire.ts";

export interface ClientOptions {
  gateway: string;
  /** Polling interval for centers without a watch stream; jittered by a quarter either way. */
  syncIntervalMs: number;
  /** Changes are sent together after this long. */
  coalesceMs: number;
  updateTimeoutMs: number;
  fetchTimeoutMs: number;
  /** A watch stream that is silent for this long is dead; the center pings every second. */
  watchSilenceMs: number;
  queue: number;
  failoverRetries: number;
  renewMs: number;
}

/** Cache saves that wait for a center that is away. */
const MAX_KEPT_SAVES = 1_000;
const MAX_STOP_MS = 1_000;
/** How long a center that lacks a call is taken for one of the documented kind. */
const PLAIN_MS = 30_000;
/** Pause between two attempts to reach a center that is away. */
const RECONNECT_MS = 300;

/** What a center says of a batch. */
interface BatchAnswer {
  epoch?: string;
  lease?: number;
  rejected?: unknown[];
}

interface ClusterState {
  queue: CenterEvent[];
  sending: boolean;
  repair: boolean;
  /** What a center of the documented kind knows of it. */
  readonly ledger: PlainLedger;
  /** Number of its last batch. */
  sequence: number;
  epoch: string | undefined;
  /** Ends its watching. */
  readonly abort: AbortController;
}

export class CenterClient implements CenterLink {
  readonly #clusters = new Map<string, ClusterState>();
  /** Centers that know only the documented calls, and until when that is believed: an address may get another kind. */
  readonly #plainUntil = new Map<string, number>();
  readonly #abort = new AbortController();
  #listener: LinkListener | undefined;
  #open: (cluster: string) => CenterEvent[] = () => [];
  #timers: ReturnType<typeof setInterval>[] = [];
  #flushTimer: ReturnType<typeof setTimeout> | undefined;
  readonly #tasks = new Set<Promise<void>>();
  readonly #direct: DirectFetch;
  /** Numbers of our leases at the centers. */
  readonly #leases = new Map<string, number>();
  readonly #calls = new CallCounter();
  #following = false;
  dropped = 0;

  /** @param direct Reaches the centers. */
  constructor(
    readonly clock: Clock,
    readonly hosts: HostList,
    readonly options: ClientOptions,
    direct: DirectFetch = new DirectFetch(),
  ) {
    this.#direct = direct;
  }

  start(clusters: readonly string[], listener: LinkListener, open: (cluster: string) => CenterEvent[]): void {
    this.#listener = listener;
    this.#open = open;
    this.setClusters(clusters);
    this.#timers.push(setInterval(() => {
      for (const cluster of this.#clusters.keys()) {
        this.send(cluster, [{ type: "lease.renew", body: { gateway: this.options.gateway } }]);
      }
    }, this.options.renewMs));
    this.#run(
      this.hosts.start().then(() => {
        this.#following = true;
        for (const [cluster, { abort }] of this.#clusters) this.#run(this.#follow(cluster, abort.signal));
      }),
    );
  }

  setClusters(clusters: readonly string[]): void {
    for (const [cluster, { abort }] of this.#clusters) {
      if (clusters.includes(cluster)) continue;
      abort.abort();
      this.#clusters.delete(cluster);
    }
    for (const cluster of clusters) {
      if (this.#clusters.has(cluster)) continue;
      const abort = new AbortController();
      this.#clusters.set(cluster, {
        queue: [],
        sending: false,
        repair: false,
        ledger: new PlainLedger(),
        sequence: 0,
        epoch: undefined,
        abort,
      });
      if (this.#following) this.#run(this.#follow(cluster, abort.signal));
    }
  }

  #run(task: Promise<void>): void {
    this.#tasks.add(task);
    task.finally(() => this.#tasks.delete(task));
  }

  send(cluster: string, events: CenterEvent[]): void {
    const state = this.#clusters.get(cluster);
    if (!state) return;
    for (const event of events) {
      if (state.queue.length >= this.options.queue) {
        this.dropped++;
        state.repair = true;
      } else state.queue.push(event);
    }
    this.#flushTimer ??= setTimeout(() => this.#flush(), this.options.coalesceMs);
  }

  #flush(): void {
    this.#flushTimer = undefined;
    for (const [cluster, state] of this.#clusters) {
      if (!state.sending && (state.queue.length > 0 || state.repair)) this.#run(this.#drain(cluster, state));
    }
  }

  async #drain(cluster: string, state: ClusterState): Promise<void> {
    state.sending = true;
    while (state.queue.length > 0 && !this.#abort.signal.aborted) {
      let events = state.queue.splice(0, 1_000);
      if (state.repair) {
        // All that is open now includes what the queue still wanted to add; deletes of the dropped requests are moot.
        state.repair = false;
        const saves = [...events, ...state.queue].filter(({ type }) => type === "cache.save");
        state.queue = [];
        const reset = { type: "lease.reset" as const, body: { gateway: this.options.gateway, cluster } };
        events = [reset, ...this.#open(cluster), ...saves];
      }
      const epoch = await this.#deliver(cluster, state, events);
      if (epoch === undefined) {
        this.dropped += events.length;
        state.repair = true;
        // The next renewal tries again: nothing is retried in a tight loop. Loads are told anew then, saves are kept.
        state.queue = [...events, ...state.queue].filter(({ type }) => type === "cache.save").slice(-MAX_KEPT_SAVES);
        break;
      }
      if (state.epoch !== undefined && epoch !== state.epoch) {
        state.repair = true;
        state.queue.push({ type: "lease.renew", body: { gateway: this.options.gateway } });
      }
      state.epoch = epoch;
    }
    state.sending = false;
  }

  /** The epoch of the center that took the events; undefined when none did. */
  async #deliver(cluster: string, state: ClusterState, events: CenterEvent[]): Promise<string | undefined> {
    for (const host of this.#tries(cluster)) {
      if (!this.#isPlain(host)) {
        // What it was told while it was taken for one of the documented kind is under no lease: the change of kind
        // has all that is open told anew.
        const owed = state.ledger.told().map((request_id) => ({ type: "load.stats.delete", body: { request_id } }));
        const from = { gateway: this.options.gateway, cluster, sequence: ++state.sequence };
        const batch = { method: "POST", path: "/v1/batch", body: { events: sentNow([...owed, ...events]), ...from } };
        const answer = await this.#call(host, batch, this.options.updateTimeoutMs);
        if (answer && answer.status === 200) {
          const { epoch = "", lease, rejected = [] } = answer.data as BatchAnswer ?? {};
          this.dropped += rejected.length;
          state.ledger.forget();
          // A lease that ran out while we live: what we told was dropped, as by a center that began anew.
          if (lease !== undefined) this.#leases.set(host.address, lease);
          return `${host.address} ${epoch} ${this.#leases.get(host.address) ?? ""}`;
        }
        if (!answer || answer.status !== 404) continue;
        this.#foundPlain(host);
      }
      const ask: Asks = (request) => this.#call(host, request, this.options.updateTimeoutMs);
      if (await state.ledger.tell(events, ask)) return `${host.address} plain`;
    }
    return undefined;
  }

  #isPlain({ address }: Host): boolean {
    return (this.#plainUntil.get(address) ?? -Infinity) > this.clock.now();
  }

  #foundPlain({ address }: Host): void {
    this.#plainUntil.set(address, this.clock.now() + PLAIN_MS);
  }

  // Watches a cluster, again and again; polls while its center has no watch stream. The breaker does not hold a watcher
  // back: one connection attempt now and then is cheap, and its success is how an open breaker learns early.
  async #follow(cluster: string, gone: AbortSignal): Promise<void> {
    const { syncIntervalMs, failoverRetries } = this.options;
    while (!this.#abort.signal.aborted && !gone.aborted) {
      let heard = false;
      for (const host of this.hosts.candidates(cluster).slice(0, 1 + failoverRetries)) {
        heard = !this.#isPlain(host) && await this.#watch(cluster, host, gone);
        heard ||= this.#isPlain(host) && host.breaker.allow() && await this.#poll(cluster, host);
        if (heard) break;
      }
      await pause(
        heard ? syncIntervalMs * (0.75 + Math.random() / 2) : RECONNECT_MS * (0.75 + Math.random() / 2),
        this.clock,
        gone,
      );
    }
  }

  /** Reads one watch stream to its end; true when it had begun. */
  async #watch(cluster: string, host: Host, gone: AbortSignal): Promise<boolean> {
    using silence = new TimeLimit(gone, this.options.watchSilenceMs);
    let begun = false;
    try {
      const query = new URLSearchParams({ cluster, gateway: this.options.gateway });
      const response = await this.#direct.fetch(host.address, `/v1/watch?${query}`, { signal: silence.signal });
      if (response.status === 404) {
        this.#foundPlain(host);
        await response.body?.cancel();
        return false;
      }
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new Error(`status ${response.status}`);
      }
      host.breaker.reset();
      begun = true;
      const heard = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
        transform: (piece, controller) => {
          silence.renew(this.options.watchSilenceMs);
          host.breaker.reset(); // it is there, whatever became of our deliveries
          this.#listener?.fresh(cluster);
          controller.enqueue(piece);
        },
      });
      const events: AsyncIterable<{ event?: string; data?: string }> = response.body!.pipeThrough(heard)
        .pipeThrough(new ServerSentEventParseStream());
      for await (const { event, data } of events) this.#heard(cluster, event, data);
    } catch {
      // away, cut or silent: the next round tries again
    }
    return begun;
  }

  #heard(cluster: string, event: string | undefined, data: string | undefined): void {
    if (data === undefined) return;
    if (event === "snapshot" || event === "load") {
      this.#listener?.loads(cluster, readLoads(parseExact(data)), event === "snapshot");
    } else if (event === "cache") {
      const { prompt_hash, ...engine } = parseExact(data) as EngineRow & { prompt_hash: (number | bigint)[] };
      this.#listener?.saved(cluster, addressOf(engine), prompt_hash.map(BigInt));
    } else if (event === "report") {
      const told = readEngineReport({ ...parseExact(data) as EngineRow, cluster });
      this.#listener?.reported(cluster, told, told.report);
    }
  }

  async #poll(cluster: string, host: Host): Promise<boolean> {
    const path = `/v1/load/stats?${new URLSearchParams({ cluster })}`;
    const answer = await this.#call(host, { method: "GET", path }, this.options.fetchTimeoutMs);
    if (answer?.status !== 200) return false;
    const state = this.#clusters.get(cluster);
    if (state === undefined) return true;
    const rows = readLoads(answer.data ?? []);
    // While a delete may be on its way nothing is compared.
    if (!state.sending && state.ledger.lacks(rows)) {
      state.repair = true;
      this.#flushTimer ??= setTimeout(() => this.#flush(), this.options.coalesceMs);
    }
    const loads = state.ledger.others(rows);
    this.#listener?.fresh(cluster);
    this.#listener?.loads(cluster, loads, true);
    return true;
  }

  #tries(cluster: string): Host[] {
    return this.hosts.candidates(cluster).slice(0, 1 + this.options.failoverRetries).filter((host) =>
      host.breaker.allow()
    );
  }

  async #call(
    host: Host,
    { method, path, body }: CenterRequest,
    timeoutMs: number,
  ): Promise<{ status: number; data: unknown } | undefined> {
    using limit = new TimeLimit(this.#abort.signal, timeoutMs);
    host.breaker.began();
    const started = this.clock.now();
    try {
      const response = await this.#direct.fetch(host.address, path, {
        method,
        headers: { "content-type": "application/json" },
        body: body === undefined ? undefined : printExact(body),
        signal: limit.signal,
      });
      const text = await response.text();
      if (response.status >= 500) throw new Error(`status ${response.status}`);
      host.breaker.succeeded();
      const question = path.indexOf("?");
      const bare = question < 0 ? path : path.slice(0, question);
      this.#calls.answered(host.address, method, bare, this.clock.now() - started);
      const data = response.status === 200 ? (parseExact(text) as { data?: unknown }).data : null;
      return { status: response.status, data };
    } catch {
      if (!this.#abort.signal.aborted) host.breaker.failed();
      return undefined;
    }
  }

  alone(): boolean {
    return false;
  }

  wantsMore(): boolean {
    return this.hosts.all.some((host) => !this.#isPlain(host));
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    clearTimeout(this.#flushTimer);
    this.#abort.abort();
    for (const { abort } of this.#clusters.values()) abort.abort();
    this.hosts.stop();
    // What is under way has been aborted; a task that does not notice must not hold the process up.
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise((resolve) => timer = setTimeout(resolve, MAX_STOP_MS));
    await Promise.race([Promise.allSettled(this.#tasks), late]);
    clearTimeout(timer);
    this.#direct.close();
  }

  calls(): CallStats[] {
    this.#calls.keep(new Set(this.hosts.all.map(({ address }) => address)));
    return this.#calls.view();
  }

  view(): { center: string; state: string; dropped: number }[] {
    const names = { "closed": "available", "half-open": "probing", "open": "unavailable" };
    return this.hosts.all.map(({ address, breaker }) => ({
      center: address,
      state: names[breaker.state],
      dropped: this.dropped,
    }));
  }
}

/** An engine as a row names it. */
interface EngineRow {
  ip?: string;
  host?: string;
  port?: number;
}

function readLoads(rows: unknown): EngineLoad[] {
  type Row = EngineRow & { queued_req_num: number; prompt_length: number; updated_time: number | bigint };
  return (rows as Row[]).map(({ queued_req_num, prompt_length, updated_time, ...engine }) => ({
    ...addressOf(engine),
    queued: Number(queued_req_num),
    promptLength: Math.max(0, Number(prompt_length)),
    updatedMs: Number(updated_time) / 1e6,
  }));
}
