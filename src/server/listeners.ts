// SPDX-License-Identifier: Apache-2.0
// Listening with an error that says what to change.

import type { Certificate } from "./protocol.ts";
import { type Address, formatAddress, parseAddress } from "../base/address.ts";

/**
 * A server on HOST:PORT of the config key `what`. Its socket may be shared, so that a gateway can take another one's place;
 * unless `share` says so, the address has to be free. Throws Error with a plain message when that cannot be.
 */
export function serveOn(
  text: string,
  what: string,
  handler: (request: Request, info: Deno.ServeHandlerInfo<Deno.NetAddr>) => Response | Promise<Response>,
  share = false,
  certificate?: Certificate,
): Deno.HttpServer<Deno.NetAddr> {
  const address = parseAddress(text)!;
  try {
    if (!share && address.port !== 0) Deno.listen(address).close();
    return Deno.serve({ ...address, ...certificate, reusePort: true, onListen() {} }, handler);
  } catch (error) {
    throw cannotListen(what, address, error);
  }
}

/** An address that was free, kept until it is disposed of. */
export interface Reservation extends Disposable {
  readonly address: Address;
}

/**
 * Finds out whether an address is free and resolves port 0. Workers share their port by SO_REUSEPORT, which would also
 * share it with a stranger: a plain listener asks first. A port that the system chose is kept until the workers have it,
 * so that the system gives it to nobody else; nobody can know it before, so that nobody connects meanwhile.
 * With `share` another gateway of the same user may listen there too: it is about to end.
 */
export function reserve(text: string, what: string, share = false): Reservation {
  const address = parseAddress(text)!;
  if (share && address.port !== 0) return { address, [Symbol.dispose]() {} };
  try {
    const listener = Deno.listen(address);
    const { port } = listener.addr as Deno.NetAddr;
    listener.close();
    const found = { hostname: address.hostname, port };
    // One that accepts nothing is closed at once; a server may still take, and reset, connections after its shutdown.
    // The runtime knows reusePort here as it does for its own server; its types do not.
    const shared: Deno.TcpListenOptions & { reusePort: boolean } = { ...found, reusePort: true };
    const placeholder = address.port === 0 ? Deno.listen(shared) : undefined;
    return { address: found, [Symbol.dispose]: () => placeholder?.close() };
  } catch (error) {
    throw cannotListen(what, address, error);
  }
}

/** Whether nobody listens on HOST:PORT. */
export function isFree(text: string): boolean {
  try {
    Deno.listen(parseAddress(text)!).close();
    return true;
  } catch {
    return false;
  }
}

/** Calls what listens on an address. Throws Error with a plain message when that cannot be. */
export function listenOrSay<T>(address: Address, what: string, listen: () => T): T {
  try {
    return listen();
  } catch (error) {
    throw cannotListen(what, address, error);
  }
}

function cannotListen(what: string, address: Address, error: unknown): Error {
  const reason = error instanceof Deno.errors.AddrInUse
    ? "the address is in use by another process"
    : (error as Error).message;
  return new Error(`Cannot listen on ${formatAddress(address)} (${what}): ${reason}`, { cause: error });
}
