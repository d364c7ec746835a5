// SPDX-License-Identifier: Apache-2.0
// Header fields as external processing has them, and how those that the gateway wants become of those that there are.

import type { Carried } from "../../gateway/carrier.ts";
import type { Fields, HttpResponse } from "../http/exchange.ts";
import { DESTINATION, type Mutation } from "./messages.ts";

/** A head's fields by name, and its pseudo-header fields apart from them. */
export class HeadFields implements Fields {
  readonly #pseudo = new Map<string, string>();
  readonly #fields = new Map<string, string>();

  /** @param list Names and values in turn. */
  constructor(list: readonly string[]) {
    for (let i = 0; i < list.length; i += 2) {
      const [name, value] = [list[i], list[i + 1]];
      const fields = name.startsWith(":") ? this.#pseudo : this.#fields;
      const known = fields.get(name);
      fields.set(name, known === undefined ? value : `${known}${name === "cookie" ? "; " : ", "}${value}`);
    }
  }

  pseudo(name: string): string {
    return this.#pseudo.get(name) ?? "";
  }

  get(name: string): string | null {
    return this.#fields.get(name) ?? null;
  }

  forEach(visit: (value: string, name: string) => void): void {
    this.#fields.forEach(visit);
  }
}

/** Fields of the connection and of the proxy, which are not the gateway's to take away. */
const KEPT = new Set(["connection", "content-length", "expect", "host", "te", "transfer-encoding", "via"]);
const OF_PROXY = /^x-(?:envoy|forwarded|istio)-/;

/** What makes a request's head that which its engine is to get. */
export function requestMutation(head: HeadFields, carried: Carried): { mutation: Mutation; destination: string } {
  const brought = [carried.endpoint, ...carried.others].map(({ host }) => host);
  const destination = [...new Set(brought)].join(","); // ranks of one engine have one address
  const set = [DESTINATION, destination];
  const remove: string[] = [];
  const wanted = new Set<string>();
  for (const line of carried.fields.split("\r\n")) {
    const colon = line.indexOf(": ");
    if (colon < 0) continue;
    const [name, value] = [line.slice(0, colon), line.slice(colon + 2)];
    wanted.add(name);
    if (head.get(name) !== value) set.push(name, value);
  }
  head.forEach((_, name) => {
    if (!wanted.has(name) && !KEPT.has(name) && !OF_PROXY.test(name) && name !== DESTINATION) remove.push(name);
  });
  if (carried.path !== head.pseudo(":path")) set.push(":path", carried.path);
  const { body, rest } = carried;
  const length = rest === undefined ? body.length : rest.length === undefined ? undefined : body.length + rest.length;
  if (length === undefined) remove.push("content-length");
  else if (head.get("content-length") !== String(length) && (length > 0 || head.get("content-length") !== null)) {
    set.push("content-length", String(length));
  }
  return { mutation: { set, remove }, destination };
}

/** What makes an engine's head that of an answer. */
export function responseMutation(head: HeadFields, { status, fields, stream }: HttpResponse): Mutation | undefined {
  const wanted = new Map<string, string>();
  for (let i = 0; i < fields.length; i += 2) {
    const [name, value] = [fields[i], fields[i + 1]];
    const before = wanted.get(name);
    wanted.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  // The length is known where the whole answer is; what is streamed may be changed on its way.
  if (stream !== undefined) wanted.delete("content-length");
  wanted.delete("connection");
  const set: string[] = [];
  wanted.forEach((value, name) => {
    if (head.get(name) !== value) set.push(name, value);
  });
  if (String(status) !== head.pseudo(":status")) set.push(":status", String(status));
  const remove: string[] = [];
  head.forEach((_, name) => {
    if (!wanted.has(name) && (name === "content-length" || (!KEPT.has(name) && !OF_PROXY.test(name)))) {
      remove.push(name);
    }
  });
  return set.length > 0 || remove.length > 0 ? { set, remove } : undefined;
}
