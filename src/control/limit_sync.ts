// SPDX-License-Identifier: Apache-2.0
// Tenants' limits over several gateways. What a gateway uses of a limit is told to the metadata center as load of an
// engine that does not exist, in a cluster that does not: an entry for each tick, taken back a minute later. So the sum that
// comes back is what the other gateways used in the last minute, any center can hold it, and a gateway that dies takes its
// part along. An entry without an amount says that a gateway is there: when the center is away, each takes its even part.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { WINDOWS } from "../admission/limits.ts";
import type { Clock } from "../base/clock.ts";
import { fnv1a } from "../base/fnv1a.ts";
import type { Config } from "../config/schema.ts";
import type { EngineLoad } from "../metadata/engine_load.ts";
import type { CenterEvent } from "../metadata/server.ts";
import { ownUse, ownWindow, writeOwnShare, writeRemoteUse } from "../tables/tenant_table.ts";

/** The cluster that stands for the tenants. */
export const TENANTS_CLUSTER = "aigw/tenants";
/** The engine that stands for the gateways themselves. */
const PRESENCE = "9.0.0.1";
const TICK_MS = 100;
const MINUTE_MS = 60_000;

interface Limited {
  readonly name: string;
  readonly row: number;
  /** Addresses of its windows; undefined for one without a limit. */
  readonly ips: readonly (string | undefined)[];
  readonly limits: readonly (number | undefined)[];
  /** What was used of each window up to the last tick, and what was given back and is not told yet. */
  readonly told: number[];
  readonly owed: number[];
}

export interface LimitSyncParts {
  readonly kernel: AttachedKernel;
  readonly clock: Clock;
  readonly gateway: string;
  /** After this long without the center its figures are not believed. */
  readonly staleMs: number;
  send(cluster: string, events: CenterEvent[]): void;
}

export class LimitSync {
  readonly kernel: AttachedKernel;
  readonly clock: Clock;
  #limited: Limited[] = [];
  readonly #open = new Map<string, { event: CenterEvent; until: number }>();
  readonly #remote = new Map<string, EngineLoad>();
  #gateways = 1;
  #freshAt = -Infinity;
  #serial = 0;
  #cancel: (() => void) | undefined;
  #present = false;

  constructor(readonly parts: LimitSyncParts) {
    this.kernel = parts.kernel;
    this.clock = parts.clock;
  }

  /** These are the tenants from now on. What was told of those that stay goes on. */
  configure({ tenancy, tenants }: Config, rows: ReadonlyMap<string, number>): void {
    const known = new Map(this.#limited.map((limited) => [`${limited.name} ${limited.row}`, limited]));
    this.#limited = [{ name: "anonymous", limits: tenancy.anonymous.limits }, ...tenants].map(({ name, limits }) => {
      const row = rows.get(name)!;
      const before = known.get(`${name} ${row}`);
      return {
        name,
        row,
        ips: WINDOWS.map((window, w) => limits[`${window}_per_minute`] === undefined ? undefined : addressOf(name, w)),
        limits: WINDOWS.map((window) => limits[`${window}_per_minute`]),
        // A limit that is new counts what is used from now on.
        told: before?.told ?? ownUse(this.kernel, row),
        owed: before?.owed ?? WINDOWS.map(() => 0),
      };
    }).filter(({ ips }) => ips.some((ip) => ip !== undefined));
  }

  /** Whether any tenant has a limit to share. */
  get needed(): boolean {
    return this.#limited.length > 0;
  }

  start(): void {
    this.#cancel = this.clock.after(TICK_MS, () => this.start());
    if (this.needed) this.#tick();
  }

  stop(): void {
    this.#cancel?.();
  }

  /** Everything that is told and not taken back yet: for a center that knows nothing. */
  open(): CenterEvent[] {
    return [...this.#open.values()].map(({ event }) => event);
  }

  loads(loads: readonly EngineLoad[], whole: boolean): void {
    if (whole) this.#remote.clear();
    for (const load of loads) this.#remote.set(load.host, load);
    this.#gateways = 1 + (this.#remote.get(PRESENCE)?.queued ?? 0);
  }

  fresh(): void {
    this.#freshAt = this.clock.now();
  }

  #tick(): void {
    const now = this.clock.now();
    const events: CenterEvent[] = [];
    for (const [id, { until }] of this.#open) {
      if (until > now) continue;
      this.#open.delete(id);
      events.push({ type: "load.stats.delete", body: { request_id: id } });
    }
    if (!this.#present) {
      this.#present = true;
      events.push(this.#tell(PRESENCE, 0, Infinity));
    }
    const known = now - this.#freshAt <= this.parts.staleMs;
    for (const { row, ips, limits, told, owed } of this.#limited) {
      const used = ownUse(this.kernel, row);
      ips.forEach((ip, window) => {
        if (ip === undefined) return;
        const more = used[window] - told[window] - owed[window];
        told[window] = used[window];
        owed[window] = Math.max(0, -more);
        if (more > 0) events.push(this.#tell(ip, more, now + MINUTE_MS));
      });
      limits.forEach((limit, window) => {
        const ip = ips[window];
        if (ip === undefined || limit === undefined) return;
        const used = known ? this.#remote.get(ip)?.promptLength ?? 0 : 0;
        const presumed = known ? this.#presumed(row, window, limit, used) : 0;
        writeRemoteUse(this.kernel, row, window, { used, presumed });
      });
    }
    writeOwnShare(this.kernel, known ? 1 : 1 / this.#gateways);
    if (events.length > 0) this.parts.send(TENANTS_CLUSTER, events);
  }

  // Of what is left, what is the others' until the next tick: when all take their part at once, the limit holds; one that
  // is alone with its tenant gets most of what is left within a few ticks.
  #presumed(row: number, window: number, limit: number, remote: number): number {
    if (this.#gateways === 1) return 0;
    const left = Math.max(0, limit - remote - ownWindow(this.kernel, row, window, this.clock.shared()));
    // Half of an even part is our own: what is known of the others may be a tick old.
    return left * (1 - 1 / (2 * this.#gateways));
  }

  #tell(ip: string, amount: number, until: number): CenterEvent {
    const request_id = `${this.parts.gateway}/limit-${this.#serial++}`;
    const event: CenterEvent = {
      type: "load.stats.set",
      body: {
        cluster: TENANTS_CLUSTER,
        request_id,
        ip,
        prompt_length: Math.round(amount),
        timestamp: BigInt(Math.round(this.clock.wall())) * 1_000_000n,
        gateway: this.parts.gateway,
      },
    };
    this.#open.set(request_id, { event, until });
    return event;
  }
}

/** An IPv4 address that stands for a window of a tenant. */
function addressOf(tenant: string, window: number): string {
  const hash = fnv1a(tenant);
  return `${10 + window}.${hash >>> 16 & 255}.${hash >>> 8 & 255}.${hash & 255}`;
}
