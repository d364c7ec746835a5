// SPDX-License-Identifier: Apache-2.0
// The admin listener: health, readiness, the fleet, explained decisions, metrics, workers. For operators, on loopback
// unless the config says otherwise; it never dispatches a request.

import { GatewayError } from "../base/errors.ts";
import { systemClock } from "../base/clock.ts";
import { boundedBody } from "../base/bounded_body.ts";
import { comesFromPage, type Visitors } from "../base/visitors.ts";
import type { Snapshot } from "../config/snapshot.ts";
import type { SourceView } from "../control/discoveries.ts";
import type { ReloadResult, ReloadView } from "../control/reloader.ts";
import { pathOf } from "../front/http/exchange.ts";
import { targetOf } from "../front/http/served.ts";
import type { RouteTable } from "../gateway/routes.ts";
import { errorBody } from "../openai/errors.ts";
import { promptText } from "../openai/prompt_text.ts";
import { decodeShortened, PayloadSearch } from "../openai/payloads.ts";
import { decodeRequest } from "../openai/request.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import type { DecisionMaker } from "../scheduler/decision.ts";
import { CONTENT_TYPES, formatFor, type TextFormat } from "../telemetry/prometheus.ts";
import type { EndpointLoad } from "../tables/endpoint_table.ts";
import { deleteEndpoint, type EndpointParts, putEndpoint } from "./endpoints.ts";
import { page, pageFile } from "./page.ts";

/** Bytes of a prompt that a hash is of. */
const CHUNK_BYTES = 512;

/** Bytes of what is told of an endpoint. */
const MAX_ENDPOINT_BYTES = 65_536;

/** What the admin shows and does; the composition root gives it its sources. */
export interface AdminParts extends EndpointParts {
  /** What requests are served by. */
  snapshot(): Snapshot;
  reload(): ReloadView;
  reloadNow(): Promise<ReloadResult>;
  routes(): RouteTable;
  readonly decisions: DecisionMaker;
  /** Tokens of prompts, of models with a tokenizer. */
  readonly tokens: PromptTokens;
  /** Where endpoints come from. */
  sources(): SourceView[];
  /** Why the gateway is not ready; undefined when it is. */
  notReady(): string | undefined;
  endpoints(): unknown[];
  /** Centers and the age of what they told; null without a metadata center. */
  center(): unknown;
  workers(): unknown[];
  metrics(format: TextFormat): string;
  /** The stream behind the page; undefined when there are too many. */
  events(): ReadableStream<Uint8Array> | undefined;
  nameOf(row: number): string;
  /** What is ahead of an endpoint, through any gateway. */
  loadOf(row: number): EndpointLoad;
  /** Ends a worker at once, as a crash would; false when there is none. */
  killWorker(worker: number): boolean;
  /** Has another serve in its place before it stops to accept; false when that cannot be now. */
  replaceWorker(worker: number): Promise<boolean>;
  /** Drains an endpoint HOST:PORT or lets it serve again; false when there is none. */
  setDraining(name: string, draining: boolean): boolean;
}

type Handler = (parts: AdminParts, request: Request, ...matched: string[]) => Response | Promise<Response>;

interface AdminRoute {
  /** As it is shown where a path is not found. */
  readonly path: string;
  readonly pattern: RegExp;
  readonly methods: Readonly<Record<string, Handler>>;
  /** It tells nothing of the fleet, and needs no token. */
  readonly open?: boolean;
  /** Whether its methods other than GET change anything; true if not given. */
  readonly changes?: boolean;
}

