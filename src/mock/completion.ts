// SPDX-License-Identifier: Apache-2.0
// One completion of the mock engine: feeds the engine model and turns its tokens into an answer or a stream of chunks.

import { z } from "zod";
import { isTrue } from "../openai/lenient.ts";
import { DEAD, type MockControl } from "./control.ts";
import type { EngineDriver } from "./engine_driver.ts";
import type { EngineModel, Sequence } from "./engine_model.ts";
import type { Fault } from "./faults.ts";
import type { KvPublisher } from "./kv_publisher.ts";
import { type Script, type ScriptedChoice, scriptOf } from "./script.ts";
import { tokenize } from "./text.ts";

const tokenCount = z.union([z.int().min(1), z.string().regex(/^[1-9]\d{0,8}$/).transform(Number)]);
// As leniently as engines read it.
export const requestSchema = z.looseObject({
  model: z.string().nullish(),
  messages: z.array(z.unknown()).optional(),
  prompt: z.unknown().optional(),
  stream: z.unknown().optional(),
  stream_options: z.looseObject({ include_usage: z.unknown().optional() }).nullish(),
  max_tokens: tokenCount.nullish(),
  max_completion_tokens: tokenCount.nullish(),
  n: z.unknown().optional(),
  tools: z.unknown().optional(),
  tool_choice: z.unknown().optional(),
  response_format: z.unknown().optional(),
});
export type EngineRequest = z.infer<typeof requestSchema> & { model: string };

/** What a completion needs of its engine. */
export interface EngineContext {
  /** Tells what its cache holds, and tokenises as the gateway does; undefined for neither. */
  readonly events?: KvPublisher;
  readonly options: {
    /** Answer at once, without the engine model. */
    readonly instant?: boolean;
    /** Tokens of an answer whose request sets no maximum. */
    readonly outputTokens?: number;
    readonly models?: string[];
  };
  readonly model: EngineModel;
  readonly driver: EngineDriver;
  readonly control: MockControl;
  /** When each adapter was last asked for. */
  readonly adapters: Map<string, number>;
}

/** An error as vLLM tells it. */
export function failure(status: number, message: string, type: string): Response {
  return Response.json({ error: { message, type, param: null, code: status } }, { status });
}

interface CompletionParts {
  readonly context: EngineContext;
  readonly request: Request;
  readonly body: EngineRequest;
  readonly chat: boolean;
  readonly fault: Fault | undefined;
}

/** One completion: feeds the model and turns its tokens into an answer or a stream of chunks. */
export class Completion {
  readonly context: EngineContext;
  readonly request: Request;
  readonly body: EngineRequest;
  readonly chat: boolean;
  readonly fault: Fault | undefined;
  readonly #id: string;
  readonly #created = Math.floor(Date.now() / 1000);
  readonly #script: Script;
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
    const text = typeof body.prompt === "string" ? body.prompt : JSON.stringify(body.messages ?? body.prompt ?? "");
    const instant = context.options.instant === true;
    const { tokens, blocks } = instant
      ? { tokens: Math.ceil(text.length / 4), blocks: [] }
      : context.events?.prompt(body) ?? tokenize(text, context.model.profile.blockTokens);
    this.#promptTokens = tokens;
    this.#script = scriptOf(body, {
      seed: tokens,
      most: body.max_completion_tokens ?? body.max_tokens ?? undefined,
      standard: context.options.outputTokens ?? 16,
    });
    this.#outputTokens = this.#script.steps;
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
    const { choices } = this.#script;
    return Response.json({
      id: this.#id,
      object: this.chat ? "chat.completion" : "text_completion",
      created: this.#created,
      model: this.body.model,
      choices: choices.map((choice, index) => this.#choice(choice, index)),
      usage: this.#usage(),
    });
  }

  #choice({ pieces, tool, finish }: ScriptedChoice, index: number): unknown {
    const text = pieces.join("");
    if (!this.chat) return { index, text, logprobs: null, finish_reason: finish };
    const message = { role: "assistant", content: tool ? null : text, refusal: null };
    const call = tool && { id: tool.id, type: "function", function: { name: tool.name, arguments: text } };
    return {
      index,
      message: call ? { ...message, tool_calls: [call] } : message,
      logprobs: null,
      finish_reason: finish,
    };
  }

  #usage() {
    const generated = this.#outputTokens * this.#script.choices.length;
    return {
      prompt_tokens: this.#promptTokens,
      total_tokens: this.#promptTokens + generated,
      completion_tokens: generated,
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

  // The chunk of a step: a piece of each choice that has one.
  #step(step: number): string {
    let text = "";
    for (const [index, { pieces, tool, finish }] of this.#script.choices.entries()) {
      const piece = pieces[step];
      const finished = step === pieces.length - 1 ? finish : null;
      const called = tool && {
        index: 0,
        ...(step === 0 ? { id: tool.id, type: "function" } : {}),
        function: { ...(step === 0 ? { name: tool.name } : {}), arguments: piece },
      };
      const delta = called ? { tool_calls: [called] } : { content: piece };
      text += this.#chunk([{
        index,
        ...(this.chat ? { delta } : { text: piece }),
        logprobs: null,
        finish_reason: finished,
      }]);
    }
    return text;
  }

  #roles(): string {
    return this.#script.choices.map(({ tool }, index) =>
      this.#chunk([{
        index,
        delta: { role: "assistant", content: tool ? null : "" },
        logprobs: null,
        finish_reason: null,
      }])
    ).join("");
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
          if (fault?.kind === "cut") {
            // The runtime prints it, in one line without a stack.
            controller.error(Object.assign(new Error("fault: cut"), { stack: "fault: cut" }));
          }
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
            if (generated === 1 && this.chat) send(this.#roles());
            const last = generated === this.#outputTokens;
            send(this.#step(generated - 1));
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
