// SPDX-License-Identifier: Apache-2.0
// The mock engine's HTTP face: what a gateway meets in front of vLLM. Answers are words; times, queues, cache hits and
// metrics come from the engine model. It names itself in `x-mock-engine`.

import { z } from "zod";
import { type Address, formatAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { isTrue } from "../openai/lenient.ts";
import { DEAD, MockControl } from "./control.ts";
import { EngineDriver } from "./engine_driver.ts";
import { DEFAULT_PROFILE, EngineModel, type EngineProfile, type Sequence } from "./engine_model.ts";
import { type Fault, FaultPlan, faultSchema } from "./faults.ts";
import { metricsText } from "./metrics.ts";
import { MockSurface } from "./surface.ts";
import { tokenize, word } from "./text.ts";

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
}

export interface MockEngine {
  readonly address: Address;
  readonly model: EngineModel;
  readonly faults: FaultPlan;
  /** Runs so many times faster than its profile from the next step on. */
  setSpeed(speed: number): void;
  /** Generates nothing more until `resume`. */
  pause(): void;
  resume(): void;
  /** Adapters, and its death. */
  readonly control: MockControl;
  stop(): Promise<void>;
}

const tokenCount = z.union([z.int().min(1), z.string().regex(/^[1-9]\d{0,8}$/).transform(Number)]);
// As leniently as engines read it.
const requestSchema = z.looseObject({
  model: z.string().nullish(),
  messages: z.array(z.unknown()).optional(),
  prompt: z.unknown().optional(),
  stream: z.unknown().optional(),
  stream_options: z.looseObject({ include_usage: z.unknown().optional() }).nullish(),
  max_tokens: tokenCount.nullish(),
  max_completion_tokens: tokenCount.nullish(),
});
type EngineRequest = z.infer<typeof requestSchema> & { model: string };

/** Starts an engine; port 0 takes a free one. Throws Deno.errors.AddrInUse. */
export function startMockEngine(options: MockEngineOptions): MockEngine {
  const model = new EngineModel({ ...DEFAULT_PROFILE, ...options.profile });
  const driver = new EngineDriver(model, systemClock, options.speed ?? 1);
  const faults = new FaultPlan(options.fault);
  const context: Context = {
    options,
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
    setSpeed(speed) {
      driver.speed = speed;
    },
    pause: () => driver.pause(),
    resume: () => driver.resume(),
    control: context.control,
    async stop() {
      driver.stop();
      await server.shutdown();
    },
  };
}

interface Context {
  options: MockEngineOptions;
  model: EngineModel;
  driver: EngineDriver;
  faults: FaultPlan;
  name: string;
  surface: MockSurface;
  control: MockControl;
  /** When each adapter was last asked for. */
  adapters: Map<string, number>;
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
    default:
      return await other(context, request, path);
  }
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

function failure(status: number, message: string, type: string): Response {
  return Response.json({ error: { message, type, param: null, code: status } }, { status });
}