const ROUTES: readonly AdminRoute[] = [
  {
    ...route("/", {
      // A browser gets the page, others the list of paths.
      GET: (_, { headers }) => headers.get("accept")?.includes("text/html") ? page() : new Response(`${pathList()}\n`),
    }),
    open: true,
  },
  { ...route("/page/FILE", { GET: (_, __, name) => pageFile(name) ?? noFile(name) }), open: true },
  route("/events", { GET: events }),
  { ...route("/healthz", { GET: () => new Response("ok\n") }), open: true },
  { ...route("/readyz", { GET: ready }), open: true },
  route("/endpoints", {
    GET: (parts) => json({ endpoints: parts.endpoints(), sources: parts.sources(), metadata_center: parts.center() }),
  }),
  route("/endpoints/HOST:PORT/drain", { POST: (parts, _, name) => setDraining(parts, name, true) }),
  route("/endpoints/HOST:PORT/resume", { POST: (parts, _, name) => setDraining(parts, name, false) }),
  route("/clusters/CLUSTER/endpoints/HOST:PORT", {
    PUT: async (parts, request, cluster, name) => {
      const body = await bodyOf(request, MAX_ENDPOINT_BYTES);
      return json(putEndpoint(parts, cluster, name, new TextDecoder().decode(body)));
    },
    DELETE: (parts, _, cluster, name) => json(deleteEndpoint(parts, cluster, name)),
  }),
  {
    ...route("/explain", {
      POST: async (parts, request) => {
        const body = await bodyOf(request, parts.config().limits.body_bytes);
        return json(await explain(parts, request.headers, body));
      },
    }),
    changes: false,
  },
  route("/metrics", {
    GET(parts, { headers }) {
      const format = formatFor(headers.get("accept"));
      return new Response(parts.metrics(format), {
        headers: { "content-type": CONTENT_TYPES[format], vary: "accept" },
      });
    },
  }),
  route("/config", { GET: (parts) => json({ status: parts.reload(), config: parts.config() }) }),
  route("/config/reload", { POST: reload }),
  route("/workers", { GET: (parts) => json({ workers: parts.workers() }) }),
  route("/workers/N/restart", { POST: (parts, { url }, worker) => restartWorker(parts, worker, url) }),
];

// Words in capitals stand for a part of the path each.
function route(path: string, methods: AdminRoute["methods"]): AdminRoute {
  return { path, pattern: new RegExp(`^${path.replaceAll(/[A-Z]+(:[A-Z]+)?/g, "([^/]+)")}$`), methods };
}

/** Answers one admin request; never throws. */
export async function handleAdmin(parts: AdminParts, visitors: Visitors, request: Request): Promise<Response> {
  const path = withoutSlash(pathOf(targetOf(request.url)));
  // HEAD is GET without a body: the runtime leaves that out.
  const method = request.method === "HEAD" ? "GET" : request.method;
  try {
    for (const { pattern, methods, open = false, changes = true } of ROUTES) {
      const matched = pattern.exec(path);
      if (matched === null) continue;
      visitors.check(request, open);
      const handler = Object.hasOwn(methods, method) ? methods[method] : undefined;
      if (handler === undefined) {
        const allowed = Object.keys(methods).join(" or ");
        throw new GatewayError("method_not_allowed", `${path} takes ${allowed}, not ${request.method}`);
      }
      if (method !== "GET" && comesFromPage(request)) {
        throw new GatewayError("forbidden", "A web page of another origin may ask for nothing here");
      }
      if (method !== "GET" && changes) visitors.checkChange(request);
      return await handler(parts, request, ...matched.slice(1).map(decoded));
    }
    throw new GatewayError("route_not_found", `There is no path ${path.slice(0, 200)}; there are: ${pathList()}`);
  } catch (error) {
    const known = error instanceof GatewayError ? error : new GatewayError("internal", String(error));
    return new Response(errorBody(known), { status: known.status, headers: { "content-type": "application/json" } });
  }
}

async function bodyOf(request: Request, mostBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const body = await boundedBody(request, mostBytes);
  if (body === undefined) throw new GatewayError("body_too_large", `The body is larger than ${mostBytes} bytes`);
  return body;
}

function noFile(name: string): never {
  throw new GatewayError("route_not_found", `The page has no file ${name.slice(0, 200)}`);
}

function events(parts: AdminParts): Response {
  const stream = parts.events();
  if (stream === undefined) throw new GatewayError("overloaded", "As many pages are open as there may be");
  return new Response(stream, { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } });
}

function withoutSlash(path: string): string {
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new GatewayError("invalid_request", `The path has a part that is not percent-encoded rightly: ${text}`);
  }
}

function pathList(): string {
  return ROUTES.map(({ path }) => path).join(" ");
}

