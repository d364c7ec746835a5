// SPDX-License-Identifier: Apache-2.0
// The command line. Exit status: 0 done, 1 failed, 2 wrong usage.

import { parseArgs } from "@std/cli/parse-args";
import { z } from "zod";
import { formatAddress, isLoopback, parseAddress } from "./base/address.ts";
import { VERSION } from "./base/version.ts";
import { ConfigError, configJsonSchema, loadConfig, parseConfig } from "./config/load.ts";
import { importFiles } from "./command_line/import_files.ts";
import { environmentNotes } from "./config/metadata_center.ts";
import { type Config, configNotes } from "./config/schema.ts";
import { diff } from "./config/snapshot.ts";
import { configFile, loadChecked } from "./control/config_file.ts";
import { BadEndpoint, configOfEndpoints } from "./control/quick_start.ts";
import type { ConfigSource } from "./control/reloader.ts";
import { type Fault, faultSchema } from "./mock/faults.ts";
import { type MockEngine, startMockEngine } from "./mock/server.ts";
import { DEFAULT_CENTER_ADDRESS, startCenter } from "./server/center_process.ts";
import { startGateway } from "./server/gateway_process.ts";
import { listenOrSay } from "./server/listeners.ts";
import { Log } from "./telemetry/log.ts";
import { COMMAND_USAGE, USAGE } from "./command_line/usage.ts";

class UsageError extends Error {}

async function main(args: string[]): Promise<number> {
  const [command, ...rest] = args[0] === "--version" ? ["version"] : args;
  if (command === undefined || command === "--help" || command === "-h" || command === "help") {
    console.log(USAGE);
    return command === undefined ? 2 : 0;
  }
  const usage = COMMAND_USAGE[command];
  if (usage === undefined) throw new UsageError(`There is no command "${command}"\n\n${USAGE}`);
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(usage);
    return 0;
  }
  switch (command) {
    case "serve":
      return await serve(rest);
    case "metadata-center":
      return await metadataCenter(rest);
    case "mock-engine":
      return await mockEngine(rest);
    case "check-config":
      return await checkConfig(rest);
    case "import":
      return await importConfig(rest);
    case "config-schema":
      options(command, rest, {});
      console.log(JSON.stringify(configJsonSchema(), null, 2));
      return 0;
    default:
      options(command, rest, {});
      console.log(VERSION);
      return 0;
  }
}

interface OptionNames {
  string?: string[];
  boolean?: string[];
  collect?: string[];
  positional?: number | "some";
}

// deno-lint-ignore no-explicit-any -- the values are checked where they are used
function options(command: string, args: string[], names: OptionNames): Record<string, any> & { _: string[] } {
  const parsed = parseArgs(args, {
    string: [...(names.string ?? []), "_"],
    boolean: names.boolean ?? [],
    collect: names.collect ?? [],
    unknown(option: string, key: string | undefined) {
      if (key === undefined) return true;
      throw new UsageError(`Unknown option ${option}\n\n${COMMAND_USAGE[command]}`);
    },
  });
  const { positional = 0 } = names;
  if (positional === "some" ? parsed._.length === 0 : parsed._.length !== positional) {
    throw new UsageError(
      `${command} takes ${positional === "some" ? "one or more" : positional} arguments, not ${parsed._.length}\n\n${
        COMMAND_USAGE[command]
      }`,
    );
  }
  for (const name of names.string ?? []) {
    if (parsed[name] === "" || (Array.isArray(parsed[name]) && parsed[name].includes(""))) {
      throw new UsageError(`--${name} needs a value\n\n${COMMAND_USAGE[command]}`);
    }
  }
  return parsed;
}

function address(option: string, text: string): string {
  if (parseAddress(text) === undefined) throw new UsageError(`--${option}: expected HOST:PORT, found "${text}"`);
  return text;
}

function wholeNumber(option: string, text: string, min: number, max: number): number {
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(number >= min && number <= max)) {
    throw new UsageError(`--${option}: expected a whole number from ${min} to ${max}, found "${text}"`);
  }
  return number;
}

