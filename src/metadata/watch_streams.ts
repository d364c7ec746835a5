// SPDX-License-Identifier: Apache-2.0
// The watch streams of a center. Server-sent events: a snapshot, then changes. Loads are absolute figures of an engine, so
// a later one replaces an earlier one and a snapshot makes good whatever was missed; cache saves that a watcher missed, or
// that were before it came, are replayed from what is kept of them.

import { type Center, CenterFull, type Change } from "./center.ts";
import { type EngineAddress, engineKey } from "./engine_address.ts";
import { printEngine, printExact, printLoads, printReport } from "./wire.ts";

export interface WatchOptions {
  /** Changes of a watched cluster are sent together after this long. */
  coalesceMs?: number;
  /** A comment is sent to an idle watcher this often, so that both sides notice a dead connection. */
  pingMs?: number;
  /** Events that one may leave unread; one that leaves more is closed. */
  unread?: number;
  /** Watch streams at once; more are refused. */
  watchers?: number;
}

/** Cache saves of a cluster, and prefixes in them, that a reconnecting watcher may have missed and still gets. */
const KEPT_SAVES = 4_096;
const KEPT_PREFIXES = 262_144;
const MAX_WATCHERS = 4_096;
/** Above what may be replayed at once to one that comes again. */
const MAX_UNREAD = 2 * KEPT_SAVES;

type Save = Extract<Change, { kind: "cache" }>["save"];

interface History {
  last: number;
  saves: { id: number; save: Save }[];
  /** Prefixes in these saves. */
  prefixes: number;
  unwatch: () => void;
}

export class WatchStreams {
  readonly #streams = new Set<() => void>();
  readonly #histories = new Map<string, History>();

  constructor(readonly center: Center, readonly options: WatchOptions) {}

  /**
   * A new stream of a cluster's changes.
   * @param without Gateway whose own part is left out.
   * @param since The last change that the watcher has heard of.
   */
  open(cluster: string, without: string | undefined, since: number): Response {
    const { watchers = MAX_WATCHERS } = this.options;
    if (this.#streams.size >= watchers) throw new CenterFull(`the center has ${watchers} watch streams, its limit`);
    const history = this.keep(cluster);
    const encoder = new TextEncoder();
    let close = (): void => {};
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        const write = (text: string) => {
          // Who does not read is let go: what it missed it gets when it comes again.
          if ((controller.desiredSize ?? 0) <= 0) return close();
          controller.enqueue(encoder.encode(text));
        };
        const send = (event: string, data: unknown) =>
          write(`id: ${history.last}\nevent: ${event}\ndata: ${printExact(data)}\n\n`);
        const dirty = new Map<string, EngineAddress>();
        let timer: ReturnType<typeof setTimeout> | undefined;
        const flush = (): void => {
          timer = undefined;
          const loads = [...dirty.values()].map((engine) => this.center.loadOf(cluster, engine, without));
          dirty.clear();
          if (loads.length > 0) send("load", printLoads(loads));
        };
        const unwatch = this.center.watch(cluster, (change: Change) => {
          if (change.kind === "load") {
            dirty.set(engineKey(change.engine), change.engine);
            timer ??= setTimeout(flush, this.options.coalesceMs ?? 1);
          } else if (change.kind === "report") {
            const { told } = change;
            if (told.gateway !== without || without === undefined) {
              send("report", { ...printEngine(told), ...printReport(told.report) });
            }
          } else if (change.save.gateway !== without || without === undefined) send("cache", printSave(change.save));
        });
        const ping = setInterval(() => write(": ping\n\n"), this.options.pingMs ?? 1_000);
        close = () => {
          this.#streams.delete(close);
          unwatch();
          clearTimeout(timer);
          clearInterval(ping);
          try {
            controller.close();
          } catch {
            // closed already
          }
        };
        this.#streams.add(close);
        send("snapshot", printLoads(this.center.loads(cluster, without)) ?? []);
        for (const { id, save } of history.saves) {
          if (id > since && (save.gateway !== without || without === undefined)) send("cache", printSave(save));
        }
      },
      cancel: () => close(),
    }, { highWaterMark: this.options.unread ?? MAX_UNREAD, size: () => 1 });
    return new Response(stream, { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } });
  }

  /** Keeps the cache saves of a cluster from now on, for watchers that come later. Throws CenterFull. */
  keep(cluster: string): History {
    let history = this.#histories.get(cluster);
    if (!history) {
      const kept: History = history = { last: 0, saves: [], prefixes: 0, unwatch: () => {} };
      kept.unwatch = this.center.watch(cluster, (change) => {
        if (change.kind !== "cache") return;
        kept.saves.push({ id: ++kept.last, save: change.save });
        kept.prefixes += change.save.hashes.length;
        while (kept.saves.length > KEPT_SAVES || kept.prefixes > KEPT_PREFIXES) {
          kept.prefixes -= kept.saves.shift()!.save.hashes.length;
        }
      });
      this.#histories.set(cluster, history);
    }
    return history;
  }

  /** Forgets what was kept of clusters that nothing is known of and nobody watches. */
  collectGarbage(): void {
    for (const [cluster, { unwatch }] of this.#histories) {
      if (!this.center.isForgotten(cluster, 1)) continue;
      unwatch();
      this.#histories.delete(cluster);
    }
  }

  /** How many are open. */
  get count(): number {
    return this.#streams.size;
  }

  /** Ends them all. */
  close(): void {
    for (const close of this.#streams) close();
    for (const { unwatch } of this.#histories.values()) unwatch();
    this.#histories.clear();
  }
}

function printSave({ hashes, ...save }: Save): unknown {
  return { ...printEngine(save), prompt_hash: hashes };
}
