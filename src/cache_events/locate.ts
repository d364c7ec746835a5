// SPDX-License-Identifier: Apache-2.0
// Where an engine publishes what its caches hold, as it says itself: vLLM from 0.32 on at /kv_event_sources, a source for
// each data-parallel rank; SGLang among what /server_info tells.

import { zmqAddress } from "../config/kv_events.ts";
import type { SourceAddress } from "./source.ts";

/** Reads a page of the engine; undefined where it has none. */
export type ReadPage = (path: string) => Promise<string | undefined>;

interface Told {
  readonly enable_kv_cache_events?: boolean;
  readonly publisher?: string;
  readonly endpoint?: string;
  readonly replay_endpoint?: string | null;
  readonly topic?: string;
}

const MOST_RANKS = 1_024;

/** By rank; empty where the engine tells nothing. `host` stands for an address that is any of the engine's. */
export async function locate(read: ReadPage, host: string): Promise<ReadonlyMap<number, SourceAddress>> {
  const sources = new Map<number, SourceAddress>();
  const add = (rank: number, { enable_kv_cache_events, publisher, endpoint, replay_endpoint, topic }: Told): void => {
    const events = enable_kv_cache_events === false || publisher !== "zmq" || endpoint === undefined
      ? undefined
      : zmqAddress(endpoint, host);
    const replay = replay_endpoint == null ? undefined : zmqAddress(replay_endpoint, host);
    if (events !== undefined) sources.set(rank, { events, replay, topic: topic ?? "" });
  };
  const ranks = parsed(await read("/kv_event_sources"));
  if (ranks !== undefined) {
    for (const [rank, told] of Object.entries(ranks)) if (/^\d+$/.test(rank)) add(Number(rank), told as Told ?? {});
    return sources;
  }
  const info = parsed(await read("/server_info"));
  const config = info?.kv_events_config;
  const told = typeof config === "string" ? parsed(config) : config;
  if (typeof told !== "object" || told === null) return sources;
  // Each rank publishes at a port of its own.
  for (let rank = 0; rank < Math.min(MOST_RANKS, Number(info!.dp_size ?? 1)); rank++) {
    const { endpoint, replay_endpoint } = told as Told;
    add(rank, {
      publisher: "zmq",
      ...told,
      endpoint: endpoint && moved(endpoint, rank),
      replay_endpoint: replay_endpoint && moved(replay_endpoint, rank),
    });
  }
  return sources;
}

function moved(endpoint: string, rank: number): string {
  return endpoint.replace(/\d+$/, (port) => String(Number(port) + rank));
}

function parsed(text: string | undefined): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
