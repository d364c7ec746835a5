// SPDX-License-Identifier: Apache-2.0
// Where TypeScript finds each region. The numbers are byte offsets.

import { CLUSTER_BYTES } from "./memory/cluster";
import { IDENTITY_BYTES } from "./memory/endpoint";
import {
  allowedRows,
  blockKeyBase,
  blockKeys,
  maxBlocks,
  cells,
  clusterBase,
  endpointBase,
  endpoints,
  hashes,
  histogram,
  identityBase,
  metricBase,
  nextGroupBase,
  ordinalBase,
  responseBase,
  positionGroup,
  positionPrompt,
  positionQueue,
  positionScore,
  predictorBase,
  promptText,
  requestBase,
  sampleBase,
  scratch,
  tenantBase,
} from "./memory/plan";
import { BUCKET_SLOTS } from "./memory/prefix";
import { PREDICTOR_BYTES } from "./memory/predictor_row";
import { REQUEST_BYTES } from "./memory/request_row";
import { RESPONSE_BUCKET_ENTRIES, RESPONSE_BYTES, SAMPLE_RING_BYTES } from "./memory/rings";
import { TENANT_BYTES } from "./memory/tenant";

/** The index of blocks: its keys. */
export function blockIndexOffset(bucket: u32): usize {
  return blockKeyBase + (<usize>bucket * BUCKET_SLOTS << 3);
}
/** Keys of a prompt's blocks, or of an engine's. */
export function blockKeysOffset(): usize {
  return scratch + blockKeys;
}
/** Most keys of blocks of one prompt. */
export function blockCapacity(): u32 {
  return maxBlocks;
}
export function clusterOffset(cluster: u32): usize {
  return clusterBase + <usize>cluster * CLUSTER_BYTES;
}
export function columnOffset(column: u32): usize {
  return endpointBase + (<usize>column * endpoints << 2);
}
export function nextGroupOffset(group: u32): usize {
  return nextGroupBase + (<usize>group << 2);
}
export function ordinalOffset(group: u32): usize {
  return ordinalBase + (<usize>group << 2);
}
export function identityOffset(row: u32): usize {
  return identityBase + <usize>row * IDENTITY_BYTES;
}
export function requestOffset(row: u32): usize {
  return requestBase + <usize>row * REQUEST_BYTES;
}
export function metricOffset(worker: u32): usize {
  return metricBase + (<usize>worker * cells << 3);
}
export function responseOffset(bucket: u32): usize {
  return responseBase + <usize>bucket * RESPONSE_BUCKET_ENTRIES * RESPONSE_BYTES;
}
export function sampleOffset(worker: u32): usize {
  return sampleBase + <usize>worker * SAMPLE_RING_BYTES;
}
export function predictorOffset(row: u32): usize {
  return predictorBase + <usize>row * PREDICTOR_BYTES;
}
export function tenantOffset(tenant: u32): usize {
  return tenantBase + <usize>tenant * TENANT_BYTES;
}
export function decisionOffset(): usize {
  return scratch;
}
export function queueOffset(): usize {
  return scratch + positionQueue;
}
export function promptOffset(): usize {
  return scratch + positionPrompt;
}
export function scoreOffset(): usize {
  return scratch + positionScore;
}
export function positionGroupOffset(): usize {
  return scratch + positionGroup;
}
export function allowedOffset(): usize {
  return scratch + allowedRows;
}
export function featureOffset(): usize {
  return scratch + histogram;
}
export function hashOffset(): usize {
  return scratch + hashes;
}
export function textOffset(): usize {
  return scratch + promptText;
}
