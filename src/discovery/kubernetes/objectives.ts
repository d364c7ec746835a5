// SPDX-License-Identifier: Apache-2.0
// Priorities that InferenceObjectives (inference.networking.x-k8s.io/v1alpha2) of an InferencePool give: requests name them.

import { MAX_PRIORITY } from "../../config/tenants.ts";
import { podNamespace } from "../pod.ts";
import type { KubernetesApi, KubernetesObject } from "./api.ts";

interface InferenceObjective extends KubernetesObject {
  readonly spec: { readonly priority?: number; readonly poolRef: { readonly name: string } };
}

/** A pool whose objectives count. */
export interface PoolName {
  readonly pool: string;
  readonly namespace: string | undefined;
}

/** All of a pool's objectives whenever they change: names and priorities. Throws Error when the server cannot be asked. */
export async function* watchObjectives(
  { pool, namespace }: PoolName,
  makeApi: () => KubernetesApi,
  signal: AbortSignal,
): AsyncGenerator<Readonly<Record<string, number>>> {
  using api = makeApi();
  const path = `/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/${
    namespace ?? await podNamespace()
  }/inferenceobjectives`;
  const known = new Map<string, number>();
  for await (const change of api.watch<InferenceObjective>({ path }, signal)) {
    if (change.kind === "all") known.clear();
    else for (const { metadata: { name } } of change.gone) known.delete(name);
    for (const { metadata: { name }, spec } of change.kind === "all" ? change.objects : change.changed) {
      if (spec.poolRef.name !== pool) known.delete(name);
      else known.set(name, Math.max(-MAX_PRIORITY, Math.min(MAX_PRIORITY, spec.priority ?? 0)));
    }
    yield Object.fromEntries(known);
  }
}
