// SPDX-License-Identifier: Apache-2.0
// Engines that are pods: by labels, or those of an InferencePool (inference.networking.k8s.io/v1), whose selector and ports
// are followed as they change. An endpoint's labels are its pod's.

import type { KubernetesSourceConfig } from "../../config/kubernetes.ts";
import type { Discovery, EndpointSpec, Update } from "../discovery.ts";
import type { KubernetesApi, KubernetesObject } from "./api.ts";
import { podNamespace } from "../pod.ts";
import { ToldEndpoints } from "./objects.ts";

interface Pod extends KubernetesObject {
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

interface InferencePool extends KubernetesObject {
  readonly spec: {
    readonly selector: { readonly matchLabels?: Readonly<Record<string, string>> };
    readonly targetPorts: readonly { readonly number: number }[];
  };
}

type Extras = Pick<KubernetesSourceConfig, "labels" | "health_port" | "metrics_port">;

/** Watches pods with these labels; every port of each is an endpoint. */
async function* watchPods(
  api: KubernetesApi,
  pods: { cluster: string; namespace: string; labels: Readonly<Record<string, string>>; ports: readonly number[] },
  extras: Extras,
  signal: AbortSignal,
): AsyncGenerator<Update> {
  const { cluster, namespace, labels, ports } = pods;
  const told = new ToldEndpoints<Pod>(cluster, (pod) => specsOf(pod, ports, extras));
  const resource = {
    path: `/api/v1/namespaces/${namespace}/pods`,
    labelSelector: Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(","),
  };
  for await (const change of api.watch<Pod>(resource, signal)) {
    yield* told.apply(change);
    if (change.kind === "all") yield { kind: "synced" };
  }
}

function specsOf({ metadata, status }: Pod, ports: readonly number[], extras: Extras): EndpointSpec[] {
  const ready = status?.phase === "Running" && metadata.deletionTimestamp === undefined &&
    status.conditions?.some(({ type, status }) => type === "Ready" && status === "True");
  if (!ready || status.podIP === undefined) return [];
  const { podIP: host } = status;
  return ports.map((port) => ({
    host,
    port,
    rank: 0,
    labels: { ...metadata.labels, pod: metadata.name, ...extras.labels },
    healthPort: extras.health_port,
    metricsPort: extras.metrics_port,
  }));
}

export class PodDiscovery implements Discovery {
  readonly name: string;

  constructor(readonly cluster: string, readonly config: KubernetesSourceConfig, readonly api: () => KubernetesApi) {
    const labels = Object.entries(config.pods!).map(([key, value]) => `${key}=${value}`).join(",");
    this.name = `kubernetes pods ${config.namespace ? `${config.namespace}/` : ""}${labels}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    using api = this.api();
    const { pods: labels, port } = this.config as { pods: Record<string, string>; port: number };
    const namespace = this.config.namespace ?? await podNamespace();
    yield* watchPods(api, { cluster: this.cluster, namespace, labels, ports: [port] }, this.config, signal);
  }
}

export class InferencePoolDiscovery implements Discovery {
  readonly name: string;

  constructor(readonly cluster: string, readonly config: KubernetesSourceConfig, readonly api: () => KubernetesApi) {
    this.name = `kubernetes InferencePool ${config.namespace ? `${config.namespace}/` : ""}${config.inference_pool}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    using api = this.api();
    const namespace = this.config.namespace ?? await podNamespace();
    while (!signal.aborted) {
      // One round for each selector that the pool has had.
      const round = new AbortController();
      const within = AbortSignal.any([signal, round.signal]);
      const pools = this.#pools(api, namespace, within);
      const { value: pool } = await pools.next() as { value: InferencePool | undefined };
      if (signal.aborted) return;
      if (pool === undefined) throw new Error(`there is no ${this.name.slice("kubernetes ".length)}`);
      let failed: Error | undefined;
      const following = (async () => {
        for await (const next of pools) {
          if (JSON.stringify(next?.spec) !== JSON.stringify(pool.spec)) break;
        }
      })().catch((error) => failed = error).finally(() => round.abort());
      const labels = pool.spec.selector.matchLabels ?? {};
      if (Object.keys(labels).length === 0) throw new Error(`${this.name} selects every pod of its namespace`);
      const ports = pool.spec.targetPorts.map(({ number }) => number);
      try {
        yield* watchPods(api, { cluster: this.cluster, namespace, labels, ports }, this.config, within);
      } finally {
        round.abort();
        await following;
      }
      if (failed) throw failed;
    }
  }

  // The pool as it changes; undefined while there is none.
  async *#pools(api: KubernetesApi, namespace: string, signal: AbortSignal): AsyncGenerator<InferencePool | undefined> {
    const { inference_pool } = this.config;
    const resource = {
      path: `/apis/inference.networking.k8s.io/v1/namespaces/${namespace}/inferencepools`,
      fieldSelector: `metadata.name=${inference_pool}`,
    };
    for await (const change of api.watch<InferencePool>(resource, signal)) {
      const [pool] = change.kind === "all" ? change.objects : change.changed;
      yield pool;
    }
  }
}
