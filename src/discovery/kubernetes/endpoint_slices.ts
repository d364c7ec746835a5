// SPDX-License-Identifier: Apache-2.0
// Engines behind a Service: the ready endpoints of its EndpointSlices (discovery.k8s.io/v1), whatever makes them. Slices do
// not carry their pods' labels; an endpoint's labels are where it runs.

import type { KubernetesSourceConfig } from "../../config/kubernetes.ts";
import type { Discovery, EndpointSpec, Update } from "../discovery.ts";
import type { KubernetesApi, KubernetesObject } from "./api.ts";
import { podNamespace } from "../pod.ts";
import { ToldEndpoints } from "./objects.ts";

interface EndpointSlice extends KubernetesObject {
  readonly addressType?: string;
  readonly endpoints?:
    | readonly {
      readonly addresses: readonly string[];
      readonly conditions?: { readonly ready?: boolean; readonly terminating?: boolean };
      readonly nodeName?: string;
      readonly zone?: string;
      readonly targetRef?: { readonly kind?: string; readonly name?: string };
    }[]
    | null;
  readonly ports?: readonly { readonly name?: string; readonly port?: number }[] | null;
}

export class EndpointSliceDiscovery implements Discovery {
  readonly name: string;

  constructor(readonly cluster: string, readonly config: KubernetesSourceConfig, readonly api: () => KubernetesApi) {
    this.name = `kubernetes service ${config.namespace ? `${config.namespace}/` : ""}${config.service}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    using api = this.api();
    const { service, namespace } = this.config;
    const resource = {
      path: `/apis/discovery.k8s.io/v1/namespaces/${namespace ?? await podNamespace()}/endpointslices`,
      labelSelector: `kubernetes.io/service-name=${service}`,
    };
    // A Service of both families has a slice of each for the same pods: only one family is told.
    let families = new Set<string>();
    const preferred = () => families.has("IPv4") ? "IPv4" : "IPv6";
    const told = new ToldEndpoints<EndpointSlice>(
      this.cluster,
      (slice) => slice.addressType === preferred() ? specsOf(slice, this.config) : [],
    );
    for await (const change of api.watch<EndpointSlice>(resource, signal)) {
      const before = preferred();
      if (change.kind === "all") families = new Set(change.objects.map(({ addressType = "" }) => addressType));
      else for (const { addressType = "" } of change.changed) families.add(addressType);
      if (change.kind === "some" && preferred() !== before) return yield* this.watch(signal); // the other family from now on
      yield* told.apply(change);
      if (change.kind === "all") yield { kind: "synced" };
    }
  }
}

function specsOf({ endpoints, ports }: EndpointSlice, config: KubernetesSourceConfig): EndpointSpec[] {
  const port = portOf(ports ?? [], config.port);
  if (port === undefined) return [];
  return (endpoints ?? []).filter(({ conditions: is }) => is?.ready !== false && !is?.terminating).map((one) => ({
    host: one.addresses[0],
    port,
    rank: 0,
    labels: {
      ...(one.zone !== undefined && { "topology.kubernetes.io/zone": one.zone }),
      ...(one.nodeName !== undefined && { "kubernetes.io/hostname": one.nodeName }),
      ...(one.targetRef?.name !== undefined && { pod: one.targetRef.name }),
      ...config.labels,
    },
    healthPort: config.health_port,
    metricsPort: config.metrics_port,
  }));
}

// By its name or number; without either the first one.
function portOf(ports: readonly { name?: string; port?: number }[], wanted: string | number | undefined) {
  if (typeof wanted === "number") return wanted;
  return (wanted === undefined ? ports[0] : ports.find(({ name }) => name === wanted))?.port;
}
