// SPDX-License-Identifier: Apache-2.0
// A control plane's side of the aggregated discovery service, by the library for gRPC: both ways of it, or only the one that
// tells everything.

import { Buffer } from "node:buffer";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import protobuf from "protobufjs";

const { root } = protobuf.parse(
  `syntax = "proto3"; package t;
message Value { oneof k { double number_value = 2; string string_value = 3; bool bool_value = 4; Struct struct_value = 5; List list_value = 6; } }
message List { repeated Value values = 1; }
message Struct { map<string, Value> fields = 1; }
message Any { string type_url = 1; bytes value = 2; }
message Node { string id = 1; string cluster = 2; Struct metadata = 3; }
message Status { int32 code = 1; string message = 2; }
message DeltaRequest { Node node = 1; string type_url = 2; repeated string resource_names_subscribe = 3; repeated string resource_names_unsubscribe = 4; string response_nonce = 6; Status error_detail = 7; }
message Resource { string version = 1; Any resource = 2; string name = 3; }
message DeltaResponse { string system_version_info = 1; repeated Resource resources = 2; string type_url = 4; string nonce = 5; repeated string removed_resources = 6; }
message Request { string version_info = 1; Node node = 2; repeated string resource_names = 3; string type_url = 4; string response_nonce = 5; Status error_detail = 6; }
message Response { string version_info = 1; repeated Any resources = 2; string type_url = 4; string nonce = 5; }
message SocketAddress { int32 protocol = 1; string address = 2; uint32 port_value = 3; }
message Address { SocketAddress socket_address = 1; }
message Endpoint { Address address = 1; }
message LbEndpoint { Endpoint endpoint = 1; int32 health_status = 2; }
message Locality { string region = 1; string zone = 2; }
message LocalityEndpoints { Locality locality = 1; repeated LbEndpoint lb_endpoints = 2; }
message ClusterLoadAssignment { string cluster_name = 1; repeated LocalityEndpoints endpoints = 2; }
message Eds { string service_name = 2; }
message Cluster { string name = 1; Eds eds_cluster_config = 3; ClusterLoadAssignment load_assignment = 33; }
message TypedStruct { string type_url = 1; Struct value = 2; }
message Plugin { Any config = 2; }
message ConfigsPerRoute { map<string, Plugin> plugins_config = 1; }
message Route { map<string, Any> typed_per_filter_config = 13; string name = 14; }
message VirtualHost { string name = 1; repeated Route routes = 3; }
message RouteConfiguration { string name = 1; repeated VirtualHost virtual_hosts = 2; }
message Rds { string route_config_name = 2; }
message Source { bool apply_default = 2; }
message HttpFilter { string name = 1; Any typed_config = 4; Source config_discovery = 5; }
message Manager { Rds rds = 3; repeated HttpFilter http_filters = 5; }
message TypedExtension { string name = 1; Any typed_config = 2; }
message GolangFilter { Any plugin_config = 4; }
message Filter { string name = 1; Any typed_config = 4; }
message FilterChain { repeated Filter filters = 3; }
message Listener { string name = 1; repeated FilterChain filter_chains = 3; }
`,
  { keepCase: true },
);

const bytesOf = (type: string, object: unknown): Uint8Array => {
  const found = root.lookupType(`t.${type}`);
  return found.encode(found.fromObject(object as Record<string, unknown>)).finish();
};
const objectOf = (type: string, bytes: Uint8Array) =>
  root.lookupType(`t.${type}`).toObject(root.lookupType(`t.${type}`).decode(bytes), { arrays: true });

const PREFIX = "type.googleapis.com/";
const TYPES = {
  Cluster: `${PREFIX}envoy.config.cluster.v3.Cluster`,
  ClusterLoadAssignment: `${PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment`,
  Listener: `${PREFIX}envoy.config.listener.v3.Listener`,
  RouteConfiguration: `${PREFIX}envoy.config.route.v3.RouteConfiguration`,
  TypedExtension: `${PREFIX}envoy.config.core.v3.TypedExtensionConfig`,
} as const;
type Kind = keyof typeof TYPES;
const kindOf = (url: string) => Object.entries(TYPES).find(([, one]) => one === url)![0] as Kind;

type Call = ServerDuplexStream<Record<string, unknown>, Record<string, unknown>>;

interface Stream {
  readonly call: Call;
  readonly delta: boolean;
  /** Names of each type that are wanted; EVERYTHING for all. */
  readonly wanted: Map<Kind, Set<string>>;
}

const EVERYTHING = "*";

