// SPDX-License-Identifier: Apache-2.0
// The metadata center's wire: bodies, their validation, the envelope of every answer. Hashes are unsigned 64-bit integers,
// exact in both directions although JSON numbers beyond 2^53 are not.

import { z } from "zod";
import type { LoadRequest } from "./center.ts";
import type { EngineLoad } from "./engine_load.ts";
import type { EngineAddress } from "./engine_address.ts";
import type { EngineReport, EngineReportTold } from "./engine_report.ts";
import type { CacheLocation } from "./prefix_holders.ts";

/** Invalid input, answered with 400. */
export class InvalidInput extends Error {
  override readonly name = "InvalidInput";
}

export const INVALID_INPUT = 40_001_400;
export const UNEXPECTED = 50_001_000;
export const REFUSED = 40_001_403;
export const NOT_FOUND = 40_401_404;

declare global {
  interface JSON {
    /** A value that JSON.stringify prints as this text. */
    rawJSON(text: string): unknown;
  }
}

/** Parses JSON; integers that a double cannot hold become bigint. */
export function parseExact(text: string): unknown {
  // The reviver's third argument, with the source text of primitives, is newer than the type definitions.
  const parse = JSON.parse as (
    text: string,
    reviver: (key: string, value: unknown, context: { source?: string }) => unknown,
  ) => unknown;
  try {
    // Fast path: without a number of 16 digits or more, doubles are exact.
    if (!/\d{16}/.test(text)) return JSON.parse(text);
    return parse(
      text,
      (_key, value, { source }) =>
        typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source!) ? BigInt(source!) : value,
    );
  } catch (error) {
    throw new InvalidInput(`The body is not valid JSON: ${(error as Error).message}`);
  }
}

/** Prints JSON; bigints appear as plain integers. */
export function printExact(value: unknown): string {
  return JSON.stringify(value, (_key, item) => typeof item === "bigint" ? JSON.rawJSON(String(item)) : item);
}

