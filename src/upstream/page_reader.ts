// SPDX-License-Identifier: Apache-2.0
// Reads small pages of one host over connections that are kept: what probes ask, without what `fetch` would bring along (a
// proxy out of the environment, a client of its own).

import type { Address } from "../base/address.ts";
import { formatAddress } from "../base/address.ts";
import { concat } from "../base/bytes.ts";
import type { Deadlines } from "../base/deadlines.ts";
import { UpstreamError } from "./errors.ts";
import { Pool, type PoolLimits } from "./pool.ts";
import { requestHead } from "./request_head.ts";
import type { Transport } from "./transport.ts";

const NOTHING: Uint8Array<ArrayBuffer> = new Uint8Array(0);
const decoder = new TextDecoder();

export interface Page {
  readonly status: number;
  readonly text: string;
}

export interface PageReaderParts {
  readonly transport: Transport;
  readonly deadlines: Deadlines;
  readonly limits: PoolLimits;
}

export class PageReader {
  readonly transport: Transport;
  readonly deadlines: Deadlines;
  readonly limits: PoolLimits;
  readonly #pools = new Map<number, Pool>();
  /** What the questions under way wait for. */
  readonly #waiting = new Set<{ fail(error: UpstreamError): void }>();

  /** @param bytes Longest page that is read. */
  constructor(readonly hostname: string, parts: PageReaderParts, readonly bytes = 16_777_216) {
    this.transport = parts.transport;
    this.deadlines = parts.deadlines;
    this.limits = parts.limits;
  }

  /** Throws UpstreamError: what a connection throws, first_byte_timeout when the whole takes longer than `ms`. */
  get(port: number, path: string, ms: number): Promise<Page> {
    return this.#ask("GET", port, path, NOTHING, ms);
  }

  /** The same of what JSON is answered with. */
  post(port: number, path: string, json: unknown, ms: number): Promise<Page> {
    return this.#ask("POST", port, path, new TextEncoder().encode(JSON.stringify(json)), ms);
  }

  async #ask(method: string, port: number, path: string, body: Uint8Array<ArrayBuffer>, ms: number): Promise<Page> {
    const address: Address = { hostname: this.hostname, port };
    let pool = this.#pools.get(port);
    if (!pool) this.#pools.set(port, pool = new Pool(address, this.deadlines, this.limits, this.transport));
    const { basePath, authorization, tls } = this.transport;
    const type = method === "POST" ? "content-type: application/json\r\n" : "";
    const fields = `accept: */*\r\n${type}${authorization === undefined ? "" : `authorization: ${authorization}\r\n`}`;
    const host = tls?.serverName ?? formatAddress(address);
    const head = requestHead({ method, path: basePath + path, host, fields, bodyBytes: body.length });
    let waiting: { fail(error: UpstreamError): void } | undefined;
    const question = { fail: (error: UpstreamError) => waiting?.fail(error) };
    this.#waiting.add(question);
    const late = new UpstreamError("first_byte_timeout", `no whole answer within ${ms} ms`);
    const timer = setTimeout(() => question.fail(late), ms);
    try {
      const { head: answer, connection } = await pool.send({ head, body }, (next) => waiting = next);
      const pieces: Uint8Array[] = [];
      let length = 0;
      for (let piece = await connection.readBody(); piece !== null; piece = await connection.readBody()) {
        pieces.push(piece);
        length += piece.length;
        if (length > this.bytes) {
          connection.close();
          throw new UpstreamError("bad_response", `the page is longer than ${this.bytes} bytes`);
        }
      }
      pool.give(connection);
      return { status: answer.status, text: decoder.decode(concat(pieces)) };
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(question);
    }
  }

  /** Whether the port accepts a connection. */
  async connects(port: number, ms: number): Promise<boolean> {
    const abort = new AbortController();
    const question = { fail: () => abort.abort() };
    const timer = setTimeout(question.fail, ms);
    this.#waiting.add(question);
    try {
      (await Deno.connect({ hostname: this.hostname, port, signal: abort.signal })).close();
      return true;
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(question);
    }
  }

  /** Ends what is under way, too. */
  close(): void {
    for (const question of this.#waiting) question.fail(new UpstreamError("aborted", "nobody asks any more"));
    for (const pool of this.#pools.values()) pool.close();
    this.#pools.clear();
  }
}
