// SPDX-License-Identifier: Apache-2.0
// KServe v2 inference over gRPC: one decoupled ModelStreamInfer call a request. The messages are those of the KServe v2
// protocol (package `inference`), described here by field numbers; only what is used.

import { type ChannelCredentials, Client, credentials, type ServiceError, status as Status } from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { UpstreamError } from "./errors.ts";

const field = (type: string, id: number, rule?: "repeated") => ({ type, id, ...(rule ? { rule } : {}) });
const parameters = { keyType: "string", type: "InferParameter", id: 4 };

const root = protobuf.Root.fromJSON({
  nested: {
    inference: {
      nested: {
        InferParameter: {
          oneofs: { parameter_choice: { oneof: ["bool_param", "int64_param", "string_param"] } },
          fields: {
            bool_param: field("bool", 1),
            int64_param: field("int64", 2),
            string_param: field("string", 3),
          },
        },
        InferTensorContents: {
          fields: {
            bool_contents: field("bool", 1, "repeated"),
            int_contents: field("int32", 2, "repeated"),
            int64_contents: field("int64", 3, "repeated"),
            uint_contents: field("uint32", 4, "repeated"),
            uint64_contents: field("uint64", 5, "repeated"),
            fp32_contents: field("float", 6, "repeated"),
            fp64_contents: field("double", 7, "repeated"),
            bytes_contents: field("bytes", 8, "repeated"),
          },
        },
        InferTensor: {
          fields: {
            name: field("string", 1),
            datatype: field("string", 2),
            shape: field("int64", 3, "repeated"),
            parameters,
            contents: field("InferTensorContents", 5),
          },
        },
        ModelInferRequest: {
          fields: {
            model_name: field("string", 1),
            model_version: field("string", 2),
            id: field("string", 3),
            parameters,
            inputs: field("InferTensor", 5, "repeated"),
            raw_input_contents: field("bytes", 7, "repeated"),
          },
        },
        ModelInferResponse: {
          fields: {
            model_name: field("string", 1),
            model_version: field("string", 2),
            id: field("string", 3),
            parameters,
            outputs: field("InferTensor", 5, "repeated"),
            raw_output_contents: field("bytes", 6, "repeated"),
          },
        },
        ModelStreamInferResponse: {
          fields: { error_message: field("string", 1), infer_response: field("ModelInferResponse", 2) },
        },
      },
    },
  },
});

/** The messages, by name: for the client here and for a server in tests. */
export const KSERVE = {
  request: root.lookupType("inference.ModelInferRequest"),
  response: root.lookupType("inference.ModelStreamInferResponse"),
  path: "/inference.GRPCInferenceService/ModelStreamInfer",
} as const;

export interface InferMessage {
  model_name: string;
  id: string;
  inputs: Record<string, unknown>[];
}

/** Outputs of one response by name: texts of BYTES tensors, numbers of others. */
export type InferOutputs = Map<string, string | number>;

/** Throws Error for bytes that are no such message. */
export function decodeResponse(bytes: Uint8Array): { error: string; outputs: InferOutputs } {
  const message = KSERVE.response.decode(bytes) as unknown as {
    error_message: string;
    infer_response: null | {
      outputs: { name: string; datatype: string; contents: null | Record<string, unknown[]> }[];
      raw_output_contents: Uint8Array[];
    };
  };
  const outputs: InferOutputs = new Map();
  message.infer_response?.outputs.forEach(({ name, datatype, contents }, i) => {
    const raw = message.infer_response!.raw_output_contents[i];
    const value = raw ? rawValue(datatype, raw) : contentValue(contents);
    if (value !== undefined) outputs.set(name, value);
  });
  return { error: message.error_message, outputs };
}

// A raw BYTES tensor is a length of four bytes, little endian, and the text; others are the bare number.
function rawValue(datatype: string, raw: Uint8Array): string | number | undefined {
  if (raw.length < 4) return undefined;
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  switch (datatype) {
    case "BYTES":
      return new TextDecoder().decode(raw.subarray(4, 4 + view.getUint32(0, true)));
    case "UINT32":
      return view.getUint32(0, true);
    case "INT32":
      return view.getInt32(0, true);
    case "FP32":
      return view.getFloat32(0, true);
    default:
      return undefined;
  }
}

function contentValue(contents: null | Record<string, unknown[]>): string | number | undefined {
  for (const values of Object.values(contents ?? {})) {
    const [value] = values;
    if (value instanceof Uint8Array) return new TextDecoder().decode(value);
    if (typeof value === "number") return value;
  }
  return undefined;
}

