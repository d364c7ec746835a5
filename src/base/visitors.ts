// SPDX-License-Identifier: Apache-2.0
// Who may call a port that is for operators and other gateways. Web pages may not: a page of another site can have a
// browser send forms to any address, and by a name of its own that it lets point here (DNS rebinding) it could read the
// answers too. Where there is a token, only who has it may.

import { timingSafeEqual } from "node:crypto";
import { GatewayError } from "./errors.ts";

/** A field that no form can send and that pages may not send to other sites: whoever sends it means to change something. */
export const ADMIN_FIELD = "x-aigw-admin";

/** Names that nobody outside of the own network can give to a machine in it: without a dot, or of private domains. */
const PRIVATE_NAME = /^[^.]+\.?$|\.(?:local|internal|svc|localhost|home\.arpa)\.?$/;
const IP_LITERAL = /^(?:\[[0-9a-f:.]+\]|\d{1,3}(?:\.\d{1,3}){3})$/;
/** Hosts that were looked at; those of strangers are not kept. */
const MAX_KNOWN_HOSTS = 64;

export interface VisitorOptions {
  /** Further names that the port is reached by. */
  readonly hosts: readonly string[];
  /** What callers have to send as a bearer token; undefined for nothing. */
  readonly token: string | undefined;
}

export class Visitors {
  readonly #known = new Set<string>();
  readonly #authorization: Uint8Array | undefined;

  constructor(readonly options: VisitorOptions) {
    const { token } = options;
    this.#authorization = token === undefined ? undefined : digestible(`Bearer ${token}`);
  }

  /**
   * Throws GatewayError: unauthorized, forbidden.
   * @param open Whether it may be read without the token.
   */
  check({ headers }: Pick<Request, "headers">, open = false): void {
    if (this.#hasToken(headers)) return;
    this.#checkHost(headers.get("host") ?? "");
    if (this.#authorization !== undefined && !open) {
      throw new GatewayError("unauthorized", "This port wants its token, as Authorization: Bearer TOKEN");
    }
  }

  /** Of a request that changes something. Throws GatewayError: forbidden. */
  checkChange({ headers }: Pick<Request, "headers">): void {
    if (headers.has(ADMIN_FIELD) || this.#hasToken(headers)) return;
    const message = `What changes something needs the header field ${ADMIN_FIELD}, whatever its value: a web page of ` +
      "another site cannot send it";
    throw new GatewayError("forbidden", message);
  }

  #hasToken(headers: Headers): boolean {
    if (this.#authorization === undefined) return false;
    const given = digestible(headers.get("authorization") ?? "");
    return given.length === this.#authorization.length && timingSafeEqual(given, this.#authorization);
  }

  #checkHost(host: string): void {
    // Fast path: a port is called by few names.
    if (this.#known.has(host)) return;
    const name = host.replace(/\.?(?::\d*)?$/, "").toLowerCase();
    const known = name === "" || IP_LITERAL.test(name) || PRIVATE_NAME.test(name) || this.options.hosts.includes(name);
    if (!known) {
      const message = `The host ${JSON.stringify(host.slice(0, 200))} is not known here: name it in the configuration` +
        " (hosts), or use the address";
      throw new GatewayError("forbidden", message);
    }
    if (this.#known.size < MAX_KNOWN_HOSTS) this.#known.add(host);
  }
}

function digestible(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/**
 * A request that a web page of another origin has a browser make says so by Sec-Fetch-Site, or by its Origin field where
 * the port is no trusted one. Callers that are no browsers send neither.
 */
export function comesFromPage({ headers }: Pick<Request, "headers">): boolean {
  const site = headers.get("sec-fetch-site");
  if (site === "cross-site" || site === "same-site") return true;
  const origin = headers.get("origin");
  if (origin === null) return false;
  return origin.replace(/^https?:\/\//, "") !== headers.get("host");
}
