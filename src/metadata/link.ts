// SPDX-License-Identifier: Apache-2.0
// How a gateway talks to its metadata center, wherever that is: changes go out without waiting, loads and cache saves of
// the other gateways come in. Implemented by the embedded center and by the client of a remote one.

import type { CallStats } from "./call_stats.ts";
import type { EngineLoad } from "./engine_load.ts";
import type { EngineAddress } from "./engine_address.ts";
import type { EngineReport } from "./engine_report.ts";
import type { CenterEvent } from "./server.ts";

/** What a link tells its gateway. */
export interface LinkListener {
  /** Figures of a cluster without this gateway's own part; `whole` when engines that are not named carry nothing. */
  loads(cluster: string, loads: EngineLoad[], whole: boolean): void;
  /** Another gateway's engine holds these prefixes. */
  saved(cluster: string, engine: EngineAddress, hashes: bigint[]): void;
  /** Another gateway has read an engine's metrics. */
  reported(cluster: string, engine: EngineAddress, report: EngineReport): void;
  /** The center was heard of: its figures for the cluster are of now. */
  fresh(cluster: string): void;
  /** Somebody asks the center: what it has not been told, as nobody wanted to know, it is to be told now. */
  asked(): void;
}

export interface CenterLink {
  /** Takes changes to deliver in order; never waits and never throws. */
  send(cluster: string, events: CenterEvent[]): void;
  start(clusters: readonly string[], listener: LinkListener, open: (cluster: string) => CenterEvent[]): void;
  /** These are the clusters from now on. */
  setClusters(clusters: readonly string[]): void;
  /** Whether anybody takes what the documented protocol has not: prefixes that engines got, what was read of them. */
  wantsMore(): boolean;
  /** Whether nobody wants to know what this gateway does. */
  alone(): boolean;
  stop(): Promise<void>;
  /** One line of state a center, for `/endpoints` and `/metrics`. */
  view(): { center: string; state: string; dropped: number }[];
  /** What centers answered, for `/metrics`. */
  calls(): CallStats[];
}
