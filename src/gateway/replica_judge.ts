// SPDX-License-Identifier: Apache-2.0
// Tells a replica that is at fault from requests that are. An engine that rejects what its peers answer has lost its model,
// its key or its configuration, and rejecting is fast: it would draw the traffic. A rejected request is shown to a peer where
// that may tell: always when a configured model or the credentials are not known (404, 401), else when an engine
// has rejected several requests in a row.

import type { EndpointRef } from "../tables/endpoint_directory.ts";

/** Rejections in a row that make an engine suspect. */
const SUSPECT_AFTER = 5;
const REJECTIONS = new Set([400, 401, 403, 404, 422]);
const ALWAYS_ASKED = new Set([401, 404]);

interface Streak {
  readonly generation: number;
  rejected: number;
  /** Whether it has been said that the replica is at fault. */
  told: boolean;
}

export class ReplicaJudge {
  /** Rejections in a row by the row of the endpoint. */
  readonly #streaks = new Map<number, Streak>();

  /** Takes note of an answer; true when a peer is to be asked whether it would have answered. */
  suspects({ row, generation }: EndpointRef, status: number): boolean {
    if (!REJECTIONS.has(status)) {
      if (status < 400 && this.#streaks.size > 0) this.#streaks.delete(row);
      return false;
    }
    const known = this.#streaks.get(row);
    const streak = known?.generation === generation ? known : { generation, rejected: 0, told: false };
    this.#streaks.set(row, streak);
    streak.rejected++;
    return ALWAYS_ASKED.has(status) || streak.rejected > SUSPECT_AFTER;
  }

  /** A peer answered what it had rejected; true when that is news since its last good answer. */
  guilty({ row }: EndpointRef): boolean {
    const streak = this.#streaks.get(row);
    if (streak === undefined || streak.told) return false;
    return streak.told = true;
  }

  /** A peer rejected the request too: it was the request. */
  acquitted({ row }: EndpointRef): void {
    this.#streaks.delete(row);
  }
}
