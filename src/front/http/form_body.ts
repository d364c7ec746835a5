// SPDX-License-Identifier: Apache-2.0
// Reads the body of a form up to the field that says which model it is for; what comes behind that is left for the engine,
// piece by piece. Where the field comes last, as behind a file, that is all of it.

import { GatewayError } from "../../base/errors.ts";
import type { Call } from "../../gateway/call.ts";
import { type FormField, FormSearch } from "../../openai/form.ts";
import type { BodyRest } from "../../upstream/body_rest.ts";
import type { BodyReader, HttpRequest } from "./exchange.ts";
import { type BodyLimits, readBody, tooLarge, tooSlow } from "./body.ts";

/** Forms up to this size are read whole. */
const SMALL_BYTES = 65_536;

/** A form as far as it has arrived. */
export interface ReceivedForm {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly model: FormField | undefined;
  /** What is still to come; undefined for nothing. */
  readonly rest: BodyRest | undefined;
}

/** Throws GatewayError: as `readBody` does, and invalid_request for what is no form. */
export async function readForm(request: HttpRequest, call: Call, limits: BodyLimits): Promise<ReceivedForm> {
  const { contentLength, contentEncoding } = call.incoming.fields;
  const search = new FormSearch(call.incoming.headers.get("content-type"), "model");
  const announced = contentLength === null ? undefined : Number(contentLength);
  const reader = contentEncoding !== undefined || announced! <= SMALL_BYTES ? undefined : request.reader();
  if (reader === undefined) {
    const { bytes } = await readBody(request, call, limits);
    call.cancellation.unlimit();
    return { bytes, model: found(search, bytes), rest: undefined };
  }
  if (announced! > limits.bytes) throw tooLarge(limits.bytes);
  const rest = new Rest(reader, call, limits, announced);
  let buffer = new Uint8Array(SMALL_BYTES);
  let length = 0;
  for (let piece = await rest.next(); piece !== undefined; piece = await rest.next()) {
    if (length + piece.length > buffer.length) {
      const larger = new Uint8Array(2 * (length + piece.length));
      larger.set(buffer.subarray(0, length));
      buffer = larger;
    }
    buffer.set(piece, length);
    length += piece.length;
    const bytes = buffer.subarray(0, length);
    const model = search.look(bytes);
    if (model === undefined || model === "more") continue;
    rest.begun = false;
    return { bytes, model, rest };
  }
  const bytes = buffer.subarray(0, length);
  return { bytes, model: found(search, bytes), rest: undefined };
}

function found(search: FormSearch, bytes: Uint8Array): FormField | undefined {
  const model = search.look(bytes);
  if (model === "more") throw new GatewayError("invalid_request", search.missing);
  return model;
}

class Rest implements BodyRest {
  begun = false;
  failure: GatewayError | undefined;
  /** Bytes that have come, and the time that may still be spent on the others. */
  #read = 0;
  #leftMs: number;

  constructor(
    readonly reader: BodyReader,
    readonly call: Call,
    readonly limits: BodyLimits,
    readonly announced: number | undefined,
  ) {
    this.#leftMs = limits.ms;
  }

  get length(): number | undefined {
    return this.announced === undefined ? undefined : this.announced - this.#read;
  }

  next(): Promise<Uint8Array | undefined> {
    if (this.failure) return Promise.reject(this.failure);
    this.begun = true;
    const { cancellation, context: { clock } } = this.call;
    const began = clock.now();
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array | undefined>();
    let over = false;
    const settled = (): boolean => {
      if (over) return true;
      over = true;
      this.#leftMs -= clock.now() - began;
      cancellation.unlimit();
      return false;
    };
    const fail = (error: GatewayError): void => {
      if (settled()) return;
      this.failure = error;
      this.reader.cancel().catch(() => {});
      reject(error);
    };
    cancellation.limit(this.#leftMs, (late) => fail(late ?? tooSlow(this.limits.ms)));
    this.reader.read().then(({ done, value }) => {
      this.#read += value?.length ?? 0;
      if (this.#read > this.limits.bytes) return fail(tooLarge(this.limits.bytes));
      if (!settled()) resolve(done ? undefined : value);
    }, (error) => fail(new GatewayError("client_closed", "The client left", null, error)));
    return promise;
  }
}