export interface KserveOptions {
  /** May be changed: it holds for calls from then on. */
  connectMs: number;
  readonly maxMessageBytes: number;
}

/** The channels of a worker, one an endpoint. */
export class KserveClients {
  readonly #clients = new Map<string, Client>();
  readonly #credentials: ChannelCredentials = credentials.createInsecure();

  constructor(readonly options: KserveOptions) {}

  /** Begins a call to HOST:PORT. Throws UpstreamError: connect_failed, connect_timeout. */
  async infer(endpoint: string, message: InferMessage): Promise<KserveCall> {
    let client = this.#clients.get(endpoint);
    if (!client) {
      const { maxMessageBytes } = this.options;
      client = new Client(endpoint, this.#credentials, {
        "grpc.max_receive_message_length": maxMessageBytes,
        "grpc.max_send_message_length": maxMessageBytes,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1_000,
        "grpc.use_local_subchannel_pool": 1,
      });
      this.#clients.set(endpoint, client);
    }
    await this.#ready(client);
    const call = client.makeBidiStreamRequest(
      KSERVE.path,
      (value: InferMessage) => KSERVE.request.encode(KSERVE.request.fromObject(value)).finish() as never,
      (bytes: Uint8Array) => decodeResponse(bytes),
      undefined as never,
      {},
    );
    call.write(message);
    call.end();
    return new KserveCall(call as never);
  }

  #ready(client: Client): Promise<void> {
    const { connectMs } = this.options;
    return new Promise((resolve, reject) => {
      client.waitForReady(Date.now() + connectMs, (error) => {
        if (!error) resolve();
        else reject(new UpstreamError("connect_timeout", `no connection within ${connectMs} ms`, error));
      });
    });
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }
}

interface RawCall extends AsyncIterable<{ error: string; outputs: InferOutputs }> {
  cancel(): void;
}

/** One call: responses in order, read as they are wanted. */
export class KserveCall {
  readonly #call: RawCall;
  readonly #responses: AsyncIterator<{ error: string; outputs: InferOutputs }>;
  #failure: UpstreamError | undefined;
  #answered = false;

  constructor(call: RawCall) {
    this.#call = call;
    this.#responses = call[Symbol.asyncIterator]();
  }

  /** The next response, null at the end. Throws UpstreamError, or KserveError when the server refused. */
  async next(): Promise<{ error: string; outputs: InferOutputs } | null> {
    try {
      const { done, value } = await this.#responses.next();
      if (this.#failure) throw this.#failure;
      this.#answered = true;
      return done ? null : value;
    } catch (error) {
      throw this.#failure ?? this.#explain(error as ServiceError);
    }
  }

  #explain(error: ServiceError): Error {
    if (error instanceof UpstreamError) return error;
    const status = HTTP_STATUS[error.code];
    const message = error.details || error.message;
    // A model that is not there is this rule's fault, whatever else the server serves.
    if (error.code === Status.UNAVAILABLE && NO_MODEL.test(message)) return new KserveError(404, message);
    if (error.code === Status.UNAVAILABLE) {
      const failure = this.#answered ? "lost_in_answer" : "connect_failed";
      return new UpstreamError(failure, message, error);
    }
    return status === undefined ? new UpstreamError("bad_response", message, error) : new KserveError(status, message);
  }

  /** Ends the call; what waits for it fails with `error`. */
  fail(error: UpstreamError): void {
    this.#failure ??= error;
    this.#call.cancel();
  }

  cancel(): void {
    this.#call.cancel();
  }
}

/** What Triton says of a model that it does not have, or has not loaded. */
const NO_MODEL = /unknown model|no available versions|model.* is not (?:ready|found)/i;

/** What a server refused, as an HTTP status. */
export class KserveError extends Error {
  override readonly name = "KserveError";
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

/** HTTP statuses of gRPC's codes (google.rpc.Code); the others are failures of the endpoint. */
const HTTP_STATUS: Partial<Record<number, number>> = {
  [Status.INVALID_ARGUMENT]: 400,
  [Status.OUT_OF_RANGE]: 400,
  [Status.FAILED_PRECONDITION]: 400,
  [Status.UNAUTHENTICATED]: 401,
  [Status.PERMISSION_DENIED]: 403,
  [Status.NOT_FOUND]: 404,
  [Status.RESOURCE_EXHAUSTED]: 429,
  [Status.UNIMPLEMENTED]: 501,
  [Status.INTERNAL]: 500,
  [Status.UNKNOWN]: 500,
  [Status.DEADLINE_EXCEEDED]: 504,
};