async function serve(args: string[]): Promise<number> {
  const started = performance.now();
  const given = options("serve", args, {
    string: [
      "config",
      "endpoint",
      "api-key-env",
      "api-key-file",
      "listen",
      "admin",
      "center",
      "workers",
      "mock-engines",
    ],
    boolean: ["share-addresses"],
    collect: ["endpoint"],
  });
  const override = overrides(given);
  const { config, source } = await configured(given, override);
  const engines = given["mock-engines"] === undefined
    ? []
    : startMockEngines(config, wholeNumber("mock-engines", given["mock-engines"], 0, 1_024));
  const gateway = await startGateway(config, { source, shareAddresses: given["share-addresses"] }).catch(
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

// deno-lint-ignore no-explicit-any -- the values are checked here
type Given = Record<string, any>;

/** What the command line decides of a configuration, whenever that is read. */
function overrides(given: Given): (config: Config) => void {
  const listen = given.listen && address("listen", given.listen);
  const admin = given.admin && address("admin", given.admin);
  const center = given.center && address("center", given.center);
  const workers = given.workers === undefined || given.workers === "auto"
    ? given.workers
    : wholeNumber("workers", given.workers, 1, 256);
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
): Promise<{ config: Config; source: ConfigSource | undefined }> {
  const { config: file, endpoint: urls = [], "api-key-env": variable, "api-key-file": keyFile } = given;
  if ((file === undefined) === (urls.length === 0)) {
    const what = file === undefined
      ? "needs --config FILE or --endpoint URL"
      : "takes --config or --endpoint, not both";
    throw new UsageError(`serve ${what}\n\n${COMMAND_USAGE.serve}`);
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

function banner(
  config: Config,
  gateway: Awaited<ReturnType<typeof startGateway>>,
  mocks: number,
  milliseconds: number,
): void {
  const model = Object.keys(gateway.control.snapshot.config.model_mapping_rule)[0] ?? "MODEL";
  const { hostname, port } = gateway.listen;
  const reachable = hostname === "0.0.0.0" || hostname === "::" ? "127.0.0.1" : hostname;
  const origin = `http://${formatAddress({ hostname: reachable, port })}`;
  const admin = `http://${formatAddress(gateway.admin)}`;
  const center = gateway.center?.address;
  const lines = [
    `AIGW ${VERSION} serves on ${origin}/v1 with ${gateway.workers} worker${gateway.workers === 1 ? "" : "s"} (${
      Math.round(milliseconds)
    } ms)`,
    `  admin      ${admin} (/endpoints /explain /metrics /readyz)`,
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

function centerScheme({ metadata_center }: Config): string {
  return metadata_center.tls ? "https" : "http";
}

/** A terminal and a task runner may both pass one Ctrl-C on: only a later one is a second wish. */
const SAME_SIGNAL_MS = 1_000;

/** Resolves at the first SIGTERM or SIGINT; one that comes a second or more later ends the process at once. */
function terminationSignal(): Promise<Deno.Signal> {
  return new Promise((resolve) => {
    let first: number | undefined;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      Deno.addSignalListener(signal, () => {
        first ??= performance.now();
        if (performance.now() - first > SAME_SIGNAL_MS) Deno.exit(signal === "SIGINT" ? 130 : 143);
        resolve(signal);
      });
    }
  });
}

async function mockEngine(args: string[]): Promise<number> {
  const given = options("mock-engine", args, {
    string: ["listen", "model", "speed", "output-tokens", "fault"],
    boolean: ["instant"],
    collect: ["model"],
  });
  const speed = given.speed === undefined ? 1 : Number(given.speed);
  if (!(speed > 0 && speed <= 10_000)) {
    throw new UsageError(`--speed: expected a number above 0 and up to 10000, found "${given.speed}"`);
  }
  let fault: Fault | undefined;
  if (given.fault !== undefined) {
    try {
      fault = faultSchema.parse(JSON.parse(given.fault));
    } catch (error) {
      throw new UsageError(
        `--fault: ${error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message}`,
      );
    }
  }
  const listen = parseAddress(address("listen", given.listen ?? "127.0.0.1:10001"))!;
  const engine = listenOrSay(listen, "--listen", () =>
    startMockEngine({
      address: listen,
      models: given.model,
      speed,
      instant: given.instant,
      outputTokens: given["output-tokens"] === undefined
        ? undefined
        : wholeNumber("output-tokens", given["output-tokens"], 1, 1_000_000),
      fault,
    }));
  console.log(`Mock engine on http://${formatAddress(engine.address)}`);
  await terminationSignal();
  await engine.stop();
  return 0;
}

async function metadataCenter(args: string[]): Promise<number> {
  const given = options("metadata-center", args, { string: ["config", "listen", "peer"], collect: ["peer"] });
  const config = given.config === undefined ? parseConfig({}, "environment", Deno.env) : await loadConfig(given.config);
  const { metadata_center: own } = config;
  own.listen = given.listen !== undefined ? address("listen", given.listen) : own.listen ?? DEFAULT_CENTER_ADDRESS;
  for (const peer of given.peer ?? []) own.peers.push(address("peer", peer));
  const log = new Log(config.log.level, "center");
  for (const note of environmentNotes(Deno.env.toObject())) log.warn(note);
  const center = await startCenter(own, false, log);
  console.log(`Metadata center on ${centerScheme(config)}://${formatAddress(center.address!)}`);
  await terminationSignal();
  await center.stop();
  return 0;
}

async function checkConfig(args: string[]): Promise<number> {
  const { _: [file], against } = options("check-config", args, { string: ["against"], positional: 1 });
  const config = await loadChecked(file);
  const endpoints = config.clusters.reduce((sum, cluster) => sum + cluster.endpoints.length, 0);
  const models = Object.keys(config.model_mapping_rule);
  console.log(`${file} is valid: ${models.length} models, ${config.clusters.length} clusters, ${endpoints} endpoints`);
  for (const note of configNotes(config)) console.log(`note: ${note}`);
  if (against !== undefined) {
    const { sections, restart } = diff(await loadChecked(against), config);
    console.log(sections.length === 0 ? "nothing changes" : `changes: ${sections.join(", ")}`);
    if (restart.length > 0) console.log(`needs a restart: ${restart.join(", ")}`);
    else console.log("a running gateway takes it on as it is");
  }
  return 0;
}

async function importConfig(args: string[]): Promise<number> {
  const { _: files } = options("import", args, { positional: "some" });
  const { text, problems } = await importFiles(files);
  console.log(text);
  for (const problem of problems) console.error(problem);
  return problems.length === 0 ? 0 : 1;
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(error.message);
      Deno.exit(2);
    }
    const expected = error instanceof ConfigError || error instanceof Error && /^(Cannot|Worker) /.test(error.message);
    console.error(expected ? (error as Error).message : error);
    Deno.exit(1);
  }
}
