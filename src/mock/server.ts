// SPDX-License-Identifier: Apache-2.0
// The mock engine's HTTP face: what a gateway meets in front of vLLM. Answers are words; times, queues, cache hits and
// metrics come from the engine model. It names itself in `x-mock-engine`.

import { z } from "zod";
import { type Address, formatAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { DEAD, MockControl } from "./control.ts";
import { EngineDriver } from "./engine_driver.ts";
import { DEFAULT_PROFILE, EngineModel, type EngineProfile } from "./engine_model.ts";
import { type Fault, FaultPlan, faultSchema } from "./faults.ts";
import { type KvEventOptions, KvPublisher } from "./kv_publisher.ts";
import { metricsText } from "./metrics.ts";
import { Completion, type EngineContext, failure, requestSchema } from "./completion.ts";
import { MockSurface } from "./surface.ts";

export interface MockEngineOptions {
  address: Address;
  /** Model names that it serves; any when empty. */
  models?: string[];
  /** LoRA adapters that it serves beside them. */
  adapters?: string[];
  profile?: Partial<EngineProfile>;
  /** Times faster than the profile. */
  speed?: number;
  /** Answer at once, without the engine model: for load tests of a proxy. */
  instant?: boolean;
  fault?: Fault;
  /** Tokens of an answer whose request sets no maximum. */
  outputTokens?: number;
  /** Tell what the cache holds, as vLLM does; without them nothing. */
  kvEvents?: Omit<KvEventOptions, "hostname" | "blockTokens">;
}

export interface MockEngine {
  readonly address: Address;
  readonly model: EngineModel;
  readonly faults: FaultPlan;
  /** Batches of events that it has published. */
  readonly kvBatches: number;
  /** Runs so many times faster than its profile from the next step on. */
  setSpeed(speed: number): void;
  /** Generates nothing more until `resume`. */
  pause(): void;
  resume(): void;
  /** Adapters, and its death. */
  readonly control: MockControl;
  stop(): Promise<void>;
}

/** Starts an engine; port 0 takes a free one. Throws Deno.errors.AddrInUse. */
export function startMockEngine(options: MockEngineOptions): MockEngine {
  const model = new EngineModel({ ...DEFAULT_PROFILE, ...options.profile });
  const driver = new EngineDriver(model, systemClock, options.speed ?? 1);
  const faults = new FaultPlan(options.fault);
  const { hostname } = options.address;
  const events = options.kvEvents &&
    new KvPublisher({ ...options.kvEvents, hostname, blockTokens: model.profile.blockTokens });
  model.cache.listener = events;
  const context: Context = {
    options,
    events,
    model,
    driver,
    faults,
    name: "",
    surface: new MockSurface(),
    control: new MockControl(driver, options.models ?? [], options.adapters ?? []),
    adapters: new Map(),
  };
  const server = Deno.serve(
    { hostname: options.address.hostname, port: options.address.port, onListen() {} },
    (request) => handle(context, request),
  );
  const address = { hostname: options.address.hostname, port: server.addr.port };
  context.name = formatAddress(address);
  return {
    address,
    model,
    faults,
    get kvBatches() {
      return events?.batches ?? 0;
    },
    setSpeed(speed) {
      driver.speed = speed;
    },
    pause: () => driver.pause(),
    resume: () => driver.resume(),
    control: context.control,
    async stop() {
      driver.stop();
      await server.shutdown();
      await events?.[Symbol.asyncDispose]();
    },
  };
}

interface Context extends EngineContext {
  faults: FaultPlan;
  name: string;
  surface: MockSurface;
}

async function handle(context: Context, request: Request): Promise<Response> {
  const path = new URL(request.url).pathname;
  const response = await route(context, request, path);
  response.headers.set("x-mock-engine", context.name);
  return response;
}

async function route(context: Context, request: Request, path: string): Promise<Response> {
  const { model, options, faults, control } = context;
  const controlled = await control.answer(request, path);
  if (controlled) return controlled;
  if (control.dead && request.method === "POST") return Response.json({ error: DEAD }, { status: 500 });
  switch (`${request.method} ${path}`) {
    case "GET /metrics":
      return new Response(metricsText(options.models?.[0] ?? "mock", model, context.adapters), {
        headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
      });
    case "GET /kv_event_sources":
      if (context.events === undefined || context.events.options.untold) break;
      return Response.json(context.events.page());
    case "POST /tokenize": {
      const body = jsonOf(await request.clone().text()) as Record<string, unknown> | undefined;
      const tokens = body && context.events?.tokensOf(body);
      if (!tokens) break;
      return Response.json({ count: tokens.length, max_model_len: 1_048_576, tokens: [...tokens] });
    }
    case "POST /reset_prefix_cache":
      model.cache.clear();
      return new Response();
    case "POST /faults": {
      const text = await request.text();
      const parsed = faultSchema.safeParse(text === "" ? undefined : jsonOf(text));
      if (text !== "" && !parsed.success) {
        return Response.json({ error: z.prettifyError(parsed.error) }, { status: 400 });
      }
      faults.set(parsed.data);
      return Response.json({ fault: parsed.data ?? null });
    }
    case "POST /v1/chat/completions":
    case "POST /v1/completions":
      return await complete(context, request, path.endsWith("/chat/completions"));
  }
  return await other(context, request, path);
}

async function other({ surface, control, faults }: Context, request: Request, path: string): Promise<Response> {
  const [, stored, part] = /^\/v1\/responses\/([^/]+)(?:\/(\w+))?$/.exec(path) ?? [];
  if (stored !== undefined) return surface.stored(request.method, stored, part);
  if (request.method === "POST") {
    const body = await request.json().catch(() => undefined);
    const { served } = control;
    if (typeof body?.model === "string" && served.length > 0 && !served.includes(body.model)) {
      return failure(404, `The model \`${body.model}\` does not exist.`, "NotFoundError");
    }
    const fault = faults.next(request.headers.get("x-mock-fault"));
    if (fault?.kind === "status") return failure(fault.status, `fault: status ${fault.status}`, "MockFault");
    const answer = body && surface.post(path, body);
    if (answer) return answer;
  }
  return Response.json({ detail: "Not Found" }, { status: 404 });
}

/** The value of a JSON text; undefined when it is none. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function complete(context: Context, request: Request, chat: boolean): Promise<Response> {
  let parsed: z.infer<typeof requestSchema>;
  let fault: Fault | undefined;
  try {
    parsed = requestSchema.parse(await request.json());
  } catch (error) {
    const message = error instanceof z.ZodError ? z.prettifyError(error) : `The body is no JSON: ${error}`;
    return failure(400, message, "BadRequestError");
  }
  try {
    fault = context.faults.next(request.headers.get("x-mock-fault"));
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : error;
    const message = `x-mock-fault is JSON such as {"kind": "delay", "delay_ms": 500}: ${reason}`;
    return failure(400, message, "BadRequestError");
  }
  const { served, models, adapters } = context.control;
  const body = { ...parsed, model: parsed.model ?? models[0] ?? "mock" };
  if (served.length > 0 && !served.includes(body.model)) {
    return failure(404, `The model \`${body.model}\` does not exist.`, "NotFoundError");
  }
  if (fault?.kind === "status") return failure(fault.status, `fault: status ${fault.status}`, "MockFault");
  if (fault?.kind === "delay") await pause(fault.delay_ms, request.signal);
  if (adapters.has(body.model)) context.adapters.set(body.model, Date.now());
  return new Completion({ context, request, body, chat, fault }).respond();
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
