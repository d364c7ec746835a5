// SPDX-License-Identifier: Apache-2.0
// How much work ahead an endpoint without room may have for a request to be added to it. Requests of one tenant and
// priority fill an engine's steps with their small ones. Where others were served lately too, what is ahead of an endpoint
// is what the next of theirs waits for: then nothing is added, or a flood would fill every endpoint.

import { header } from "../memory/header";
import { clusterRow } from "../memory/plan";

/** Ms for which a cluster counts as shared after grants to two flows, and after the first. */
const SHARED_MS: f64 = 10_000;

/** A request of this tenant and band is granted an endpoint. */
export function observeFlow(cluster: u32, tenant: u32, band: u32, now: f64): void {
  const row = clusterRow(cluster);
  const flow = 1 + (tenant << 12) + band;
  if (row.lastFlow != flow) row.sharedAt = now;
  row.lastFlow = flow;
}

/** The bytes ahead, its own included, up to which a request is added; 0: to none without room. */
@inline
export function packOf(cluster: u32, now: f64): f32 {
  return now - clusterRow(cluster).sharedAt > SHARED_MS ? header().pack : 0;
}
