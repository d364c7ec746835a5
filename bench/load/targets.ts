// SPDX-License-Identifier: Apache-2.0
// What bench:load measures: the gateway by both of its servers, bare proxies, and other routers where they are installed.

import { GATEWAY_FLAGS, root } from "../process.ts";

export interface TargetCommand {
  readonly command: string;
  readonly args: string[];
  readonly port: number;
  readonly env?: Record<string, string>;
  /** Listens for several targets; measured under each of their ports. */
  readonly sameAs?: string;
}

export interface TargetOptions {
  /** Where files may be written. */
  readonly folder: string;
  readonly port: number;
  readonly enginePorts: readonly number[];
  readonly deno: string;
  readonly run: readonly string[];
  /** A folder with the programs of other routers. */
  readonly peers: string | undefined;
  /** Port of a collector of traces and metrics. */
  readonly collector: number;
  /** Another checkout of this project. */
  readonly beside: string | undefined;
}

/** Limits that are counted and never reached. */
const LIMITS = {
  requests_per_minute: 2_000_000_000,
  input_tokens_per_minute: 2_000_000_000,
  output_tokens_per_minute: 2_000_000_000,
  concurrency: 1_000_000,
};

const isThere = (path: string) => {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
};
const installed = (name: string) => new Deno.Command("which", { args: [name], stdout: "null" }).outputSync().success;

/** The targets by name, in the order of the table. */
export async function targetsOf(options: TargetOptions): Promise<Map<string, TargetCommand>> {
  const { folder, port, enginePorts, deno, run, peers, collector, beside } = options;
  const targets = new Map<string, TargetCommand>();
  let next = port;
  const urls = enginePorts.map((one) => `http://127.0.0.1:${one}`);

  const gateway = async (
    name: string,
    more: Record<string, unknown>,
    { source = root, env }: { source?: string; env?: Record<string, string> } = {},
  ) => {
    const [plain, direct, admin] = [next++, next++, next++];
    const file = `${folder}/${plain}.json`;
    const config = {
      listen: `127.0.0.1:${plain}`,
      ...(source === root ? { listeners: [{ address: `127.0.0.1:${direct}`, server: "direct" }] } : {}),
      admin: { listen: `127.0.0.1:${admin}` },
      metadata_center: { listen: "127.0.0.1:0" },
      log: { level: "error", enabled: false },
      workers: 1,
      clusters: [{ name: "c", endpoints: enginePorts.map((one) => ({ address: "127.0.0.1", port: one })) }],
      model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
      ...more,
    };
    await Deno.writeTextFile(file, JSON.stringify(config));
    const args = [...run, GATEWAY_FLAGS, `${source}/src/main.ts`, "serve", "--config", file];
    targets.set(name, { command: deno, args, port: plain, env });
    if (source === root) targets.set(`${name}, direct`, { command: deno, args, port: direct, env, sameAs: name });
  };

  if (installed("nginx")) {
    const own = next++;
    await Deno.writeTextFile(`${folder}/nginx.conf`, nginxConfig(folder, own, enginePorts));
    targets.set("nginx", { command: "nginx", args: ["-c", `${folder}/nginx.conf`], port: own });
  }
  if (peers !== undefined && isThere(`${peers}/envoy`)) {
    const own = next++;
    await Deno.writeTextFile(`${folder}/envoy.json`, JSON.stringify(envoyConfig(own, enginePorts)));
    const args = ["-c", `${folder}/envoy.json`, "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"];
    targets.set("Envoy", { command: `${peers}/envoy`, args, port: own });
  }
  const piped = next++;
  const proxy = [`${root}bench/load/bare_proxy.ts`, "pipe", String(piped), enginePorts.join(",")];
  targets.set("fetch, piped", { command: deno, args: [...run, ...proxy], port: piped });
  await gateway("aigw", {});
  await gateway("aigw, limits", { tenancy: { anonymous: { limits: LIMITS } } });
  const log = { enabled: true, level: "error", path: `${folder}/access.log`, rotation: { megabytes: 64, files: 1 } };
  await gateway("aigw, access log", { log });
  const env = {
    OTEL_DENO: "true",
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector}`,
    OTEL_SERVICE_NAME: "aigw",
  };
  await gateway("aigw, traces", {}, { env });
  if (beside !== undefined) await gateway("aigw, beside", {}, { source: beside });
  for (const [name, program, launch] of ROUTERS) {
    if (peers === undefined || !isThere(`${peers}/${program}`)) continue;
    const own = next++;
    const args = [...launch, "--host", "127.0.0.1", "--port", String(own), "--policy", "cache_aware"];
    const metrics = ["--prometheus-port", String(next++), "--prometheus-host", "127.0.0.1"];
    targets.set(name, {
      command: `${peers}/${program}`,
      args: [...args, ...metrics, "--worker-urls", ...urls],
      port: own,
    });
  }
  return targets;
}

/** Routers of others with a policy by caches: name, program, and what comes before its options. */
const ROUTERS: [name: string, program: string, launch: string[]][] = [
  ["sglang-router", "sglang-router", ["launch"]],
  ["SMG", "smg", ["launch"]],
  ["vllm-router", "vllm-router", []],
];

function nginxConfig(folder: string, port: number, engines: readonly number[]): string {
  return `worker_processes 1; daemon off; error_log ${folder}/nginx.log; pid ${folder}/nginx.pid;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path ${folder}/1; proxy_temp_path ${folder}/2; fastcgi_temp_path ${folder}/3;
  uwsgi_temp_path ${folder}/4; scgi_temp_path ${folder}/5;
  upstream engines { ${
    engines.map((one) => `server 127.0.0.1:${one};`).join(" ")
  } keepalive 1024; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:${port}; keepalive_requests 100000000; client_max_body_size 100m;
    location / {
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      client_body_buffer_size 1m;
    }
  }
}
`;
}

function envoyConfig(port: number, engines: readonly number[]) {
  const address = (one: number) => ({ socket_address: { address: "127.0.0.1", port_value: one } });
  const http = "type.googleapis.com/envoy.extensions.filters";
  return {
    static_resources: {
      listeners: [{
        address: address(port),
        filter_chains: [{
          filters: [{
            name: "http",
            typed_config: {
              "@type": `${http}.network.http_connection_manager.v3.HttpConnectionManager`,
              stat_prefix: "in",
              route_config: {
                virtual_hosts: [{
                  name: "all",
                  domains: ["*"],
                  routes: [{ match: { prefix: "/" }, route: { cluster: "engines", timeout: "0s" } }],
                }],
              },
              http_filters: [{ name: "router", typed_config: { "@type": `${http}.http.router.v3.Router` } }],
            },
          }],
        }],
      }],
      clusters: [{
        name: "engines",
        type: "STATIC",
        load_assignment: {
          cluster_name: "engines",
          endpoints: [{ lb_endpoints: engines.map((one) => ({ endpoint: { address: address(one) } })) }],
        },
        circuit_breakers: {
          thresholds: [{ max_connections: 100_000, max_pending_requests: 100_000, max_requests: 100_000 }],
        },
      }],
    },
  };
}
