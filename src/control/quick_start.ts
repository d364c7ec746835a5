// SPDX-License-Identifier: Apache-2.0
// A configuration out of engines' URLs alone: one cluster for each way of reaching them, serving what they list.

import { parseConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";

/** What is wrong with a URL, in words. */
export class BadEndpoint extends Error {
  override readonly name = "BadEndpoint";
}

interface EngineUrl {
  readonly secure: boolean;
  readonly address: string;
  readonly port: number;
  readonly basePath: string;
}

/** @param keyFile, keyVariable Where the engines' API key is, if they want one. Throws BadEndpoint. */
export function configOfEndpoints(
  urls: readonly string[],
  keyFile: string | undefined,
  keyVariable: string | undefined,
): Config {
  const groups = new Map<string, EngineUrl[]>();
  for (const url of urls) {
    const engine = parse(url);
    const group = `${engine.secure ? "https" : "http"} ${engine.basePath}`;
    groups.set(group, [...groups.get(group) ?? [], engine]);
  }
  const clusters = [...groups.values()].map((engines, i) => ({
    name: groups.size === 1 ? "engines" : `engines-${i + 1}`,
    endpoints: unique(engines),
    ...(engines[0].secure ? { tls: {} } : {}),
    base_path: engines[0].basePath,
    discover_models: true,
    ...(keyFile === undefined ? {} : { api_key_file: keyFile }),
    ...(keyVariable === undefined ? {} : { api_key_env: keyVariable }),
  }));
  return parseConfig({ clusters }, "command line", Deno.env);
}

function parse(text: string): EngineUrl {
  const expected = "expected a URL like http://127.0.0.1:8000";
  let url: URL;
  if (/^[a-z]+:\/\//i.test(text) && !/^https?:/i.test(text)) throw new BadEndpoint(`${expected}, found "${text}"`);
  try {
    url = new URL(/^https?:\/\//i.test(text) ? text : `http://${text}`);
  } catch {
    throw new BadEndpoint(`${expected}, found "${text}"`);
  }
  if (url.username !== "" || url.search !== "" || url.hash !== "") {
    throw new BadEndpoint(`${expected}, with a path at most, found "${text}"`);
  }
  const secure = url.protocol === "https:";
  // SDKs take a base URL that ends with /v1; paths of the gateway begin with it.
  const basePath = url.pathname.replace(/\/+$/, "").replace(/\/v1$/, "");
  return {
    secure,
    address: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: Number(url.port || (secure ? 443 : 80)),
    basePath,
  };
}

function unique(engines: readonly EngineUrl[]): { address: string; port: number }[] {
  const known = new Map(engines.map(({ address, port }) => [`${address} ${port}`, { address, port }]));
  return [...known.values()];
}
