// SPDX-License-Identifier: Apache-2.0
// Requests and answers of the runtime's own server, `Deno.serve`.

import { type Arrival, type BodyReader, type Fields, type HttpRequest, HttpResponse } from "./exchange.ts";

/** Path and query of an absolute URL. */
export function targetOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  return start < 0 ? "/" : url.slice(start);
}

/** A request of the runtime. */
export class ServedRequest implements HttpRequest {
  readonly target: string;
  readonly fields: Fields;

  constructor(readonly request: Request, readonly arrival: Arrival | undefined = undefined) {
    this.target = targetOf(request.url);
    this.fields = request.headers;
  }

  get method(): string {
    return this.request.method;
  }

  /** HTTP/2 has it in the URL alone. */
  get authority(): string | null {
    return this.request.headers.get("host") ?? new URL(this.request.url).host;
  }

  bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return this.request.bytes();
  }

  reader(): BodyReader | undefined {
    return this.request.body?.getReader();
  }

  whenLeft(leave: () => void): void {
    // At once: a signal that is first asked for after the client has left does not tell.
    this.request.signal.addEventListener("abort", leave);
  }
}

/** The runtime's form of an answer. Appending fields costs less than half of handing a list over. */
export function toResponse(answer: HttpResponse): Response {
  const { status, body, stream, fields } = answer;
  const given = stream === undefined ? body as Uint8Array<ArrayBuffer> | string | null : new ReadableStream(
    stream as UnderlyingDefaultSource<Uint8Array<ArrayBuffer>>,
    { highWaterMark: 0 },
  );
  const response = new Response(given, { status });
  const { headers } = response;
  // What the runtime takes for the type of a text is none of ours.
  if (typeof body === "string") headers.delete("content-type");
  for (let i = 0; i < fields.length; i += 2) headers.append(fields[i], fields[i + 1]);
  return response;
}
