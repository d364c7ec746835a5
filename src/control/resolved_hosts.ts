// SPDX-License-Identifier: Apache-2.0
// IPv4 addresses of endpoints that the configuration names: for those of a fleet that know engines by nothing else.

import { lookup } from "node:dns/promises";
import type { Clock } from "../base/clock.ts";

/** How long an answer holds. */
const AGE_MS = 60_000;
const IPV4 = /^\d+(\.\d+){3}$/;

export class ResolvedHosts {
  readonly #known = new Map<string, { ip: string | undefined; at: number }>();

  constructor(readonly clock: Clock, readonly resolve = lookup) {}

  /** The address of a host as far as it is known now; undefined for one that has none, or is none itself. */
  of(host: string): string | undefined {
    if (IPV4.test(host) || host.includes(":")) return undefined;
    const known = this.#known.get(host);
    const now = this.clock.now();
    if (known === undefined || now - known.at > AGE_MS) {
      this.#known.set(host, { ip: known?.ip, at: now });
      this.resolve(host, { family: 4 }).then(({ address }) => {
        this.#known.set(host, { ip: address, at: now });
      }, () => {});
    }
    return known?.ip;
  }
}