async function complete(context: Context, request: Request, chat: boolean): Promise<Response> {
  let parsed: z.infer<typeof requestSchema>;
  let fault: Fault | undefined;
  try {
    parsed = requestSchema.parse(await request.json());
    fault = context.faults.next(request.headers.get("x-mock-fault"));
  } catch (error) {
    const message = error instanceof z.ZodError ? z.prettifyError(error) : `The body is no JSON: ${error}`;
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

interface CompletionParts {
  readonly context: Context;
  readonly request: Request;
  readonly body: EngineRequest;
  readonly chat: boolean;
  readonly fault: Fault | undefined;
}

/** One completion: feeds the model and turns its tokens into an answer or a stream of chunks. */
class Completion {
  readonly context: Context;
  readonly request: Request;
  readonly body: EngineRequest;
  readonly chat: boolean;
  readonly fault: Fault | undefined;
  readonly #id: string;
  readonly #created = Math.floor(Date.now() / 1000);
  readonly #outputTokens: number;
  readonly #promptTokens: number;
  readonly #sequence: Sequence;
  #cached = 0;
  #onToken: (generated: number) => void = () => {};
  /** Its engine's death concerns it no more. */
  #alive: () => void = () => {};

  constructor({ context, request, body, chat, fault }: CompletionParts) {
    this.context = context;
    this.request = request;
    this.body = body;
    this.chat = chat;
    this.fault = fault;
    this.#id = `${chat ? "chatcmpl" : "cmpl"}-${crypto.randomUUID().replaceAll("-", "")}`;
    this.#outputTokens = body.max_completion_tokens ?? body.max_tokens ?? context.options.outputTokens ?? 16;
    const text = typeof body.prompt === "string" ? body.prompt : JSON.stringify(body.messages ?? body.prompt ?? "");
    const instant = context.options.instant === true;
    const { tokens, blocks } = instant
      ? { tokens: Math.ceil(text.length / 4), blocks: [] }
      : tokenize(text, context.model.profile.blockTokens);
    this.#promptTokens = tokens;
    this.#sequence = {
      promptTokens: tokens,
      outputTokens: this.#outputTokens,
      blocks,
      onToken: (generated) => {
        if (generated === 1) this.#cached = context.model.cachedTokens(this.#sequence);
        this.#onToken(generated);
      },
    };
  }

  respond(): Response | Promise<Response> {
    if (!this.context.model.fits(this.#sequence)) {
      return failure(400, "This model's maximum context length is exceeded.", "BadRequestError");
    }
    return isTrue(this.body.stream) ? this.#stream() : this.#whole();
  }

  #start(onToken: (generated: number) => void): void {
    this.#onToken = onToken;
    if (this.request.signal.aborted) return;
    if (this.context.options.instant) {
      this.#instant();
      return;
    }
    this.context.driver.submit(this.#sequence);
    this.request.signal.addEventListener("abort", () => this.context.driver.cancel(this.#sequence), { once: true });
  }

  // Chunks of an instant stream leave one at a time, as from an engine; a whole answer leaves at once.
  async #instant(): Promise<void> {
    for (let generated = 1; generated <= this.#outputTokens && !this.request.signal.aborted; generated++) {
      this.#sequence.onToken(generated);
      if (isTrue(this.body.stream)) await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  async #whole(): Promise<Response> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.request.signal.aborted) resolve();
    this.request.signal.addEventListener("abort", () => resolve(), { once: true });
    const alive = this.context.control.onDeath(resolve);
    this.#start((generated) => {
      if (generated === this.#outputTokens) resolve();
    });
    await promise;
    alive();
    if (this.context.control.dead) return Response.json({ error: DEAD }, { status: 500 });
    let text = "";
    for (let i = 0; i < this.#outputTokens; i++) text += word(this.#promptTokens, i);
    const choice = this.chat
      ? {
        index: 0,
        message: { role: "assistant", content: text, refusal: null },
        logprobs: null,
        finish_reason: "length",
      }
      : { index: 0, text, logprobs: null, finish_reason: "length" };
    return Response.json({
      id: this.#id,
      object: this.chat ? "chat.completion" : "text_completion",
      created: this.#created,
      model: this.body.model,
      choices: [choice],
      usage: this.#usage(),
    });
  }

  #usage() {
    return {
      prompt_tokens: this.#promptTokens,
      total_tokens: this.#promptTokens + this.#outputTokens,
      completion_tokens: this.#outputTokens,
      prompt_tokens_details: { cached_tokens: this.#cached },
    };
  }

  #chunk(choices: unknown[], usage?: unknown): string {
    return `data: ${
      JSON.stringify({
        id: this.#id,
        object: this.chat ? "chat.completion.chunk" : "text_completion",
        created: this.#created,
        model: this.body.model,
        choices,
        ...(usage === undefined ? {} : { usage }),
      })
    }\n\n`;
  }

  #delta(delta: unknown, text: string, finish: string | null): string {
    const content = this.chat ? { delta } : { text };
    return this.#chunk([{ index: 0, ...content, logprobs: null, finish_reason: finish }]);
  }

  #stream(): Response {
    const encoder = new TextEncoder();
    const { fault } = this;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        const send = (text: string) => controller.enqueue(encoder.encode(text));
        const failing = fault && (fault.kind === "stall" || fault.kind === "cut" || fault.kind === "error_chunk");
        let over = false;
        const strike = (): void => {
          over = true;
          this.context.driver.cancel(this.#sequence);
          if (fault?.kind === "cut") controller.error(new Error("fault: cut"));
          if (fault?.kind === "error_chunk") {
            send(
              `data: ${JSON.stringify({ error: { message: "fault: error chunk", type: "MockFault", code: 400 } })}\n\n`,
            );
            send("data: [DONE]\n\n");
            controller.close();
          }
        };
        if (failing && fault.after_tokens === 0) return strike();
        this.#alive = this.context.control.onDeath(() => {
          over = true;
          send(`data: ${JSON.stringify({ error: DEAD })}\n\ndata: [DONE]\n\n`);
          controller.close();
        });
        this.#start((generated) => {
          if (over) return;
          try {
            if (generated === 1 && this.chat) send(this.#delta({ role: "assistant", content: "" }, "", null));
            const last = generated === this.#outputTokens;
            const text = word(this.#promptTokens, generated - 1);
            send(this.#delta({ content: text }, text, last ? "length" : null));
            if (failing && generated >= fault.after_tokens) return strike();
            if (!last) return;
            if (isTrue(this.body.stream_options?.include_usage)) send(this.#chunk([], this.#usage()));
            send("data: [DONE]\n\n");
            this.#alive();
            controller.close();
          } catch {
            this.#alive();
            over = true; // the client is gone
            this.context.driver.cancel(this.#sequence);
          }
        });
      },
      cancel: () => {
        this.#alive();
        this.context.driver.cancel(this.#sequence);
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } });
  }
}
