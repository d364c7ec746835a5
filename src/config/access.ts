// SPDX-License-Identifier: Apache-2.0
// What the config only names of how engines are reached: trusted certificates and keys, out of files and the environment.
// They are kept beside the config, which may be shown.

import { ConfigError, type Environment } from "./load.ts";
import type { Config } from "./schema.ts";
import type { ClusterAccess } from "./snapshot.ts";

/** Reads them for every cluster. Throws ConfigError. */
export async function readAccess(
  { clusters, compat }: Config,
  source = "config",
  environment: Environment = Deno.env,
): Promise<Map<string, ClusterAccess>> {
  const access = new Map<string, ClusterAccess>();
  for (const [i, cluster] of clusters.entries()) {
    const { name, tls, base_path, api_key_file, api_key_env, forward_credentials = compat === "go" } = cluster;
    const at = `clusters[${i}]`;
    let key: string | undefined;
    if (api_key_file !== undefined) {
      key = (await read(source, `${at}.api_key_file`, api_key_file)).trim();
      if (key === "") fail(source, `${at}.api_key_file`, `${api_key_file} is empty`);
    } else if (api_key_env !== undefined) {
      key = environment.get(api_key_env);
      if (key === undefined || key === "") fail(source, `${at}.api_key_env`, `${api_key_env} is not set`);
    }
    if (key !== undefined && !/^[\x21-\x7e]+$/.test(key)) {
      fail(source, `${at}.${api_key_file === undefined ? "api_key_env" : "api_key_file"}`, "a key is visible ASCII");
    }
    const caCerts: string[] = [];
    if (tls?.ca_file !== undefined) {
      const pem = await read(source, `${at}.tls.ca_file`, tls.ca_file);
      if (!pem.includes("-----BEGIN CERTIFICATE-----")) {
        fail(source, `${at}.tls.ca_file`, `${tls.ca_file} holds no PEM certificate`);
      }
      caCerts.push(pem);
    }
    access.set(name, {
      tls: tls && { caCerts, serverName: tls.server_name },
      basePath: base_path,
      authorization: key === undefined ? undefined : `Bearer ${key}`,
      forwardCredentials: forward_credentials,
      ranks: cluster.data_parallel_ranks,
    });
  }
  return access;
}

/** The token that callers of a port have to send; undefined for none. Throws ConfigError. */
export async function readToken(
  { token_file, token_env }: { token_file?: string; token_env?: string },
  section: string,
  environment: Environment = Deno.env,
): Promise<string | undefined> {
  const [key, name] = token_file === undefined ? ["token_env", token_env] : ["token_file", token_file];
  if (name === undefined) return undefined;
  const at = `${section}.${key}`;
  const token = (token_file === undefined ? environment.get(name) : await read("config", at, name))?.trim() ?? "";
  if (token === "") fail("config", at, token_file === undefined ? `${name} is not set` : `${name} is empty`);
  if (!/^[\x21-\x7e]+$/.test(token)) fail("config", at, "a token is visible ASCII");
  return token;
}

async function read(source: string, path: string, file: string): Promise<string> {
  try {
    return await Deno.readTextFile(file);
  } catch (error) {
    fail(source, path, `${file} cannot be read: ${(error as Error).message}`);
  }
}

function fail(source: string, path: string, message: string): never {
  throw new ConfigError(source, [{ path, message }]);
}
