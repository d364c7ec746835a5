// SPDX-License-Identifier: Apache-2.0
// Who the gateway says it is to a control plane: a router of the mesh, in Istio's words.

import type { XdsConfig } from "../../config/xds.ts";
import { podNamespace } from "../pod.ts";
import { structOf } from "./messages.ts";

function address(): string {
  const told = Deno.env.get("POD_IP") ?? Deno.env.get("INSTANCE_IP");
  if (told) return told;
  const all = Deno.networkInterfaces().filter(({ address }) => !/^(?:127\.|::1$|fe80:)/.test(address));
  return (all.find(({ family }) => family === "IPv4") ?? all[0])?.address ?? "127.0.0.1";
}

/** A Node of xDS. */
export async function nodeOf({ node_id, labels }: XdsConfig): Promise<unknown> {
  const where = await podNamespace();
  const name = Deno.env.get("POD_NAME") ?? Deno.hostname();
  return {
    id: node_id ?? `router~${address()}~${name}.${where}~${where}.svc.cluster.local`,
    cluster: labels.app ?? "aigw",
    user_agent_name: "aigw",
    metadata: structOf({ NAMESPACE: where, NAME: name, CLUSTER_ID: "Kubernetes", LABELS: labels }),
  };
}
