// SPDX-License-Identifier: Apache-2.0
// A Triton server with a TensorRT-LLM model for tests: KServe v2 over gRPC with the real protocol buffers, and the
// generate extension over HTTP. It answers with words, one a response, and tells what it was sent.

import { Metadata, Server, ServerCredentials, type ServerDuplexStream, status } from "@grpc/grpc-js";
import { KSERVE } from "../../src/upstream/kserve.ts";

export interface TritonBehaviour {
  words: string[];
  /** An error as this response, counted from 0. */
  errorAt?: number;
  /** A gRPC status, or an HTTP status, in place of an answer. */
  refuse?: number;
  /** Say nothing after this many responses. */
  stallAt?: number;
  /** Outputs as raw bytes, as Triton itself sends them. */
  raw?: boolean;
  /** Report token counts: of all so far, or of each response. */
  counts?: boolean | "parts";
  /** What the last response says of why it ended. */
  finish?: string;
  /** What is said with a refusal. */
  details?: string;
}

export interface MockTriton extends AsyncDisposable {
  readonly grpc: { hostname: string; port: number };
  readonly http: { hostname: string; port: number };
  behaviour: TritonBehaviour;
  /** Inputs of every request by name. */
  readonly requests: Record<string, unknown>[];
  /** Calls that the client cancelled. */
  cancelled: number;
}

// deno-lint-ignore no-explicit-any -- messages decoded without generated types
type Message = any;

function inputsOf(request: Message): Record<string, unknown> {
  const inputs: Record<string, unknown> = { model: request.model_name };
  for (const { name, datatype, shape, contents } of request.inputs) {
    const [values] = Object.values(contents) as [unknown[]];
    const texts = datatype === "BYTES" ? values.map((value) => new TextDecoder().decode(value as Uint8Array)) : values;
    inputs[name] = texts.length === 1 ? texts[0] : texts;
    if (Number(shape[1]) !== texts.length) throw new Error(`the shape of ${name} is wrong`);
  }
  return inputs;
}

function rawBytes(text: string): Uint8Array {
  const encoded = new TextEncoder().encode(text);
  const bytes = new Uint8Array(4 + encoded.length);
  new DataView(bytes.buffer).setUint32(0, encoded.length, true);
  bytes.set(encoded, 4);
  return bytes;
}

function response(text: string, { raw, counts, finish }: TritonBehaviour, last: boolean): Message {
  const outputs: Message[] = [{ name: "text_output", datatype: "BYTES", shape: [1] }];
  if (!raw) outputs[0].contents = { bytes_contents: [new TextEncoder().encode(text)] };
  if (counts) {
    const count = (name: string, value: number) => ({
      name,
      datatype: "INT32",
      shape: [1],
      contents: { int_contents: [value] },
    });
    outputs.push(count("num_input_tokens", 17), count("num_output_tokens", counts === "parts" ? 2 : 5));
  }
  if (finish !== undefined) {
    const bytes_contents = [new TextEncoder().encode(last ? finish : "None")];
    outputs.push({ name: "finish_reason", datatype: "BYTES", shape: [1], contents: { bytes_contents } });
  }
  return { infer_response: { model_name: "ensemble", outputs, raw_output_contents: raw ? [rawBytes(text)] : [] } };
}

export async function startMockTriton(): Promise<MockTriton> {
  const requests: Record<string, unknown>[] = [];
  const state = { behaviour: { words: ["one", " two", " three"] } as TritonBehaviour, cancelled: 0 };
  const server = new Server();
  const infer = (call: ServerDuplexStream<Message, Message>) => {
    const { behaviour } = state;
    call.on("cancelled", () => state.cancelled++);
    call.on("error", () => {});
    call.on("data", (request: Message) => {
      requests.push(inputsOf(request));
      if (behaviour.refuse !== undefined) {
        call.emit("error", {
          code: behaviour.refuse,
          details: behaviour.details ?? "refused by the model",
          metadata: new Metadata(),
        });
        return;
      }
      behaviour.words.forEach((text, i) => {
        if (behaviour.stallAt !== undefined && i >= behaviour.stallAt) return;
        if (i === behaviour.errorAt) call.write({ error_message: "the model failed" });
        else call.write(response(text, behaviour, i === behaviour.words.length - 1));
      });
    });
    call.on("end", () => {
      if (behaviour.stallAt === undefined && behaviour.refuse === undefined) call.end();
    });
  };
  server.addService({
    ModelStreamInfer: {
      path: KSERVE.path,
      requestStream: true,
      responseStream: true,
      requestSerialize: (value: Message) => Buffer.from(KSERVE.request.encode(value).finish()),
      requestDeserialize: (bytes: Uint8Array) =>
        KSERVE.request.toObject(KSERVE.request.decode(bytes), { longs: Number }),
      responseSerialize: (value: Message) =>
        KSERVE.response.encode(KSERVE.response.fromObject(value)).finish() as Message,
      responseDeserialize: (bytes: Uint8Array) => KSERVE.response.decode(bytes),
    },
  }, { ModelStreamInfer: infer as never });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(
      "127.0.0.1:0",
      ServerCredentials.createInsecure(),
      (error, port) => error ? reject(error) : resolve(port),
    );
  });
  const http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request) => generate(request, requests, state.behaviour),
  );
  return {
    grpc: { hostname: "127.0.0.1", port },
    http: { hostname: "127.0.0.1", port: http.addr.port },
    requests,
    get behaviour() {
      return state.behaviour;
    },
    set behaviour(value) {
      state.behaviour = value;
    },
    get cancelled() {
      return state.cancelled;
    },
    async [Symbol.asyncDispose]() {
      server.forceShutdown();
      await http.shutdown();
    },
  };
}

async function generate(
  request: Request,
  requests: Record<string, unknown>[],
  behaviour: TritonBehaviour,
): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/v2/health/ready") return new Response("");
  const [, model, action] = /^\/v2\/models\/([^/]+)\/(generate|generate_stream)$/.exec(pathname) ?? [];
  if (!model) return Response.json({ error: "not found" }, { status: 404 });
  requests.push({ model: decodeURIComponent(model), ...await request.json() });
  if (behaviour.refuse !== undefined) {
    return Response.json({ error: "refused by the model" }, { status: behaviour.refuse });
  }
  const extra = behaviour.counts ? { num_input_tokens: 17, num_output_tokens: 5 } : {};
  if (action === "generate") {
    return Response.json({ model_name: model, text_output: behaviour.words.join(""), ...extra });
  }
  const events = behaviour.words.map((text_output, i) =>
    `data: ${
      JSON.stringify(
        i === behaviour.errorAt ? { error: "the model failed" } : { model_name: model, text_output, ...extra },
      )
    }\n\n`
  );
  return new Response(events.join(""), { headers: { "content-type": "text/event-stream" } });
}

export { status as grpcStatus };
