// SPDX-License-Identifier: Apache-2.0
// One KServe gRPC call, and OpenAI's answer made of its responses as they are read.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import { UpstreamError } from "../../upstream/errors.ts";
import { type InferOutputs, type KserveCall, type KserveClients, KserveError } from "../../upstream/kserve.ts";
import type { AnswerBody, Opened, Requester, Transcoder } from "../engine.ts";
import type { CompletionWriter } from "./completion.ts";
import { engineError, headOf } from "./errors.ts";
import { countsOf } from "./generate.ts";
import { type Tensor, toInferInput } from "./tensors.ts";

const encoder = new TextEncoder();

export interface TritonOptions {
  readonly clients: KserveClients;
  readonly deadlines: Deadlines;
  readonly bytesPerToken: number;
  readonly firstByteMs: number;
  readonly streamIdleMs: number;
  readonly eventBytes: number;
}

/** An answer of a few bytes that are known already. */
class KnownBody implements AnswerBody {
  #bytes: Uint8Array<ArrayBuffer> | null;
  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
  }
  readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    const bytes = this.#bytes;
    this.#bytes = null;
    return Promise.resolve(bytes);
  }
  fail(): void {}
  close(): void {}
  finish(): void {}
}

export interface GrpcCallParts {
  readonly model: string;
  readonly tensors: readonly Tensor[];
  readonly stream: boolean;
  writer(): CompletionWriter;
}

export class GrpcCall implements Transcoder {
  constructor(readonly options: TritonOptions, readonly parts: GrpcCallParts) {}

  // The first response decides between an answer and an error, as a status line does.
  async send(endpoint: string, { requestId, waitsFor }: Requester): Promise<Opened> {
    const { model, tensors, stream } = this.parts;
    const message = { model_name: model, id: requestId, inputs: tensors.map(toInferInput) };
    const call = await this.options.clients.infer(endpoint, message);
    const body = new GrpcBody(this.options, call, this.parts.writer(), stream);
    waitsFor(body);
    try {
      await body.begin();
    } catch (error) {
      body.close();
      if (!(error instanceof KserveError)) throw error;
      const bytes = engineError(error.status, error.message);
      return { head: headOf(error.status, false), body: new KnownBody(bytes) };
    }
    return { head: headOf(200, stream), body };
  }
}

/** The pieces of an OpenAI answer made of the responses of one call. */
class GrpcBody implements AnswerBody, Deadline {
  deadline = Infinity;
  place = -1;
  #first: { error: string; outputs: InferOutputs } | null | undefined;
  #begun = false;
  #over = false;

  constructor(
    readonly options: TritonOptions,
    readonly call: KserveCall,
    readonly writer: CompletionWriter,
    readonly stream: boolean,
  ) {
    options.deadlines.watch(this);
  }

  /** Waits for the first response. Throws UpstreamError, KserveError. */
  async begin(): Promise<void> {
    const first = await this.#next();
    if (first?.error) throw new KserveError(400, first.error);
    this.#first = first;
  }

  async #next() {
    const { firstByteMs, streamIdleMs } = this.options;
    this.deadline = this.options.deadlines.clock.now() + (this.#begun ? streamIdleMs : firstByteMs);
    try {
      return await this.call.next();
    } finally {
      this.deadline = Infinity;
      this.#begun = true;
    }
  }

  async readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    try {
      for (;;) {
        if (this.#over) return null;
        const response = this.#first !== undefined ? this.#first : await this.#next();
        this.#first = undefined;
        if (response === null) {
          this.#over = true;
          return this.writer.end();
        }
        if (response.error) throw new UpstreamError("lost_in_answer", response.error);
        const events = this.writer.part(partOf(response.outputs));
        if (events !== "") return encoder.encode(events);
      }
    } catch (error) {
      this.close();
      if (error instanceof KserveError) throw new UpstreamError("lost_in_answer", error.message, error);
      throw error;
    }
  }

  expire(): void {
    const { firstByteMs, streamIdleMs } = this.options;
    this.fail(
      this.#begun
        ? new UpstreamError("idle_timeout", `the engine was silent for ${streamIdleMs} ms inside its answer`)
        : new UpstreamError("first_byte_timeout", `the engine sent no byte of its answer within ${firstByteMs} ms`),
    );
  }

  fail(error: UpstreamError): void {
    this.options.deadlines.unwatch(this);
    this.call.fail(error);
  }

  close(): void {
    this.options.deadlines.unwatch(this);
    this.call.cancel();
  }

  finish(): void {
    this.options.deadlines.unwatch(this);
  }
}

function partOf(outputs: InferOutputs) {
  const text = outputs.get("text_output");
  const finish = outputs.get("finish_reason");
  return {
    finish: typeof finish === "string" ? finish : undefined,
    text: typeof text === "string" ? text : "",
    usage: countsOf(outputs.get("num_input_tokens"), outputs.get("num_output_tokens")),
  };
}
