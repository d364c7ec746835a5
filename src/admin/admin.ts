// SPDX-License-Identifier: Apache-2.0
// The admin listener: health, readiness, the fleet, explained decisions, metrics, workers. For operators, on loopback
// unless the config says otherwise; it never dispatches a request.

import { GatewayError } from "../base/errors.ts";
import { systemClock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { pathOf } from "../gateway/front.ts";
import type { RouteTable } from "../gateway/routes.ts";
import { errorBody } from "../openai/errors.ts";
import { promptText } from "../openai/prompt_text.ts";
import { decodeRequest } from "../openai/request.ts";
import type { DecisionMaker } from "../scheduler/decision.ts";
import type { EndpointLoad } from "../tables/endpoint_table.ts";

/** What the admin shows; the composition root gives it its sources. */
export interface AdminParts {
  readonly config: Config;
  readonly routes: RouteTable;
  readonly decisions: DecisionMaker;
  /** Why the gateway is not ready; undefined when it is. */
  notReady(): string | undefined;
  endpoints(): unknown[];
  /** Centers and the age of what they told; null without a metadata center. */
  center(): unknown;
  workers(): unknown[];
  metrics(): string;
  nameOf(row: number): string;
  /** What is ahead of an endpoint, through any gateway. */
  loadOf(row: number): EndpointLoad;
  restartWorker(worker: number): boolean;
  /** Drains an endpoint HOST:PORT or lets it serve again; false when there is none. */
  setDraining(name: string, draining: boolean): boolean;
}

const PATHS: Record<string, string> = {
  "/": "GET",
  "/healthz": "GET",
  "/readyz": "GET",
  "/endpoints": "GET",
  "/explain": "POST",
  "/metrics": "GET",
  "/config": "GET",
  "/workers": "GET",
};

/** Answers one admin request; never throws. */
export async function handleAdmin(parts: AdminParts, request: Request): Promise<Response> {
  const path = pathOf(request.url);
  try {
    const restart = /^\/workers\/(\d{1,4})\/restart$/.exec(path);
    const drain = /^\/endpoints\/([^/]+)\/(drain|resume)$/.exec(path);
    const method = restart || drain ? "POST" : PATHS[path];
    if (method === undefined) {
      throw new GatewayError("route_not_found", `There is no path ${path.slice(0, 200)}; there are: ${pathList()}`);
    }
    if (request.method !== method) {
      throw new GatewayError("method_not_allowed", `${path} takes ${method}, not ${request.method}`);
    }
    if (restart) return restartWorker(parts, Number(restart[1]));
    if (drain) return setDraining(parts, decodeURIComponent(drain[1]), drain[2] === "drain");
    return await answer(parts, path, request);
  } catch (error) {
    const known = error instanceof GatewayError ? error : new GatewayError("internal", String(error));
    return new Response(errorBody(known), { status: known.status, headers: { "content-type": "application/json" } });
  }
}

function pathList(): string {
  return [...Object.keys(PATHS), "/workers/N/restart", "/endpoints/HOST:PORT/drain", "/endpoints/HOST:PORT/resume"]
    .join(" ");
}

async function answer(parts: AdminParts, path: string, request: Request): Promise<Response> {
  switch (path) {
    case "/healthz":
      return new Response("ok\n");
    case "/readyz": {
      const reason = parts.notReady();
      return reason === undefined ? new Response("ready\n") : new Response(`${reason}\n`, { status: 503 });
    }
    case "/endpoints":
      return json({ endpoints: parts.endpoints(), metadata_center: parts.center() });
    case "/workers":
      return json({ workers: parts.workers() });
    case "/config":
      return json(parts.config);
    case "/metrics":
      return new Response(parts.metrics(), { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } });
    case "/explain":
      return json(explain(parts, request.headers, await request.bytes()));
    default:
      return new Response(`${pathList()}\n`);
  }
}

function restartWorker(parts: AdminParts, worker: number): Response {
  if (!parts.restartWorker(worker)) throw new GatewayError("route_not_found", `There is no worker ${worker} serving`);
  return json({ worker, restarting: true });
}

function setDraining(parts: AdminParts, name: string, draining: boolean): Response {
  if (!parts.setDraining(name, draining)) throw new GatewayError("route_not_found", `There is no endpoint ${name}`);
  return json({ endpoint: name, draining });
}

function json(value: unknown): Response {
  return new Response(`${JSON.stringify(value, null, 2)}\n`, { headers: { "content-type": "application/json" } });
}

// The decision that a gateway worker would take now for this body and these headers, with everything that led to it.
function explain(
  { config, routes, decisions, nameOf, loadOf }: AdminParts,
  headers: Headers,
  body: Uint8Array,
): unknown {
  const request = decodeRequest(undefined, body);
  const route = routes.resolve(request.model, headers);
  const { policy } = route.placement;
  const text = promptText(request, {
    digest: decisions.digest,
    payloadCharacters: config.limits.payload_characters,
  });
  const { chosen, chunks, everywhereBytes, candidates } = decisions.explain(
    text,
    route.placement,
    route.model,
    systemClock.shared(),
  );
  const weights = {
    candidate_percent: policy.candidatePercent,
    cache_radio_weight: policy.cacheWeight,
    request_load_weight: policy.requestWeight,
    prefill_load_weight: policy.prefillWeight,
  };
  return {
    model: request.model,
    target_model: route.targetModel || request.model,
    cluster: route.rule.cluster,
    route_name: route.rule.route_name,
    policy: {
      algorithm: policy.name,
      cache_aware: policy.cacheAware,
      ...(policy.name === "inference_lb" ? weights : {}),
    },
    prompt: { bytes: new TextEncoder().encode(text).length, chunks, bytes_held_everywhere: everywhereBytes },
    candidates: candidates.sort((a, b) => b.score - a.score).map((
      { row, requests, cachedBytes, score, room },
    ) => {
      const { promptBytes, uncachedBytes, rate } = loadOf(row);
      return {
        endpoint: nameOf(row),
        score,
        in_flight: requests,
        prompt_bytes: promptBytes,
        uncached_bytes: uncachedBytes,
        prefill_ms_per_kib: rate * 1_024,
        cached_bytes: cachedBytes,
        has_room: room,
      };
    }),
    chosen: chosen < 0 ? null : nameOf(chosen),
    would_wait: candidates.some(({ row, room }) => row === chosen && room === false),
  };
}
