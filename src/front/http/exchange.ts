// SPDX-License-Identifier: Apache-2.0
// A request and its answer, whatever server carries them: the runtime's own, or the direct one.

import type { Carrier } from "../../gateway/carrier.ts";
import type { RequestFields } from "../../upstream/request_head.ts";

/** Header fields by lower-case name; several of one name are one, their values joined. */
export type Fields = RequestFields;

/** Reads a body piece by piece. */
export interface BodyReader {
  /** The next piece, which is the reader's to keep. Rejects when the client is gone. */
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array }>;
  /** Reads into memory of the caller's, which saves a copy; resolves with how much, 0 at the end. */
  readInto?(target: Uint8Array): Promise<number>;
  /** Gives up what is still to come. */
  cancel(): Promise<void>;
}

export interface HttpRequest {
  readonly method: string;
  /** Path and query, as the client wrote them. */
  readonly target: string;
  /** The host that it is for; null when it does not say. */
  readonly authority: string | null;
  readonly fields: Fields;
  /** The whole body, where all of it is here already: it is the caller's then. */
  arrived?(): Uint8Array<ArrayBuffer> | undefined;
  /** The whole body at once. Rejects when the client is gone. */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
  /** The body piece by piece; undefined when there is none. */
  reader(): BodyReader | undefined;
  /** `leave` is called when the client leaves before it has the whole answer. */
  whenLeft(leave: () => void): void;
  /** Where it came from, for a server that does not itself tell of clients that leave before they have a head. */
  readonly arrival: Arrival | undefined;
  /** Who carries it to an engine; undefined for the gateway itself. */
  readonly carrier?: Carrier;
}

/** The connection that a request came by. */
export interface Arrival {
  readonly info: { readonly remoteAddr: Deno.Addr };
  /** Our port. */
  readonly port: number;
}

/** Takes the pieces of an answer. */
export interface StreamController {
  /** Hands a piece on. The first one that follows a `pull` answers it. */
  enqueue(piece: Uint8Array): void;
  close(): void;
  /** Cuts the answer, so that nobody takes it for complete. */
  error(error: Error): void;
  /** Below 0 while a piece waits to be taken. */
  readonly desiredSize: number | null;
}

/** Gives the pieces of an answer, each when the one before has been taken. */
export interface StreamSource {
  start?(controller: StreamController): void;
  pull(controller: StreamController): void | Promise<void>;
  /** The client left. */
  cancel(): void | Promise<void>;
}

export type AnswerBody = Uint8Array<ArrayBuffer> | string | StreamSource | null;

/** An answer: a status, fields in order, and a body. */
export class HttpResponse {
  /** Names and values in turn. */
  readonly fields: string[] = [];

  constructor(readonly status: number, readonly body: AnswerBody) {}

  append(name: string, value: string): void {
    this.fields.push(name, value);
  }

  /** The first value of a field. */
  get(name: string): string | undefined {
    for (let i = 0; i < this.fields.length; i += 2) if (this.fields[i] === name) return this.fields[i + 1];
  }

  /** Its body when it is a stream. */
  get stream(): StreamSource | undefined {
    const { body } = this;
    return body === null || typeof body === "string" || body instanceof Uint8Array ? undefined : body;
  }
}

/** A path without its query. */
export function pathOf(target: string): string {
  const end = target.indexOf("?");
  return end < 0 ? target : target.slice(0, end);
}
