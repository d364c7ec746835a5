// SPDX-License-Identifier: Apache-2.0
// How each cluster's engines are reached. A transport is the same object as before for as long as its settings are the
// same, so that connections outlive a change of the configuration.

import type { Snapshot } from "../config/snapshot.ts";
import type { Transport } from "./transport.ts";

export class Transports {
  readonly #known = new Map<string, { settings: string; transport: Transport }>();

  /** The transports of a snapshot, by cluster. */
  update(access: Snapshot["access"]): ReadonlyMap<string, Transport> {
    for (const name of this.#known.keys()) if (!access.has(name)) this.#known.delete(name);
    for (const [name, one] of access) {
      const settings = JSON.stringify(one);
      if (this.#known.get(name)?.settings !== settings) this.#known.set(name, { settings, transport: one });
    }
    return new Map([...this.#known].map(([name, { transport }]) => [name, transport]));
  }
}
