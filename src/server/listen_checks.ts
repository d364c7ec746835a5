// SPDX-License-Identifier: Apache-2.0
// What of the listen settings is looked at before anything listens.

import { addressIssues, type Config } from "../config/schema.ts";
import type { Certificate } from "./protocol.ts";

/** Throws Error with a plain message when two listeners have one address, as the command line may have it. */
export function checkDistinct(config: Config): void {
  for (const { path, message } of addressIssues(config)) throw new Error(`Cannot listen on ${path}: ${message}`);
}

/** The certificate and its key, as PEM. Throws Error with a plain message when a file cannot be read. */
export async function readCertificate(
  { cert_file, key_file }: Pick<NonNullable<Config["tls"]>, "cert_file" | "key_file">,
  section = "tls",
): Promise<Certificate> {
  const read = async (key: string, file: string) => {
    try {
      return await Deno.readTextFile(file);
    } catch (error) {
      throw new Error(`Cannot read ${file} (${key}): ${(error as Error).message}`, { cause: error });
    }
  };
  return { cert: await read(`${section}.cert_file`, cert_file), key: await read(`${section}.key_file`, key_file) };
}
