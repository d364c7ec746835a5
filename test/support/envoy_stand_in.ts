// SPDX-License-Identifier: Apache-2.0
// Envoy's side of external processing, by the library for gRPC: it shows the gateway a request, brings it where it is told,
// and shows the answer, as Envoy does in each of its modes.

import { Client, type ClientDuplexStream, credentials } from "@grpc/grpc-js";
import { PROCESS } from "../../src/front/ext_proc/processing.ts";
import { concat } from "../../src/base/bytes.ts";
import { decodeTold, type HeaderMutation, ProcessingRequest, type Told } from "./ext_proc_proto.ts";

export const Mode = { none: 0, streamed: 1, buffered: 2, bufferedPartial: 3, fullDuplex: 4 } as const;

export interface Shown {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
  /** HOST:PORTs in the metadata; undefined for no such entry. */
  readonly subset?: readonly string[];
  /** Is called when Envoy knows where to; may say where it brings the request instead. */
  readonly decided?: (destination: string) => string | undefined | Promise<string | undefined>;
  /** The client leaves after so many bytes of the answer. */
  readonly leavesAfter?: number;
  /** The exchange is given up after so many messages of Envoy's. */
  readonly cutAfter?: number;
}

export interface Exchanged {
  readonly immediate: boolean;
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
  /** HOST:PORTs, with commas between them. */
  readonly destination: string | undefined;
  /** What the dynamic metadata said. */
  readonly metadata: string | undefined;
  /** What the engine got. */
  readonly sent: { path: string; headers: Headers; body: string } | undefined;
}

type Call = ClientDuplexStream<Uint8Array, Told>;

export class EnvoyStandIn implements Disposable {
  readonly #client: Client;

  constructor(address: string, readonly modes: { request: number; response: number }) {
    this.#client = new Client(address, credentials.createInsecure());
  }

  /** A call without anything said yet. */
  call(): Call {
    return this.#client.makeBidiStreamRequest(PROCESS, (bytes: Uint8Array) => bytes as never, decodeTold);
  }

  /** An exchange of which the test says and hears every word. */
  words(): Exchange {
    return new Exchange(this.call(), this.modes, "", {});
  }

  exchange(path: string, shown: Shown = {}): Promise<Exchanged> {
    return new Exchange(this.call(), this.modes, path, shown).run();
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}

export class Exchange {
  readonly #told: Told[] = [];
  #wake: () => void = () => {};
  #error: Error | undefined;

  constructor(
    readonly call: Call,
    readonly modes: EnvoyStandIn["modes"],
    readonly path: string,
    readonly shown: Shown,
  ) {
    call.on("data", (told: Told) => {
      this.#told.push(told);
      this.#wake();
    });
    call.on("error", (error: Error) => {
      this.#error = error;
      this.#wake();
    });
  }

  #said = 0;

  say(request: Record<string, unknown>): void {
    if (this.#said++ === this.shown.cutAfter) {
      this.call.cancel();
      this.#error ??= new Error("given up");
      this.#wake();
    }
    this.call.write(ProcessingRequest.encode(ProcessingRequest.fromObject(request)).finish());
  }

