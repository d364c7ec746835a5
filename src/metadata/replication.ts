// SPDX-License-Identifier: Apache-2.0
// Passes every accepted change on to the peers, at most one hop: in batches to centers of our kind, one event a request to
// those that know only the documented events; these know no leases either, and are told what a lease took along. A peer
// that is away loses what was meant for it, as leases and expiry will do; when it is back, it learns of new requests only.

import { TimeLimit } from "../base/time_limit.ts";
import type { DirectFetch } from "./direct_fetch.ts";
import { sentNow } from "./engine_report.ts";
import type { CenterEvent } from "./server.ts";
import { printExact } from "./wire.ts";

export interface ReplicationOptions {
  /** HOST:PORT of each peer, without this center; asked again before every batch. */
  peers: () => string[];
  /** Changes are sent together after this long. */
  coalesceMs: number;
  timeoutMs: number;
  /** Attempts at one request. */
  attempts: number;
  /** Most events waiting for one peer. */
  queue: number;
}

/** What a peer is told; `plain`: only one of the documented kind is. */
interface Told extends CenterEvent {
  readonly plain?: boolean;
}

interface Peer {
  queue: Told[];
  sending: boolean;
  /** Until when it is taken to know no batches, since it refused one: one event a request. */
  plainUntil: number;
}

/** How long a peer that refused a batch is taken for one of the documented kind. */
const PLAIN_MS = 60_000;

/** Events that the documented protocol does not have. */
const OWN_EVENTS = new Set(["cache.save", "engine.report", "lease.renew", "lease.reset"]);

export class Replication {
  readonly #peers = new Map<string, Peer>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #abort = new AbortController();
  dropped = 0;

  /** @param direct Reaches the peers. */
  constructor(readonly options: ReplicationOptions, readonly direct: Pick<DirectFetch, "fetch" | "close">) {}

  /** Tells those that know no leases that these requests have gone with one. */
  lost(ids: readonly string[]): void {
    for (const request_id of ids) this.publish({ type: "load.stats.delete", body: { request_id }, plain: true });
  }

  readonly publish = (event: Told): void => {
    for (const address of this.options.peers()) {
      let peer = this.#peers.get(address);
      if (!peer) this.#peers.set(address, peer = { queue: [], sending: false, plainUntil: -Infinity });
      if (peer.queue.length >= this.options.queue) this.dropped++;
      else peer.queue.push(event);
    }
    this.#timer ??= setTimeout(() => this.#flush(), this.options.coalesceMs);
  };

  /** Whether there is anybody to tell. */
  hasPeers(): boolean {
    return this.options.peers().length > 0;
  }

  #flush(): void {
    this.#timer = undefined;
    for (const [address, peer] of this.#peers) if (!peer.sending && peer.queue.length > 0) this.#drain(address, peer);
  }

  async #drain(address: string, peer: Peer): Promise<void> {
    peer.sending = true;
    while (peer.queue.length > 0 && !this.#abort.signal.aborted) {
      const events = peer.queue.splice(0, 1_000);
      if (performance.now() >= peer.plainUntil) {
        // One of our kind applies what it can of a batch: to refuse it is not to know what it is.
        const batch = sentNow(events.filter(({ plain }) => !plain));
        if (batch.length === 0) continue;
        const status = await this.#post(address, "aigw.batch", { events: batch });
        if (status !== 400 && status !== 404) continue;
        peer.plainUntil = performance.now() + PLAIN_MS;
      }
      for (const { type, body } of events) {
        if (!OWN_EVENTS.has(type) && (type !== "load.stats.set" || body.ip !== undefined)) {
          await this.#post(address, type, body);
        }
      }
    }
    peer.sending = false;
  }

  async #post(address: string, type: string, body: unknown): Promise<number | undefined> {
    for (let attempt = 0; attempt < this.options.attempts && !this.#abort.signal.aborted; attempt++) {
      using limit = new TimeLimit(this.#abort.signal, this.options.timeoutMs);
      try {
        const response = await this.direct.fetch(address, "/v1/replica/event", {
          method: "POST",
          headers: { "content-type": "application/json", "Event-Type": type },
          body: printExact(body),
          signal: limit.signal,
        });
        await response.body?.cancel();
        if (response.status < 500) return response.status;
      } catch {
        // tried again, or given up below
      }
    }
    this.dropped++;
    return undefined;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#abort.abort();
    this.direct.close();
  }
}
