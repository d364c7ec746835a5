// SPDX-License-Identifier: Apache-2.0
// What is counted of one engine, in all and by gateway.

import { type EngineAddress, plainKey } from "./engine_address.ts";

/** Load of one engine. */
export interface EngineLoad extends EngineAddress {
  queued: number;
  promptLength: number;
  /** Milliseconds since the epoch of the last change. */
  updatedMs: number;
}

/** What is counted of an engine. */
export interface Engine extends EngineAddress {
  total: Share;
  /** The part that each gateway with a lease causes. */
  byGateway: Map<string, Share>;
  updatedMs: number;
}

interface Share {
  queued: number;
  promptLength: number;
}

/** An engine that nobody has told of yet. */
export function newEngine({ host, ip, port }: EngineAddress): Engine {
  return { host, ip, port, total: { queued: 0, promptLength: 0 }, byGateway: new Map(), updatedMs: 0 };
}

/** Load of an engine, less what the gateway `without` causes. */
export function figures(engine: Engine, without: string | undefined): EngineLoad {
  const share = without === undefined ? undefined : engine.byGateway.get(without);
  const { host, ip, port } = engine;
  return {
    host,
    ...(ip === undefined ? {} : { ip }),
    ...(port === undefined ? {} : { port }),
    queued: engine.total.queued - (share?.queued ?? 0),
    promptLength: engine.total.promptLength - (share?.promptLength ?? 0),
    updatedMs: engine.updatedMs,
  };
}

/** The same with those that share a host as one. */
export function byHost(loads: EngineLoad[]): EngineLoad[] {
  const hosts = new Map<string, EngineLoad>();
  for (const load of loads) {
    const host = plainKey(load);
    const known = hosts.get(host);
    const { queued, promptLength, updatedMs } = load;
    hosts.set(host, {
      host,
      queued: queued + (known?.queued ?? 0),
      promptLength: promptLength + (known?.promptLength ?? 0),
      updatedMs: Math.max(updatedMs, known?.updatedMs ?? 0),
    });
  }
  return [...hosts.values()];
}
