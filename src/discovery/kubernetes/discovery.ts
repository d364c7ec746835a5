// SPDX-License-Identifier: Apache-2.0
// What Kubernetes is asked for a cluster's endpoints.

import type { KubernetesConfig, KubernetesSourceConfig } from "../../config/kubernetes.ts";
import type { Discovery } from "../discovery.ts";
import { KubernetesApi } from "./api.ts";
import { EndpointSliceDiscovery } from "./endpoint_slices.ts";
import { InferencePoolDiscovery, PodDiscovery } from "./pods.ts";

export function kubernetesDiscovery(
  cluster: string,
  source: KubernetesSourceConfig,
  config: KubernetesConfig,
): Discovery {
  const api = () => new KubernetesApi(config);
  if (source.service !== undefined) return new EndpointSliceDiscovery(cluster, source, api);
  return source.pods !== undefined
    ? new PodDiscovery(cluster, source, api)
    : new InferencePoolDiscovery(cluster, source, api);
}
