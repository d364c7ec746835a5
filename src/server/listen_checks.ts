// SPDX-License-Identifier: Apache-2.0
// What of the listen settings is looked at before anything listens.

import type { Config } from "../config/schema.ts";
import type { Certificate } from "./protocol.ts";

/** Throws Error with a plain message when two listeners have one address. */
export function checkDistinct({ listen, listeners, tls, admin, metadata_center: center }: Config): void {
  const keys = new Map<string, string>();
  const addresses: [key: string, address: string | undefined][] = [
    ["listen", listen],
    ...listeners.map(({ address }, i): [string, string] => [`listeners[${i}].address`, address]),
    ["tls.listen", tls?.listen],
    ["admin.listen", admin.listen],
    ["metadata_center.listen", center.listen],
  ];
  for (const [key, address] of addresses) {
    if (address === undefined || address.endsWith(":0")) continue;
    const other = keys.get(address);
    if (other) throw new Error(`Cannot listen on ${address}: ${other} and ${key} are the same address`);
    keys.set(address, key);
  }
}

/** The certificate and its key, as PEM. Throws Error with a plain message when a file cannot be read. */
export async function readCertificate(
  { cert_file, key_file }: Pick<NonNullable<Config["tls"]>, "cert_file" | "key_file">,
): Promise<Certificate> {
  const read = async (key: string, file: string) => {
    try {
      return await Deno.readTextFile(file);
    } catch (error) {
      throw new Error(`Cannot read ${file} (${key}): ${(error as Error).message}`, { cause: error });
    }
  };
  return { cert: await read("tls.cert_file", cert_file), key: await read("tls.key_file", key_file) };
}
