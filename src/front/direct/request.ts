// SPDX-License-Identifier: Apache-2.0
// A request of the direct front: its head, and its body where that is read from.

import type { HttpRequest } from "../http/exchange.ts";
import { type BodyConnection, DirectBody } from "./body.ts";
import type { DirectHead } from "./request_head.ts";

/** What a request needs of its connection. */
export interface RequestConnection extends BodyConnection {
  /** Is called when the client leaves. */
  set leave(leave: () => void);
}

/** A request that came by a connection. */
export class DirectRequest implements HttpRequest {
  readonly body: DirectBody;
  readonly arrival = undefined;

  constructor(readonly connection: RequestConnection, readonly head: DirectHead) {
    this.body = new DirectBody(connection, head.bodyBytes, head.expects);
  }

  get method(): string {
    return this.head.method;
  }

  get target(): string {
    return this.head.target;
  }

  get authority(): string | null {
    return this.head.fields.get("host");
  }

  get fields(): DirectHead["fields"] {
    return this.head.fields;
  }

  arrived(): Uint8Array<ArrayBuffer> | undefined {
    return this.body.whole();
  }

  bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return this.body.bytes();
  }

  reader(): DirectBody | undefined {
    return this.head.bodyBytes === 0 ? undefined : this.body;
  }

  whenLeft(leave: () => void): void {
    this.connection.leave = leave;
  }
}
