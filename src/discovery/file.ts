// SPDX-License-Identifier: Apache-2.0
// Clusters in a file of their own (`clusters_file`), looked at again and again. Looking costs one `stat`; reading happens
// when that says that something changed. Polling, because a file that is swapped by a symbolic link, as in a mounted
// ConfigMap, or that lies on a network, tells no watcher of it.

import { parse as parseYaml } from "@std/yaml";
import { z } from "zod";
import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import { clustersFileSchema } from "../config/clusters.ts";
import { FileStamp } from "../config/file_stamp.ts";
import type { Discovery, EndpointSpec, Update } from "./discovery.ts";
import { changes, specsOf } from "./static.ts";

export class FileDiscovery implements Discovery {
  readonly name: string;
  /** Clusters that were told and not taken back: a watch that begins anew takes back those that have gone meanwhile. */
  readonly #told = new Set<string>();

  constructor(readonly path: string, readonly intervalMs: number, readonly clock: Clock) {
    this.name = `file ${path}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    let known = new Map<string, readonly EndpointSpec[]>();
    const stamp = new FileStamp(this.path);
    let synced = false;
    while (!signal.aborted) {
      if (await stamp.changed()) {
        const next = await this.#read();
        yield* changes(known, next);
        for (const cluster of this.#told) {
          if (!known.has(cluster) && !next.has(cluster)) yield { kind: "does_not_exist", cluster };
        }
        this.#told.clear();
        for (const cluster of next.keys()) this.#told.add(cluster);
        known = next;
        if (!synced) yield { kind: "synced" };
        synced = true;
      }
      await pause(this.intervalMs, this.clock, signal);
    }
  }

  async #read(): Promise<Map<string, readonly EndpointSpec[]>> {
    const text = await Deno.readTextFile(this.path);
    const { success, data, error } = clustersFileSchema.safeParse(parseYaml(text) ?? {});
    if (!success) throw new Error(z.prettifyError(error).replaceAll("\n", " "));
    return new Map(data.clusters.map((cluster) => [cluster.name, specsOf(cluster)]));
  }
}
