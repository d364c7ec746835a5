// SPDX-License-Identifier: Apache-2.0
// `aigw serve`: the gateway, from a configuration or from engines' URLs.

import { parse } from "@std/yaml";
import demoClusters from "../../config/clusters.json" with { type: "text" };
import demo from "../../config/local.yaml" with { type: "text" };
import { formatAddress, isLoopback } from "../base/address.ts";
import { VERSION } from "../base/version.ts";
import { parseConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { configFile } from "../control/config_file.ts";
import { BadEndpoint, configOfEndpoints } from "../control/quick_start.ts";
import type { ConfigSource } from "../control/reloader.ts";
import { type MockEngine, startMockEngine } from "../mock/server.ts";
import { type GatewayProcess, startGateway } from "../server/gateway_process.ts";
import { addressIn, type Command, type Given, helpOf, UsageError, wholeIn } from "./command.ts";
import { terminationSignal } from "./signals.ts";

export const serveCommand: Command = {
  name: "serve",
  summary: "Run the gateway",
  usage: ["aigw serve --config FILE [options]", "aigw serve --endpoint URL [--endpoint URL ...] [options]"],
  options: [
    { name: "config", value: "FILE", help: "Configuration, YAML or JSON" },
    {
      name: "endpoint",
      value: "URL",
      many: true,
      help: "Without a configuration: an engine, as http://127.0.0.1:8000. Every model that\n" +
        "the engines list in /v1/models is served",
    },
    { name: "api-key-env", value: "NAME", help: "Environment variable with the key that these engines want" },
    { name: "api-key-file", value: "FILE", help: "The same as a file" },
    { name: "listen", value: "HOST:PORT", help: "Gateway address, instead of the config's" },
    { name: "admin", value: "HOST:PORT", help: "Admin address, instead of the config's" },
    { name: "center", value: "HOST:PORT", help: "Address of the embedded metadata center, instead of the config's" },
    { name: "workers", value: "N", help: "Data plane threads, a number or auto" },
    {
      name: "share-addresses",
      help: "Listen beside a gateway that is running, to take its place: it may be ended then",
    },
    { name: "mock-engines", value: "N", help: "Run mock engines on the first N loopback endpoints of the config" },
  ],
  notes: "SIGTERM and Ctrl-C drain and stop; SIGHUP reads the configuration again.",
  run: serve,
};

export const demoCommand: Command = {
  name: "demo",
  summary: "Run the gateway with two mock engines on this machine",
  notes:
    "The gateway's address is 127.0.0.1:10000 if not given, the admin's 127.0.0.1:15000, that of the metadata center\n" +
    "127.0.0.1:8080 if that is free; the engines are on ports 10001 and 10002.",
  options: serveCommand.options.filter(({ name }) => ["listen", "admin", "center", "workers"].includes(name)),
  run(given) {
    const config = parseConfig({
      ...parse(demo) as object,
      clusters_file: undefined,
      ...parse(demoClusters) as object,
    });
    overrides(given)(config);
    return run({ config, source: undefined }, 2, false);
  },
};

async function serve(given: Given): Promise<number> {
  const configuration = await configured(given, overrides(given));
  return run(configuration, wholeIn(given, "mock-engines", 0, 1_024) ?? 0, given.has("share-addresses"));
}

/** A configuration, and where it is read again. */
interface Configuration {
  readonly config: Config;
  readonly source: ConfigSource | undefined;
}

async function run({ config, source }: Configuration, mocks: number, shareAddresses: boolean): Promise<number> {
  const started = performance.now();
  const engines = startMockEngines(config, mocks);
  const gateway = await startGateway(config, { source, shareAddresses }).catch(
    async (error) => {
      await Promise.all(engines.map((engine) => engine.stop()));
      throw error;
    },
  );
  Deno.addSignalListener("SIGHUP", () => gateway.reloader.reload("SIGHUP"));
  banner(config, gateway, engines.length, performance.now() - started);

  const signal = await terminationSignal();
  const { shutdown_delay_ms, drain_ms } = gateway.control.config.timeouts;
  if (shutdown_delay_ms > 0) {
    console.log(`${signal}: not ready any more, still accepting for ${shutdown_delay_ms} ms`);
    gateway.leave();
    await new Promise((resolve) => setTimeout(resolve, shutdown_delay_ms));
  }
  console.log(`${signal}: draining, up to ${drain_ms} ms for requests in flight`);
  const cut = await gateway.stop();
  await Promise.all(engines.map((engine) => engine.stop()));
  console.log(cut === 0 ? "Stopped; nothing was lost" : `Stopped; ${cut} requests were cut by the deadline`);
  return 0;
}

/** What the command line decides of a configuration, whenever that is read. */
function overrides(given: Given): (config: Config) => void {
  const [listen, admin, center] = ["listen", "admin", "center"].map((option) => addressIn(given, option));
  const workers = given.text("workers") === "auto" ? "auto" : wholeIn(given, "workers", 1, 256);
  return (config) => {
    if (listen !== undefined) config.listen = listen;
    if (admin !== undefined) config.admin.listen = admin;
    if (center !== undefined) config.metadata_center.listen = center;
    if (workers !== undefined) config.workers = workers;
  };
}

/** The configuration of a file, or of engines' URLs. */
async function configured(
  given: Given,
  override: (config: Config) => void,
): Promise<Configuration> {
  const [file, variable, keyFile] = ["config", "api-key-env", "api-key-file"].map((option) => given.text(option));
  const urls = given.texts("endpoint");
  if ((file === undefined) === (urls.length === 0)) {
    const what = file === undefined
      ? "needs --config FILE or --endpoint URL"
      : "takes --config or --endpoint, not both";
    throw new UsageError(`serve ${what}\n\n${helpOf(serveCommand)}`);
  }
  if (file !== undefined) {
    if (variable !== undefined || keyFile !== undefined) {
      throw new UsageError("--api-key-env and --api-key-file go with --endpoint; a configuration has them by cluster");
    }
    const source = configFile(file, override);
    return { config: await source.load(), source };
  }
  if (variable !== undefined && keyFile !== undefined) {
    throw new UsageError("--api-key-env or --api-key-file, not both");
  }
  try {
    const config = configOfEndpoints(urls, keyFile, variable);
    override(config);
    return { config, source: undefined };
  } catch (error) {
    if (error instanceof BadEndpoint) throw new UsageError(`--endpoint: ${error.message}`);
    throw error;
  }
}

function startMockEngines(config: Config, count: number): MockEngine[] {
  const models = Object.keys(config.model_mapping_rule);
  const local = config.clusters.flatMap(({ endpoints }) => endpoints).filter((one) => isLoopback(one.address));
  if (local.length < count) {
    throw new UsageError(`--mock-engines ${count}: the config names only ${local.length} endpoints on this machine`);
  }
  const engines: MockEngine[] = [];
  for (const { address: hostname, port } of local.slice(0, count)) {
    try {
      engines.push(startMockEngine({ address: { hostname, port }, models }));
    } catch (error) {
      for (const engine of engines) engine.stop();
      throw new Error(
        `Cannot start a mock engine on ${formatAddress({ hostname, port })}: ${(error as Error).message}`,
      );
    }
  }
  return engines;
}

function banner(config: Config, gateway: GatewayProcess, mocks: number, milliseconds: number): void {
  const model = Object.keys(gateway.control.snapshot.config.model_mapping_rule)[0] ?? "MODEL";
  const { hostname, port } = gateway.listen;
  const reachable = hostname === "0.0.0.0" || hostname === "::" ? "127.0.0.1" : hostname;
  const origin = `http://${formatAddress({ hostname: reachable, port })}`;
  const admin = `${config.admin.tls ? "https" : "http"}://${formatAddress(gateway.admin)}`;
  const center = gateway.center?.address;
  const lines = [
    `AIGW ${VERSION} serves on ${origin}/v1 with ${gateway.workers} worker${gateway.workers === 1 ? "" : "s"} (${
      Math.round(milliseconds)
    } ms)`,
    ...gateway.listeners.map((address, i) =>
      `  and on     http://${formatAddress(address)}/v1 (${config.listeners[i].server})`
    ),
    ...(gateway.extProc ? [`  ext_proc   grpc://${formatAddress(gateway.extProc)} for Envoy`] : []),
    ...(gateway.tls ? [`  and on     https://${formatAddress(gateway.tls)}/v1`] : []),
    `  admin      ${admin}/ is a page; also /endpoints /explain /metrics /readyz`,
    ...(center ? [`  center     ${centerScheme(config)}://${formatAddress(center)} (embedded metadata center)`] : []),
    ...config.clusters.map(({ name }) =>
      `  cluster    ${name}: ${gateway.fleet.membersOf(name).map((one) => one.name).join(" ") || "no endpoints"}`
    ),
    ...(mocks > 0 ? [`  mocks      ${mocks} mock engine${mocks === 1 ? "" : "s"} in this process`] : []),
    "",
    `curl ${origin}/v1/chat/completions -H 'content-type: application/json' -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
    "",
  ];
  console.log(lines.join("\n"));
}

/** How a center is reached. */
export function centerScheme({ metadata_center }: Config): string {
  return metadata_center.tls ? "https" : "http";
}