// The reason on the first line; below it, what is wrong although it serves.
function ready({ notReady, sources, reload }: AdminParts): Response {
  const reason = notReady();
  const lines = [reason ?? "ready"];
  for (const { source, state, error } of sources()) if (state === "failing") lines.push(`failing: ${source}: ${error}`);
  const { last_error, restart_needed_for } = reload();
  if (last_error !== null) lines.push(`a changed configuration is refused: ${last_error}`);
  if (restart_needed_for.length > 0) lines.push(`changed, and waiting for a restart: ${restart_needed_for.join(", ")}`);
  return new Response(`${lines.join("\n")}\n`, { status: reason === undefined ? 200 : 503 });
}

async function reload({ reloadNow, reload }: AdminParts): Promise<Response> {
  const result = await reloadNow();
  return json({ ...result, status: reload() }, result.result === "refused" ? 400 : 200);
}

// `now` ends it at once, with what it has under way.
async function restartWorker(parts: AdminParts, text: string, url: string): Promise<Response> {
  const worker = /^\d{1,4}$/.test(text) ? Number(text) : NaN;
  const now = new URL(url).searchParams.has("now");
  if (!(now ? parts.killWorker(worker) : await parts.replaceWorker(worker))) {
    const message = `There is no worker ${text} serving that could be ${now ? "ended" : "replaced"} now`;
    throw new GatewayError("route_not_found", message);
  }
  return json({ worker, restarting: true });
}

function setDraining(parts: AdminParts, name: string, draining: boolean): Response {
  if (!parts.setDraining(name, draining)) throw new GatewayError("route_not_found", `There is no endpoint ${name}`);
  return json({ endpoint: name, draining });
}

function json(value: unknown, status = 200): Response {
  const headers = { "content-type": "application/json" };
  return new Response(`${JSON.stringify(value, null, 2)}\n`, { status, headers });
}

// The decision that a gateway worker would take now for this body and these headers, with everything that led to it.
async function explain(
  { config, routes, decisions, tokens, nameOf, loadOf }: AdminParts,
  headers: Headers,
  body: Uint8Array,
): Promise<unknown> {
  const short = new PayloadSearch().shortened(body);
  const request = short === undefined ? decodeRequest(undefined, body) : decodeShortened(undefined, short);
  const route = routes().resolve(request, headers);
  const { policy, cluster } = route.placement;
  const asked = tokens.knows(route.modelName)
    ? tokens.ask({ model: route.modelName, body, cluster, lora: route.lora, salt: request.cacheSalt ?? "" })
    : undefined;
  await asked?.done;
  const text = promptText(request, {
    digest: decisions.digest,
    payloadCharacters: config().limits.payload_characters,
    goChats: config().metadata_center.go_prefixes,
  });
  const { chosen, chunks, everywhereBytes, sharedBytes, candidates } = decisions.explain(
    text,
    route.placement,
    route.model,
    systemClock.shared(),
    asked,
  );
  const weights = {
    candidate_percent: policy.candidatePercent,
    cache_radio_weight: policy.cacheWeight,
    request_load_weight: policy.requestWeight,
    prefill_load_weight: policy.prefillWeight,
  };
  return {
    model: request.model || route.modelName,
    target_model: route.targetModel || request.model || route.modelName,
    cluster: route.rule.cluster,
    route_name: route.rule.route_name,
    policy: {
      algorithm: policy.name,
      cache_aware: policy.cacheAware,
      ...(policy.name === "inference_lb" ? weights : {}),
    },
    prompt: {
      bytes: new TextEncoder().encode(text).length,
      tokens: asked?.blocks?.tokens ?? null,
      chunks,
      bytes_held_everywhere: everywhereBytes,
      bytes_shared_by_many: sharedBytes,
    },
    candidates: candidates.sort((a, b) => b.score - a.score).map((
      { row, requests, cachedBytes, cachedExactly, score, room },
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
        cached_exactly: cachedExactly,
        cached_chunks: Math.floor(cachedBytes / CHUNK_BYTES),
        has_room: room,
      };
    }),
    chosen: chosen < 0 ? null : nameOf(chosen),
    would_wait: candidates.some(({ row, room }) => row === chosen && room === false),
  };
}