  /** The next word; throws Error when the gateway ends the call. */
  async hear(): Promise<Told> {
    while (this.#told.length === 0) {
      if (this.#error) throw this.#error;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    return this.#told.shift()!;
  }

  async run(): Promise<Exchanged> {
    try {
      return await this.#run();
    } finally {
      this.call.cancel();
    }
  }

  async #run(): Promise<Exchanged> {
    const { method = this.shown.body === undefined ? "GET" : "POST", headers = {}, body, subset } = this.shown;
    const list = (values: readonly string[]) => ({
      list_value: { values: values.map((one) => ({ string_value: one })) },
    });
    const hint = "x-gateway-destination-endpoint-subset";
    const all: Record<string, string> = {
      ":method": method,
      ":path": this.path,
      ":authority": "gateway.example",
      ":scheme": "http",
      ...(body === undefined
        ? {}
        : { "content-type": "application/json", "content-length": String(bytesOf(body).length) }),
      ...headers,
    };
    this.say({
      request_headers: { headers: headerMap(all), end_of_stream: body === undefined },
      protocol_config: { request_body_mode: this.modes.request, response_body_mode: this.modes.response },
      ...(subset && {
        metadata_context: { filter_metadata: { "envoy.lb.subset_hint": { fields: { [hint]: list(subset) } } } },
      }),
    });
    const sent = new Headers(Object.entries(all).filter(([name]) => !name.startsWith(":")));
    let bytes = body === undefined ? undefined : bytesOf(body);
    let target = this.path;
    let destination: string | undefined;
    let metadata: string | undefined;
    const learn = (told: Told, mutation: HeaderMutation | undefined): void => {
      target = mutate(sent, mutation).get(":path") ?? target;
      destination = sent.get("x-gateway-destination-endpoint") ?? destination;
      metadata = destinationOf(told) ?? metadata;
    };
    if (bytes !== undefined && this.modes.request === Mode.fullDuplex) {
      // In pieces that have nothing to do with what is in them.
      for (let at = 0; at < bytes.length; at += 700) {
        this.say({ request_body: { body: bytes.subarray(at, at + 700), end_of_stream: at + 700 >= bytes.length } });
      }
      const first = await this.hear();
      if (first.immediate_response) return this.#immediate(first);
      learn(first, first.request_headers?.response?.header_mutation);
      const pieces: Uint8Array[] = [];
      for (let ends = false; !ends;) {
        const { streamed_response: piece } = (await this.hear()).request_body!.response!.body_mutation!;
        pieces.push(Uint8Array.from(piece!.body ?? []));
        ends = piece!.end_of_stream ?? false;
      }
      bytes = concat(pieces);
    } else {
      const first = await this.hear();
      if (first.immediate_response) return this.#immediate(first);
      learn(first, first.request_headers?.response?.header_mutation);
      if (bytes !== undefined) {
        this.say({ request_body: { body: bytes, end_of_stream: true } });
        const second = await this.hear();
        if (second.immediate_response) return this.#immediate(second);
        learn(second, second.request_body?.response?.header_mutation);
        const change = second.request_body?.response?.body_mutation;
        if (change?.body) bytes = Uint8Array.from(change.body);
      }
    }
    const elsewhere = await this.shown.decided?.(destination!);
    const served = elsewhere ?? destination!.split(",")[0];
    sent.delete("x-gateway-destination-endpoint");
    const abort = new AbortController();
    const response = await fetch(`http://${served}${target}`, {
      method,
      headers: sent,
      body: bytes,
      signal: abort.signal,
    });
    const fields = Object.fromEntries(response.headers);
    this.say({
      response_headers: { headers: headerMap({ ":status": String(response.status), ...fields }) },
      metadata_context: {
        filter_metadata: {
          "envoy.lb": { fields: { "x-gateway-destination-endpoint-served": { string_value: served } } },
        },
      },
    });
    const showing = this.#show(response);
    const first = await this.hear();
    if (first.immediate_response) return this.#immediate(first, abort);
    const answer = new Headers(response.headers);
    const status = mutate(answer, first.response_headers?.response?.header_mutation).get(":status");
    let text = "";
    const decoder = new TextDecoder();
    for (let ends = this.modes.response === Mode.none; !ends;) {
      const told = await this.hear();
      const piece = told.response_body?.response?.body_mutation?.streamed_response;
      text += decoder.decode(Uint8Array.from(piece?.body ?? []), { stream: true });
      ends = this.modes.response === Mode.fullDuplex
        ? piece?.end_of_stream ?? false
        : this.#told.length === 0 && this.#shown;
      if (this.shown.leavesAfter !== undefined && text.length >= this.shown.leavesAfter) break;
    }
    if (this.shown.leavesAfter !== undefined) abort.abort();
    const whole = await showing;
    return {
      immediate: false,
      status: Number(status ?? response.status),
      headers: answer,
      body: this.modes.response === Mode.fullDuplex ? text : whole,
      destination,
      metadata,
      sent: { path: target, headers: sent, body: new TextDecoder().decode(bytes) },
    };
  }

  #shown = false;

  // Shows the body as it comes; resolves with all of it.
  async #show(response: Response): Promise<string> {
    let text = "";
    const decoder = new TextDecoder();
    const hidden = this.modes.response === Mode.none;
    try {
      for await (const piece of response.body ?? []) {
        text += decoder.decode(piece, { stream: true });
        if (!hidden) this.say({ response_body: { body: piece, end_of_stream: false } });
      }
    } catch {
      return text; // the client left
    }
    this.#shown = true;
    if (!hidden) this.say({ response_body: { body: new Uint8Array(0), end_of_stream: true } });
    return text;
  }

  #immediate({ immediate_response: told }: Told, abort?: AbortController): Exchanged {
    abort?.abort();
    const headers = new Headers();
    mutate(headers, told!.headers);
    return {
      immediate: true,
      status: told!.status.code,
      headers,
      body: new TextDecoder().decode(Uint8Array.from(told!.body ?? [])),
      destination: undefined,
      metadata: undefined,
      sent: undefined,
    };
  }
}

const encoder = new TextEncoder();
const bytesOf = (text: string) => encoder.encode(text);

function headerMap(fields: Record<string, string>) {
  return { headers: Object.entries(fields).map(([key, value]) => ({ key, raw_value: bytesOf(value) })) };
}

// Changes fields as Envoy does; returns what is changed of the pseudo-header fields.
function mutate(headers: Headers, mutation: HeaderMutation | undefined): Map<string, string> {
  const pseudo = new Map<string, string>();
  for (const { header: { key, raw_value } } of mutation?.set_headers ?? []) {
    const value = new TextDecoder().decode(Uint8Array.from(raw_value ?? []));
    if (key.startsWith(":")) pseudo.set(key, value);
    else headers.set(key, value);
  }
  for (const name of mutation?.remove_headers ?? []) headers.delete(name);
  return pseudo;
}

function destinationOf({ dynamic_metadata }: Told): string | undefined {
  type Struct = { fields?: Record<string, { struct_value?: Struct; string_value?: string }> };
  const inner = (dynamic_metadata as Struct | undefined)?.fields?.["envoy.lb"]?.struct_value;
  return inner?.fields?.["x-gateway-destination-endpoint"]?.string_value;
}