export class XdsStandIn implements AsyncDisposable {
  readonly #server = new Server();
  readonly #resources = new Map<Kind, Map<string, Uint8Array>>();
  readonly #streams = new Set<Stream>();
  #nonce = 0;
  port = 0;
  /** The nodes that came, how many streams there were, answers that were refused. */
  readonly nodes: string[] = [];
  streams = 0;
  refused = 0;
  acknowledged = 0;
  /** Ends every new stream at once. */
  failing = false;
  /** Answers come so much later. */
  delayMs = 0;

  static async start(ways: readonly ("delta" | "whole")[] = ["delta", "whole"], port = 0): Promise<XdsStandIn> {
    const one = new XdsStandIn();
    const method = (name: string, requestType: string, responseType: string) => ({
      path: `/envoy.service.discovery.v3.AggregatedDiscoveryService/${name}`,
      requestStream: true,
      responseStream: true,
      requestSerialize: (value: unknown) => value as Buffer,
      requestDeserialize: (bytes: Buffer) => objectOf(requestType, bytes),
      responseSerialize: (value: unknown) => Buffer.from(bytesOf(responseType, value)),
      responseDeserialize: (bytes: Buffer) => bytes,
    });
    const definition = {
      ...(ways.includes("delta") && { delta: method("DeltaAggregatedResources", "DeltaRequest", "DeltaResponse") }),
      ...(ways.includes("whole") && { whole: method("StreamAggregatedResources", "Request", "Response") }),
    };
    one.#server.addService(definition as never, {
      ...(ways.includes("delta") && { delta: (call: Call) => one.#serve(call, true) }),
      ...(ways.includes("whole") && { whole: (call: Call) => one.#serve(call, false) }),
    } as never);
    one.port = await new Promise<number>((resolve, reject) =>
      one.#server.bindAsync(
        `127.0.0.1:${port}`,
        ServerCredentials.createInsecure(),
        (error, bound) => error ? reject(error) : resolve(bound),
      )
    );
    return one;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  #serve(call: Call, delta: boolean): void {
    this.streams++;
    if (this.failing) return void call.emit("error", { code: 14, details: "not now" });
    const stream: Stream = { call, delta, wanted: new Map() };
    this.#streams.add(stream);
    call.on("data", (request: Record<string, unknown>) => this.#asked(stream, request));
    call.on("error", () => this.#streams.delete(stream));
    call.on("end", () => {
      this.#streams.delete(stream);
      call.end();
    });
  }

  #asked(stream: Stream, request: Record<string, unknown>): void {
    const kind = kindOf(request.type_url as string);
    const node = request.node as { id: string } | undefined;
    if (node) this.nodes.push(node.id);
    if (request.error_detail) this.refused++;
    else if (request.response_nonce) this.acknowledged++;
    const before = stream.wanted.get(kind);
    const named = (stream.delta ? request.resource_names_subscribe : request.resource_names) as string[];
    const wanted = new Set(named);
    if (before === undefined && named.length === 0) wanted.add(EVERYTHING);
    const fresh = before === undefined ? wanted : new Set([...wanted].filter((name) => !before.has(name)));
    stream.wanted.set(kind, new Set([...before ?? [], ...wanted]));
    if (before === undefined || fresh.size > 0) this.#tell(stream, kind, fresh, []);
  }

  #tell(stream: Stream, kind: Kind, names: ReadonlySet<string>, removed: readonly string[]): void {
    const all = [...this.#resources.get(kind) ?? []];
    const wanted = stream.wanted.get(kind)!;
    const told = all.filter(([name]) =>
      stream.delta ? names.has(EVERYTHING) || names.has(name) : wanted.has(EVERYTHING) || wanted.has(name)
    );
    const nonce = String(++this.#nonce);
    const any = (value: Uint8Array) => ({ type_url: TYPES[kind], value });
    const resources = stream.delta
      ? told.map(([name, value]) => ({ name, version: nonce, resource: any(value) }))
      : told.map(([, value]) => any(value));
    const say = (message: Record<string, unknown>) =>
      this.delayMs > 0 ? void setTimeout(() => stream.call.write(message), this.delayMs) : stream.call.write(message);
    say({
      type_url: TYPES[kind],
      nonce,
      resources,
      ...(stream.delta ? { removed_resources: removed } : { version_info: nonce }),
    });
  }

  #changed(kind: Kind, names: readonly string[], removed: readonly string[] = []): void {
    for (const stream of this.#streams) {
      const wanted = stream.wanted.get(kind);
      if (wanted === undefined) continue;
      const concerned = [...names, ...removed].filter((name) => wanted.has(EVERYTHING) || wanted.has(name));
      if (concerned.length > 0) this.#tell(stream, kind, new Set(names), removed);
    }
  }

  put(kind: Kind, name: string, object: unknown): void {
    const known = this.#resources.get(kind) ?? new Map<string, Uint8Array>();
    this.#resources.set(kind, known);
    known.set(name, bytesOf(kind, object));
    this.#changed(kind, [name]);
  }

  delete(kind: Kind, name: string): void {
    if (this.#resources.get(kind)?.delete(name)) this.#changed(kind, [], [name]);
  }

  /** A host's port, and what its subsets select. */
  host(
    host: string,
    port: number,
    endpoints: readonly string[],
    subsets: Record<string, readonly string[]> = {},
  ): void {
    for (const [subset, some] of Object.entries({ "": endpoints, ...subsets })) {
      const name = `outbound|${port}|${subset}|${host}`;
      this.put("ClusterLoadAssignment", name, assignment(name, some));
      this.put("Cluster", name, { name, eds_cluster_config: { service_name: name } });
    }
  }

  /** A listener whose routes carry configurations of the Go plugin. */
  routes(name: string, configurations: readonly Record<string, unknown>[]): void {
    const plugin = (config: Record<string, unknown>) => {
      const typed = { type_url: "map", value: struct({ plugins: [{ name: "other" }, { name: "llmproxy", config }] }) };
      const config_ = { type_url: `${PREFIX}xds.type.v3.TypedStruct`, value: bytesOf("TypedStruct", typed) };
      const value = bytesOf("ConfigsPerRoute", { plugins_config: { fm: { config: config_ } } });
      const type_url = `${PREFIX}envoy.extensions.filters.http.golang.v3alpha.ConfigsPerRoute`;
      return { "envoy.filters.http.golang": { type_url, value } };
    };
    const routes = configurations.map((config, i) => ({ name: `route-${i}`, typed_per_filter_config: plugin(config) }));
    this.put("RouteConfiguration", name, { name, virtual_hosts: [{ name: "all", routes }] });
    const type_url = `${PREFIX}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`;
    const typed_config = { type_url, value: bytesOf("Manager", { rds: { route_config_name: name } }) };
    this.put("Listener", name, { name, filter_chains: [{ filters: [{ name: "manager", typed_config }] }] });
  }

  /** A listener whose Go filter has one configuration itself, and another one that is discovered apart. */
  filters(name: string, itself: Record<string, unknown>, apart: Record<string, unknown>): void {
    const filter = (config: Record<string, unknown>) => {
      const typed = { type_url: "map", value: struct({ plugins: [{ name: "llmproxy", config }] }) };
      const plugin_config = { type_url: `${PREFIX}xds.type.v3.TypedStruct`, value: bytesOf("TypedStruct", typed) };
      const type_url = `${PREFIX}envoy.extensions.filters.http.golang.v3alpha.Config`;
      return { type_url, value: bytesOf("GolangFilter", { plugin_config }) };
    };
    this.put("TypedExtension", "golang-apart", { name: "golang-apart", typed_config: filter(apart) });
    const type_url = `${PREFIX}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`;
    const http_filters = [
      { name: "envoy.filters.http.golang", typed_config: filter(itself) },
      { name: "golang-apart", config_discovery: { apply_default: true } },
    ];
    const typed_config = { type_url, value: bytesOf("Manager", { http_filters }) };
    this.put("Listener", name, { name, filter_chains: [{ filters: [{ name: "manager", typed_config }] }] });
  }

  /** Ends every stream. */
  cut(): void {
    for (const { call } of this.#streams) call.emit("error", { code: 14, details: "cut" });
    this.#streams.clear();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#server.forceShutdown();
    return Promise.resolve();
  }
}

function assignment(name: string, endpoints: readonly string[]): unknown {
  const lb_endpoints = endpoints.map((one) => {
    const [address, port, health] = one.split(":");
    return {
      endpoint: { address: { socket_address: { address, port_value: Number(port) } } },
      health_status: Number(health ?? 1),
    };
  });
  return { cluster_name: name, endpoints: [{ locality: { region: "r", zone: "z" }, lb_endpoints }] };
}

function struct(object: Record<string, unknown>): unknown {
  const value = (one: unknown): unknown => {
    if (Array.isArray(one)) return { list_value: { values: one.map(value) } };
    if (typeof one === "object" && one !== null) return { struct_value: struct(one as Record<string, unknown>) };
    if (typeof one === "number") return { number_value: one };
    return typeof one === "boolean" ? { bool_value: one } : { string_value: one };
  };
  return { fields: Object.fromEntries(Object.entries(object).map(([key, one]) => [key, value(one)])) };
}
