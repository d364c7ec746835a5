// SPDX-License-Identifier: Apache-2.0
// A whole gateway for tests: real workers in this process, mock engines in this process or as processes of their own.

import { type Address, formatAddress } from "../../src/base/address.ts";
import { parseConfig } from "../../src/config/load.ts";
import { type MockEngine, type MockEngineOptions, startMockEngine } from "../../src/mock/server.ts";
import { type AigwProcess, startAigw } from "./process.ts";
import { freePort } from "./machine.ts";
import { until } from "./until.ts";
import { type GatewayProcess, startGateway } from "../../src/server/gateway_process.ts";

/** What a gateway tells at its admin's address. */
export interface AdminView {
  readonly admin: string;
  endpoints(): Promise<EndpointStatus[]>;
  /** Waits until every counter of every endpoint is 0; throws with what is left after a while. */
  settled(): Promise<void>;
  metric(name: string): Promise<number>;
}

export interface TestGateway extends AdminView, AsyncDisposable {
  readonly origin: string;
  /** Of the runtime's own server, which speaks HTTP/2 too. */
  readonly served: string;
  readonly gateway: GatewayProcess;
}

/** A gateway in a process of its own. */
export interface TestGatewayProcess extends AdminView, AsyncDisposable {
  readonly origin: string;
  readonly pid: number;
}

export interface EndpointStatus {
  cluster: string;
  address: string;
  port: number;
  state: string;
  in_flight: number;
  prompt_bytes: number;
  dispatched: number;
  /** As its engine tells; null while it is not known. */
  waiting: number | null;
}

/** What serves the gateway's clients in tests: `deno task test:direct` says direct. */
const FRONT = Deno.env.get("AIGW_TEST_FRONT") ?? "serve";

type Endpoints = readonly { address: Address; labels?: Record<string, string> }[];

/** Model "m" on cluster "c" with these endpoints; `changes` are merged over the top level. */
function configOf(endpoints: Endpoints, changes: Record<string, unknown>): Record<string, unknown> {
  return {
    listen: "127.0.0.1:0",
    listeners: FRONT === "direct" ? [{ address: "127.0.0.1:0" }] : [],
    admin: { listen: "127.0.0.1:0" },
    metadata_center: { listen: "127.0.0.1:0" },
    expose_endpoint: true,
    workers: 2,
    log: { level: "error", enabled: false },
    clusters: [{
      name: "c",
      endpoints: endpoints.map(({ address, labels }) => ({
        address: address.hostname,
        port: address.port,
        labels: labels ?? {},
      })),
    }],
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
    ...changes,
  };
}

export async function startTestGateway(
  endpoints: Endpoints,
  changes: Record<string, unknown> = {},
): Promise<TestGateway> {
  const gateway = await startGateway(parseConfig(configOf(endpoints, changes)));
  return {
    origin: `http://${formatAddress(FRONT === "direct" ? gateway.listeners[0] : gateway.listen)}`,
    served: `http://${formatAddress(gateway.listen)}`,
    gateway,
    ...adminView(`http://${formatAddress(gateway.admin)}`),
    async [Symbol.asyncDispose]() {
      await gateway.stop(2_000);
    },
  };
}

/** The same in a process of its own, whose memory is its alone. */
export async function startTestGatewayProcess(
  endpoints: Endpoints,
  changes: Record<string, unknown> = {},
): Promise<TestGatewayProcess> {
  const [listen, admin] = [freePort(), freePort()].map((port) => `127.0.0.1:${port}`);
  const path = await Deno.makeTempFile({ suffix: ".json" });
  const config = configOf(endpoints, { listeners: [], ...changes, listen, admin: { listen: admin } });
  await Deno.writeTextFile(path, JSON.stringify(config));
  const process = await startAigw(["serve", "--config", path]);
  return {
    origin: `http://${listen}`,
    pid: process.pid,
    ...adminView(`http://${admin}`),
    async [Symbol.asyncDispose]() {
      await process.end("SIGTERM");
      await Deno.remove(path);
    },
  };
}

function adminView(admin: string): AdminView {
  const endpoints = async (): Promise<EndpointStatus[]> => (await (await fetch(`${admin}/endpoints`)).json()).endpoints;
  return {
    admin,
    endpoints,
    async settled() {
      let left: EndpointStatus[] = [];
      await until(async () => {
        left = (await endpoints()).filter(({ in_flight, prompt_bytes }) => in_flight !== 0 || prompt_bytes !== 0);
        return left.length === 0;
      }, () => `no load is left behind, and there is ${JSON.stringify(left)}`);
    },
    async metric(name) {
      const text = await (await fetch(`${admin}/metrics`)).text();
      let sum = 0;
      for (const line of text.split("\n")) {
        if (line.startsWith(`${name} `) || line.startsWith(`${name}{`)) {
          sum += Number(line.slice(line.lastIndexOf(" ")));
        }
      }
      return sum;
    },
  };
}

/** Mock engines on free ports of this process. */
export function startEngines(count: number, options: Partial<MockEngineOptions> = {}): MockEngine[] & AsyncDisposable {
  const engines = Array.from(
    { length: count },
    () => startMockEngine({ address: { hostname: "127.0.0.1", port: 0 }, ...options }),
  );
  return Object.assign(engines, {
    async [Symbol.asyncDispose]() {
      await Promise.all(engines.map((engine) => engine.stop()));
    },
  });
}

export interface EngineProcess extends AigwProcess {
  readonly address: Address;
}

/** A mock engine as a process of its own, which can be killed. */
export async function startEngineProcess(args: string[] = []): Promise<EngineProcess> {
  const engine = await startAigw(
    ["mock-engine", ...(args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"]), ...args],
    "null",
  );
  return { ...engine, address: { hostname: "127.0.0.1", port: engine.port } };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** How the admin is asked to change something. */
export const CHANGE: RequestInit = { method: "POST", headers: { "x-aigw-admin": "test" } };

/** A chat request's body. */
export function chat(content: string, more: Record<string, unknown> = {}): string {
  return JSON.stringify({ model: "m", messages: [{ role: "user", content }], ...more });
}

export function post(origin: string, body: BodyInit, more: RequestInit = {}): Promise<Response> {
  return fetch(`${origin}/v1/chat/completions`, {
    method: "POST",
    body,
    ...more,
    headers: { "content-type": "application/json", ...more.headers },
  });
}
