// SPDX-License-Identifier: Apache-2.0
// Priorities by name that InferenceObjectives give for the pools that clusters are. Whatever fails keeps what it told last
// and is asked again after a growing pause.

import type { Clock } from "../base/clock.ts";
import { keepTrying } from "../base/keep_trying.ts";
import type { Config } from "../config/schema.ts";
import { KubernetesApi } from "../discovery/kubernetes/api.ts";
import { type PoolName, watchObjectives } from "../discovery/kubernetes/objectives.ts";
import type { Log } from "../telemetry/log.ts";

const PAUSES = { firstMs: 1_000, longestMs: 60_000 };

interface Watched {
  readonly abort: AbortController;
  told: Readonly<Record<string, number>>;
}

export class Objectives {
  readonly #watched = new Map<string, Watched>();
  readonly #tasks = new Set<Promise<void>>();

  /** @param changed Is called when they are others than before. */
  constructor(readonly clock: Clock, readonly log: Log, readonly changed: () => void) {}

  /** What is known now. */
  get current(): Readonly<Record<string, number>> {
    return Object.assign({}, ...[...this.#watched.values()].map(({ told }) => told));
  }

  /** The pools of this configuration are watched from now on, and no others. */
  set({ clusters, kubernetes }: Pick<Config, "clusters" | "kubernetes">): void {
    const wanted = new Map<string, PoolName>();
    for (const { inference_pool: pool, namespace } of clusters.flatMap((cluster) => cluster.kubernetes)) {
      if (pool !== undefined) wanted.set(JSON.stringify([kubernetes, namespace, pool]), { pool, namespace });
    }
    for (const [key, { abort }] of this.#watched) {
      if (wanted.has(key)) continue;
      abort.abort();
      this.#watched.delete(key);
    }
    for (const [key, pool] of wanted) {
      if (this.#watched.has(key)) continue;
      const watched: Watched = { abort: new AbortController(), told: {} };
      this.#watched.set(key, watched);
      const task = this.#follow(pool, () => new KubernetesApi(kubernetes), watched).finally(() =>
        this.#tasks.delete(task)
      );
      this.#tasks.add(task);
    }
  }

  #follow(pool: PoolName, api: () => KubernetesApi, watched: Watched): Promise<void> {
    const { abort: { signal } } = watched;
    let said = "";
    return keepTrying(
      async () => {
        for await (const told of watchObjectives(pool, api, signal)) {
          if (JSON.stringify(told) === JSON.stringify(watched.told)) continue;
          watched.told = told;
          this.changed();
        }
      },
      ({ message }) => {
        if (message === said) return;
        this.log.warn("the InferenceObjectives of a pool are not known", { pool: pool.pool, error: message });
        said = message;
      },
      PAUSES,
      this.clock,
      signal,
    );
  }

  async stop(): Promise<void> {
    for (const { abort } of this.#watched.values()) abort.abort();
    await Promise.all(this.#tasks);
  }
}
