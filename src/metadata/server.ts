// SPDX-License-Identifier: Apache-2.0
// The metadata center's HTTP API over a Center: what the existing Go center defines, byte for byte where it does, and
// beyond it a port beside the IP, leases, batches and a watch stream.

import { GatewayError } from "../base/errors.ts";
import { boundedBody } from "../base/bounded_body.ts";
import { comesFromPage, type Visitors } from "../base/visitors.ts";
import { pathAndQuery } from "./urls.ts";
import { type Center, CenterFull } from "./center.ts";
import type { EngineLoad } from "./engine_load.ts";
import type { LineFile } from "../telemetry/line_file.ts";
import type { Log, LogLevel } from "../telemetry/log.ts";
import { CenterMetrics } from "./metrics.ts";
import { type WatchOptions, WatchStreams } from "./watch_streams.ts";
import {
  answer,
  failure,
  INVALID_INPUT,
  InvalidInput,
  NOT_FOUND,
  parseExact,
  printLoads,
  printLocations,
  readCacheQuery,
  readCacheSave,
  readEngineReport,
  readGateway,
  readLoadSet,
  readRequestId,
  REFUSED,
  UNEXPECTED,
} from "./wire.ts";

/** What a change is called between centers, and in a batch. */
export const EVENT_TYPES = [
  "load.stats.set",
  "load.stats.delete",
  "load.prompt.delete",
  "cache.save",
  "engine.report",
  "lease.renew",
  "lease.reset",
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** One change as it goes over the wire. */
export interface CenterEvent {
  type: EventType;
  body: Record<string, unknown>;
  /** When it was made, ms of `performance.now`, where its age counts; does not go over the wire. */
  madeAt?: number;
}

export interface CenterServerOptions extends WatchOptions {
  /** Told of every change that came from a gateway, to pass it on to the peers. */
  replicate?: (event: CenterEvent) => void;
  version: string;
  /** Gets a line for each request at its level debug; /log/level sets the level. */
  log?: Log;
  /** Who may call it; everybody, if not given. */
  visitors?: Visitors;
  /** Gets a line for each request. */
  accessLog?: Pick<LineFile, "write">;
}

const LOG_LEVELS = new Set(["debug", "info", "warn", "error"]);
const MAX_BODY_BYTES = 16 * 1024 * 1024;

export class CenterServer {
  readonly metrics: CenterMetrics;
  /** Changes when the center has forgotten everything: its clients tell it anew. */
  readonly epoch: string = crypto.randomUUID();
  /** Is told before a request is answered. */
  asked: (() => void) | undefined;
  readonly #streams: WatchStreams;

  constructor(readonly center: Center, readonly options: CenterServerOptions) {
    this.metrics = new CenterMetrics(options.version);
    this.#streams = new WatchStreams(center, options);
  }

  /** Answers one request; never throws. */
  readonly handle = async (request: Request, from?: { readonly remoteAddr: Deno.Addr }): Promise<Response> => {
    const started = performance.now();
    const traceId = request.headers.get("TraceId") ?? request.headers.get("X-Trace-ID") ??
      crypto.randomUUID().replaceAll("-", "");
    const { path, query } = pathAndQuery(request.url);
    let response: Response;
    try {
      this.#check(request, path);
      this.asked?.();
      response = await this.#route(request, path, query, traceId);
    } catch (error) {
      response = error instanceof InvalidInput || error instanceof CenterFull
        ? failure(400, { code: INVALID_INPUT, message: "invalid input", reason: error.message }, traceId)
        : error instanceof GatewayError
        ? failure(error.status, { code: REFUSED, message: error.code, reason: error.message }, traceId)
        : failure(500, { code: UNEXPECTED, message: "unexpected error", reason: String(error) }, traceId);
    }
    const ms = performance.now() - started;
    const domain = request.method === "GET" && query.get("domain") || null;
    this.metrics.answered(request.method, path, domain, response.status, ms);
    const { log, accessLog } = this.options;
    accessLog?.write(JSON.stringify({
      time: new Date().toISOString(),
      trace_id: traceId,
      client_ip: (from?.remoteAddr as Deno.NetAddr | undefined)?.hostname ?? "",
      method: request.method,
      path,
      query: query.toString(),
      event_type: request.headers.get("Event-Type") ?? "",
      user_agent: request.headers.get("user-agent") ?? "",
      status: response.status,
      latency_us: Math.round(ms * 1_000),
    }));
    if (log?.level === "debug") {
      log.debug("center request", { method: request.method, path, status: response.status, ms, trace_id: traceId });
    }
    return response;
  };

  // Whoever asks whether it is alive need not say who it is.
  #check(request: Request, path: string): void {
    this.options.visitors?.check(request, path === "/");
    if (path !== "/" && comesFromPage(request)) {
      throw new GatewayError("forbidden", "A web page of another origin has no business here");
    }
  }

  // Answers with this center's epoch and the number of the gateway's lease: when either is another one than before, the
  // center has forgotten what that gateway told. A bad event costs itself: those are listed.
  #batch(events: readonly unknown[], apply: (event: CenterEvent) => void): BatchResult {
    let gateway: string | undefined;
    const rejected: { event: number; reason: string }[] = [];
    for (const [i, event] of events.entries()) {
      try {
        const valid = readEvent(event);
        apply(valid);
        gateway ??= (valid.body as { gateway?: string } | undefined)?.gateway;
      } catch (error) {
        if (!(error instanceof InvalidInput)) throw error;
        rejected.push({ event: i, reason: error.message });
      }
    }
    const lease = gateway === undefined ? undefined : this.center.leaseNumber(gateway);
    return {
      epoch: this.epoch,
      ...(lease === undefined ? {} : { lease }),
      ...(rejected.length === 0 ? {} : { rejected }),
    };
  }

  #sentBatch(body: unknown, traceId: string): Response {
    const events = readEvents(body);
    const { gateway, cluster, sequence } = body as Record<string, unknown>;
    const numbered = typeof gateway === "string" && typeof cluster === "string" && typeof sequence === "number";
    if (numbered && !this.center.isNext(gateway, cluster, sequence)) {
      throw new InvalidInput(`sequence: ${sequence} is not above those of the batches before it`);
    }
    return answer(this.#batch(events, (event) => this.#replicated(event)), traceId);
  }

  async #route(request: Request, path: string, query: URLSearchParams, traceId: string): Promise<Response> {
    switch (`${request.method} ${path}`) {
      case "POST /v1/load/stats":
        return this.#apply("load.stats.set", await this.#body(request), traceId);
      case "DELETE /v1/load/stats":
        return this.#apply("load.stats.delete", await this.#body(request), traceId);
      case "DELETE /v1/load/prompt":
        return this.#apply("load.prompt.delete", await this.#body(request), traceId);
      case "POST /v1/cache/save":
        return this.#apply("cache.save", await this.#body(request), traceId);
      case "POST /v1/lease":
        return this.#apply("lease.renew", await this.#body(request), traceId);
      case "GET /v1/load/stats":
        return answer(printLoads(this.#loads(query)), traceId);
      case "POST /v1/cache/query": {
        const { cluster, hashes, topk, ports } = readCacheQuery(await this.#body(request));
        return answer(printLocations(this.center.queryCache(cluster, hashes, topk, !ports)), traceId);
      }
      case "POST /v1/batch":
        return this.#sentBatch(await this.#body(request), traceId);
      case "POST /v1/replica/event":
        return this.#replica(request, traceId);
      case "GET /v1/watch":
        return this.#streams.open(
          cluster(query),
          query.get("gateway") ?? undefined,
          Number(request.headers.get("last-event-id") ?? query.get("since") ?? 0),
        );
      case "POST /log/level": {
        const { LevelParam } = (await this.#body(request) ?? {}) as { LevelParam?: unknown };
        const level = typeof LevelParam === "string" ? LevelParam.toLowerCase() : "";
        if (!LOG_LEVELS.has(level)) throw new InvalidInput("LevelParam: expected DEBUG, INFO, WARN or ERROR");
        if (this.options.log) this.options.log.level = level as LogLevel;
        return answer(null, traceId);
      }
      case "GET /metrics":
        return new Response(this.metrics.text(this.center), {
          headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
        });
      case "GET /":
        return answer("alive", traceId);
      default: {
        const reason = `there is no ${request.method} ${path.slice(0, 200)}`;
        return failure(404, { code: NOT_FOUND, message: "not found", reason }, traceId);
      }
    }
  }

  // Who does not ask for ports knows engines by their IPv4 addresses alone.
  #loads(query: URLSearchParams): EngineLoad[] | undefined {
    const without = query.get("without") ?? undefined;
    return query.get("ports") === "true"
      ? this.center.loads(cluster(query), without)
      : this.center.plainLoads(cluster(query), without);
  }

  async #body(request: Request): Promise<unknown> {
    const { headers, body } = request;
    // Fast path: the length was told, and the runtime reads no more than that.
    const told = Number(headers.get("content-length") ?? NaN);
    if (told <= MAX_BODY_BYTES || body === null) return parseExact(await request.text());
    const bytes = await boundedBody(request, MAX_BODY_BYTES);
    if (bytes === undefined) throw new InvalidInput(`the body is larger than ${MAX_BODY_BYTES} bytes`);
    return parseExact(new TextDecoder().decode(bytes));
  }

  #apply(type: EventType, body: unknown, traceId: string): Response {
    this.#replicated({ type, body: body as Record<string, unknown> });
    return answer(null, traceId);
  }

  #replicated(event: CenterEvent): void {
    this.apply(event);
    this.options.replicate?.(event.type === "engine.report" ? { ...event, madeAt: performance.now() } : event);
  }

  /** Applies a change to this center only. Throws InvalidInput. */
  apply({ type, body }: CenterEvent): void {
    switch (type) {
      case "load.stats.set": {
        const load = readLoadSet(body);
        if (load.gateway !== undefined) this.center.renew(load.gateway);
        this.center.add(load);
        if (load.timestamp !== undefined) this.metrics.replicated(Date.now() - load.timestamp / 1e6);
        break;
      }
      case "load.stats.delete":
        this.center.delete(readRequestId(body));
        break;
      case "load.prompt.delete":
        this.center.deletePrompt(readRequestId(body));
        break;
      case "cache.save": {
        const save = readCacheSave(body);
        this.#streams.keep(save.cluster); // kept for watchers that come later
        this.center.saveCache(save);
        break;
      }
      case "engine.report":
        this.center.reported(readEngineReport(body));
        break;
      case "lease.renew":
        this.center.renew(readGateway(body).gateway);
        break;
      case "lease.reset": {
        const { gateway, cluster } = readGateway(body);
        this.center.reset(gateway, cluster);
        break;
      }
    }
  }

  // From a peer: applied, not passed on.
  async #replica(request: Request, traceId: string): Promise<Response> {
    const type = request.headers.get("Event-Type");
    const body = await this.#body(request);
    if (type === "aigw.batch") return answer(this.#batch(readEvents(body), (event) => this.apply(event)), traceId);
    if ((EVENT_TYPES as readonly (string | null)[]).includes(type)) {
      this.apply({ type: type as EventType, body: body as Record<string, unknown> });
    } else throw new InvalidInput(`Event-Type: expected one of ${EVENT_TYPES.join(", ")}`);
    return answer(null, traceId);
  }

  /** Drops what has been untouched for too long. Call about once a minute. */
  collectGarbage(): void {
    this.#streams.collectGarbage();
    this.center.collectGarbage();
  }

  /** Whether a watch stream is open. */
  get watching(): boolean {
    return this.#streams.count > 0;
  }

  /** Ends every watch stream. */
  close(): void {
    this.#streams.close();
  }
}

function cluster(query: URLSearchParams): string {
  const name = query.get("cluster");
  if (name === null || name === "") throw new InvalidInput("cluster: expected a query parameter");
  return name;
}

function readEvents(value: unknown): unknown[] {
  const events = (value as { events?: unknown } | null)?.events;
  if (!Array.isArray(events)) throw new InvalidInput("events: expected an array");
  return events;
}

function readEvent(value: unknown): CenterEvent {
  const event = value as CenterEvent | null;
  if (EVENT_TYPES.includes(event?.type as EventType)) return event!;
  throw new InvalidInput(`type: expected one of ${EVENT_TYPES.join(", ")}`);
}

/** What became of a batch. */
interface BatchResult {
  readonly epoch: string;
  /** Number of the lease of the gateway that told. */
  readonly lease?: number;
  /** Events that were not applied, by their place, and why. */
  readonly rejected?: { event: number; reason: string }[];
}