const OCTET = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const IPV4 = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);
export const isIpv4 = (text: string): boolean => IPV4.test(text);
const ipv4 = z.string().regex(IPV4, { error: "expected an IPv4 address" });
const host = z.string().max(257).regex(/^[0-9A-Za-z._:%-]+(#\d{1,3})?$/, { error: "expected a name or an address" });
const port = z.int().min(1).max(65_535).optional();
/** How an engine is named: by `ip` as ever, or by a `host` that is none, with its `ip` for those who know nothing else. */
const engine = { ip: ipv4.nullish(), host: host.nullish(), port };
const named = <T extends z.ZodType<{ ip?: string | null; host?: string | null }>>(schema: T) =>
  schema.refine(({ ip, host }) => (ip ?? host) !== undefined && (ip ?? host) !== null, {
    path: ["ip"],
    error: "expected an IPv4 address",
  });
const hash = z.union([z.int().min(0).transform(BigInt), z.bigint().min(0n).max((1n << 64n) - 1n)]);
const name = z.string().min(1).max(512);
const integer = z.union([z.int(), z.bigint().transform(Number)]);

const loadSetSchema = named(z.object({
  cluster: name,
  request_id: name,
  ...engine,
  prompt_length: integer.pipe(z.number().min(0)).nullish(),
  timestamp: integer.nullish(),
  gateway: name.nullish(),
}));
const requestIdSchema = z.object({ request_id: name });
const cacheSaveSchema = named(z.object({
  cluster: name,
  ...engine,
  prompt_hash: z.array(hash).min(1).max(65_536),
  gateway: name.nullish(),
}));
const engineReportSchema = named(z.object({
  cluster: name,
  ...engine,
  signals: z.record(z.string().max(64), z.unknown()),
  age_ms: z.number().min(0).max(60_000),
  cost_ms: z.number().min(0).max(60_000),
  gateway: name.nullish(),
}));
/** Engines that a query is answered with when it does not say how many. */
const DEFAULT_TOPK = 10;
const cacheQuerySchema = z.object({
  cluster: name,
  prompt_hash: z.array(hash).max(65_536),
  /** 0 is what Go sends of none. */
  topk: z.int().min(0).max(10_000).default(DEFAULT_TOPK).transform((topk) => topk || DEFAULT_TOPK),
  ports: z.boolean().nullish(),
});

const gatewaySchema = z.object({ gateway: name, cluster: name.optional() });

export type LoadSetBody = z.infer<typeof loadSetSchema>;
export type CacheSaveBody = z.infer<typeof cacheSaveSchema>;

function read<T extends z.ZodType>(schema: T, value: unknown): z.infer<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const path = issue.path.map(String).join(".");
  throw new InvalidInput(path === "" ? issue.message : `${path}: ${issue.message.replace(/^Invalid input: /, "")}`);
}

export const readLoadSet = (value: unknown): LoadRequest & { timestamp?: number } => {
  const body = read(loadSetSchema, value);
  return {
    cluster: body.cluster,
    requestId: body.request_id,
    ...addressOf(body),
    promptLength: body.prompt_length ?? 0,
    gateway: body.gateway ?? undefined,
    timestamp: body.timestamp ?? undefined,
  };
};
export const readRequestId = (value: unknown): string => read(requestIdSchema, value).request_id;
export const readCacheSave = (value: unknown) => {
  const body = read(cacheSaveSchema, value);
  return { cluster: body.cluster, ...addressOf(body), hashes: body.prompt_hash, gateway: body.gateway ?? undefined };
};
export const readEngineReport = (value: unknown): EngineReportTold => {
  const { cluster, signals, age_ms, cost_ms, gateway, ...rest } = read(engineReportSchema, value);
  const report = { signals, ageMs: age_ms, costMs: cost_ms };
  return { cluster, ...addressOf(rest), report, gateway: gateway ?? undefined };
};
export const readGateway = (value: unknown) => read(gatewaySchema, value);
export const readCacheQuery = (value: unknown) => {
  const { cluster, prompt_hash, topk, ports } = read(cacheQuerySchema, value);
  return { cluster, hashes: prompt_hash, topk, ports: ports === true };
};

/** A reading as bodies have it. */
export function printReport({ signals, ageMs, costMs }: EngineReport) {
  return { signals, age_ms: ageMs, cost_ms: costMs };
}

interface NamedEngine {
  readonly ip?: string | null;
  readonly host?: string | null;
  readonly port?: number;
}

/** The engine that a body or a row names. */
export function addressOf({ ip, host, port }: NamedEngine): EngineAddress {
  const identity = (host ?? ip)!;
  return {
    host: identity,
    ...(ip === undefined || ip === null || ip === identity ? {} : { ip }),
    ...(port === undefined ? {} : { port }),
  };
}

/** An engine as bodies and rows name it. */
export function printEngine({ host, ip, port }: EngineAddress): NamedEngine {
  return {
    ...(isIpv4(host) ? { ip: host } : { host, ...(ip === undefined ? {} : { ip }) }),
    ...(port === undefined ? {} : { port }),
  };
}

/** The rows of `GET /v1/load/stats`. */
export function printLoads(loads: EngineLoad[] | undefined): unknown {
  if (!loads) return null;
  return loads.map(({ queued, promptLength, updatedMs, ...engine }) => ({
    ...printEngine(engine),
    queued_req_num: queued,
    prompt_length: promptLength,
    updated_time: BigInt(Math.round(updatedMs)) * 1_000_000n,
  }));
}

export function printLocations(locations: CacheLocation[]): unknown {
  return {
    locations: locations.map(({ length, ...engine }) => ({ ...printEngine(engine), length })),
  };
}

/** A successful answer. */
export function answer(data: unknown, traceId: string): Response {
  return envelope({ status: "OK", error: null, data, trace_id: traceId }, 200, traceId);
}

export interface FailureParts {
  readonly code: number;
  readonly message: string;
  readonly reason: string;
}

/** A failed answer. */
export function failure(status: number, { code, message, reason }: FailureParts, traceId: string): Response {
  return envelope(
    { status: "ERROR", error: { code, message, reason }, data: null, trace_id: traceId },
    status,
    traceId,
  );
}

function envelope(value: unknown, status: number, traceId: string): Response {
  return new Response(printExact(value), {
    status,
    headers: { "content-type": "application/json; charset=utf-8", "TraceId": traceId, "X-Trace-ID": traceId },
  });
}
