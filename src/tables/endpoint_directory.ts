// SPDX-License-Identifier: Apache-2.0
// A worker's names of endpoints: each row's identity is read out of the shared memory once for each generation that the
// row has.

import { type Address, formatAddress, rankedName } from "../base/address.ts";
import type { EndpointTable } from "./endpoint_table.ts";

/** An endpoint as it was when a request was granted it. */
export interface EndpointRef {
  readonly row: number;
  /** Identity generation of the row. */
  readonly generation: number;
  readonly address: Address;
  /** Which of the data-parallel ranks behind that address. */
  readonly rank: number;
  /** HOST:PORT */
  readonly host: string;
  /** The same, and #RANK of all but the first. */
  readonly name: string;
}

export class EndpointDirectory {
  readonly #known = new Map<number, EndpointRef>();

  constructor(readonly endpoints: EndpointTable) {}

  /** The rows of a cluster's endpoints at these HOST:PORTs, of all their ranks. */
  named(cluster: number, names: readonly string[]): number[] {
    return this.endpoints.rowsOf(cluster).filter((row) => names.includes(this.of(row).host));
  }

  /** The endpoint of a row that carries a request of ours, so that its identity stands still. */
  of(row: number): EndpointRef {
    const generation = this.endpoints.generation(row);
    const known = this.#known.get(row);
    if (known?.generation === generation) return known;
    const ranked = this.endpoints.address(row);
    const { rank = 0, ...address } = ranked;
    const endpoint = { row, generation, address, rank, host: formatAddress(address), name: rankedName(ranked) };
    this.#known.set(row, endpoint);
    return endpoint;
  }
}
