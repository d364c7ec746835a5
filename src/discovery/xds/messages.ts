// SPDX-License-Identifier: Apache-2.0
// Messages of the aggregated discovery service (envoy.service.discovery.v3), and of the resources in them what is used:
// described by field numbers.

import protobuf from "protobufjs";

const { root } = protobuf.parse(
  `syntax = "proto3"; package xds;
message Value {
  oneof kind {
    int32 null_value = 1; double number_value = 2; string string_value = 3; bool bool_value = 4;
    Struct struct_value = 5; ListValue list_value = 6;
  }
}
message ListValue { repeated Value values = 1; }
message Struct { map<string, Value> fields = 1; }
message Any { string type_url = 1; bytes value = 2; }
message Node { string id = 1; string cluster = 2; Struct metadata = 3; string user_agent_name = 6; }
message Status { int32 code = 1; string message = 2; }
message DeltaRequest {
  Node node = 1; string type_url = 2; repeated string resource_names_subscribe = 3;
  repeated string resource_names_unsubscribe = 4; string response_nonce = 6; Status error_detail = 7;
}
message Resource { string version = 1; Any resource = 2; string name = 3; }
message DeltaResponse {
  repeated Resource resources = 2; string type_url = 4; string nonce = 5; repeated string removed_resources = 6;
}
message Request {
  string version_info = 1; Node node = 2; repeated string resource_names = 3; string type_url = 4;
  string response_nonce = 5; Status error_detail = 6;
}
message Response { string version_info = 1; repeated Any resources = 2; string type_url = 4; string nonce = 5; }

message SocketAddress { string address = 2; uint32 port_value = 3; }
message Address { SocketAddress socket_address = 1; }
message Endpoint { Address address = 1; }
message LbEndpoint { Endpoint endpoint = 1; int32 health_status = 2; }
message Locality { string region = 1; string zone = 2; string sub_zone = 3; }
message LocalityEndpoints { Locality locality = 1; repeated LbEndpoint lb_endpoints = 2; }
message ClusterLoadAssignment { string cluster_name = 1; repeated LocalityEndpoints endpoints = 2; }
message EdsConfig { string service_name = 2; }
message Cluster { string name = 1; EdsConfig eds_cluster_config = 3; ClusterLoadAssignment load_assignment = 33; }

message TypedStruct { string type_url = 1; Struct value = 2; }
message RouterPlugin { Any config = 2; }
message GolangRoute { map<string, RouterPlugin> plugins_config = 1; }
message Route { map<string, Any> typed_per_filter_config = 13; string name = 14; }
message VirtualHost { string name = 1; repeated Route routes = 3; map<string, Any> typed_per_filter_config = 15; }
message RouteConfiguration { string name = 1; repeated VirtualHost virtual_hosts = 2; map<string, Any> typed_per_filter_config = 16; }
message Rds { string route_config_name = 2; }
message ExtensionSource { bool apply_default = 2; }
message HttpFilter { string name = 1; Any typed_config = 4; ExtensionSource config_discovery = 5; }
message HttpConnectionManager { Rds rds = 3; RouteConfiguration route_config = 4; repeated HttpFilter http_filters = 5; }
message TypedExtension { string name = 1; Any typed_config = 2; }
message GolangFilter { Any plugin_config = 4; }
message Filter { string name = 1; Any typed_config = 4; }
message FilterChain { repeated Filter filters = 3; }
message Listener { string name = 1; repeated FilterChain filter_chains = 3; }
`,
  { keepCase: true },
);

const PREFIX = "type.googleapis.com/";
export const ResourceType = {
  cluster: `${PREFIX}envoy.config.cluster.v3.Cluster`,
  endpoints: `${PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment`,
  listener: `${PREFIX}envoy.config.listener.v3.Listener`,
  route: `${PREFIX}envoy.config.route.v3.RouteConfiguration`,
  extension: `${PREFIX}envoy.config.core.v3.TypedExtensionConfig`,
} as const;

export interface Any {
  readonly type_url?: string;
  readonly value?: Uint8Array;
}

export interface LocalityEndpoints {
  readonly locality?: { readonly region?: string; readonly zone?: string };
  readonly lb_endpoints?: readonly {
    readonly endpoint?: { readonly address?: { readonly socket_address?: { address?: string; port_value?: number } } };
    readonly health_status?: number;
  }[];
}

export interface LoadAssignment {
  readonly cluster_name?: string;
  readonly endpoints?: readonly LocalityEndpoints[];
}

export interface XdsCluster {
  readonly name: string;
  readonly eds_cluster_config?: { readonly service_name?: string };
  readonly load_assignment?: LoadAssignment;
}

export interface XdsRoutes {
  readonly name?: string;
  readonly virtual_hosts?: readonly {
    readonly routes?: readonly { readonly name?: string; readonly typed_per_filter_config?: Record<string, Any> }[];
    readonly typed_per_filter_config?: Record<string, Any>;
  }[];
  readonly typed_per_filter_config?: Record<string, Any>;
}

export interface XdsListener {
  readonly filter_chains?: readonly { readonly filters?: readonly { readonly typed_config?: Any }[] }[];
}

/** What a server tells in either way: resources by name, and of the delta way those that are gone. */
export interface Told {
  readonly type: string;
  readonly nonce: string;
  readonly version: string;
  readonly resources: readonly { readonly name: string; readonly value: Uint8Array }[];
  readonly removed: readonly string[];
}

/** A message as a plain object, without the fields that it has not. Throws Error for bytes that are none. */
function decode<T>(type: string, bytes: Uint8Array): T {
  const found = root.lookupType(`xds.${type}`);
  return found.toObject(found.decode(bytes), { defaults: false }) as T;
}

export const decodeCluster = (bytes: Uint8Array): XdsCluster => decode("Cluster", bytes);
export const decodeEndpoints = (bytes: Uint8Array): LoadAssignment => decode("ClusterLoadAssignment", bytes);
export const decodeRoutes = (bytes: Uint8Array): XdsRoutes => decode("RouteConfiguration", bytes);
export const decodeListener = (bytes: Uint8Array): XdsListener => decode("Listener", bytes);
export const decodeManager = (bytes: Uint8Array) =>
  decode<{
    rds?: { route_config_name?: string };
    route_config?: XdsRoutes;
    http_filters?: { name?: string; typed_config?: Any; config_discovery?: unknown }[];
  }>("HttpConnectionManager", bytes);
export const decodeExtension = (bytes: Uint8Array): { typed_config?: Any } => decode("TypedExtension", bytes);

/** The value of a JSON object that an Any holds as a Struct, in a TypedStruct or in Envoy's configuration of Go plugins. */
export function decodeStruct({ type_url = "", value = EMPTY }: Any): unknown {
  const type = type_url.slice(type_url.lastIndexOf("/") + 1);
  if (type.endsWith(".TypedStruct")) {
    return plain({ struct_value: decode<{ value?: Struct }>("TypedStruct", value).value });
  }
  if (type === "google.protobuf.Struct") return plain({ struct_value: decode<Struct>("Struct", value) });
  if (type.endsWith("golang.v3alpha.Config")) {
    const { plugin_config } = decode<{ plugin_config?: Any }>("GolangFilter", value);
    return plugin_config && decodeStruct(plugin_config);
  }
  if (!type.endsWith("golang.v3alpha.ConfigsPerRoute")) return undefined;
  const { plugins_config = {} } = decode<{ plugins_config?: Record<string, { config?: Any }> }>("GolangRoute", value);
  return Object.fromEntries(
    Object.entries(plugins_config).map(([name, { config }]) => [name, config && decodeStruct(config)]),
  );
}

const EMPTY = new Uint8Array(0);

interface Struct {
  readonly fields?: Readonly<Record<string, ProtoValue>>;
}

interface ProtoValue {
  readonly number_value?: number;
  readonly string_value?: string;
  readonly bool_value?: boolean;
  readonly struct_value?: Struct;
  readonly list_value?: { readonly values?: readonly ProtoValue[] };
}

function plain(value: ProtoValue): unknown {
  if (value.struct_value !== undefined) {
    return Object.fromEntries(Object.entries(value.struct_value.fields ?? {}).map(([key, one]) => [key, plain(one)]));
  }
  if (value.list_value !== undefined) return (value.list_value.values ?? []).map(plain);
  return value.number_value ?? value.string_value ?? value.bool_value ?? null;
}

/** A JSON object as a Struct. */
export function structOf(object: Readonly<Record<string, unknown>>): unknown {
  const value = (one: unknown): unknown =>
    typeof one === "string" ? { string_value: one } : { struct_value: structOf(one as Record<string, unknown>) };
  return { fields: Object.fromEntries(Object.entries(object).map(([key, one]) => [key, value(one)])) };
}

/** What a client says, the same for both ways. */
export interface Saying {
  readonly type: string;
  /** With the first word of a stream. */
  readonly node?: unknown;
  /** All names that are wanted; none for whatever there is. */
  readonly names: readonly string[];
  /** Of these, the delta way: those that are new, and those that are wanted no more. */
  readonly added: readonly string[];
  readonly dropped: readonly string[];
  /** What is answered; version of the last that was good. */
  readonly nonce?: string;
  readonly version?: string;
  /** Why what is answered is of no use. */
  readonly error?: string;
}

/** One of the two ways in which the service is spoken to. */
export interface Way {
  readonly path: string;
  encode(saying: Saying): Uint8Array;
  /** Throws Error for bytes that are no such message. */
  decode(bytes: Uint8Array): Told;
}

const SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
const types = { delta: root.lookupType("xds.DeltaRequest"), whole: root.lookupType("xds.Request") };
const bytesOf = (type: protobuf.Type, object: Record<string, unknown>) => type.encode(type.fromObject(object)).finish();
const failure = (error: string | undefined) => error === undefined ? {} : { error_detail: { code: 3, message: error } };

/** Only what has changed is told. */
export const DELTA: Way = {
  path: `${SERVICE}/DeltaAggregatedResources`,
  encode: ({ type, node, added, dropped, nonce, error }) =>
    bytesOf(types.delta, {
      type_url: type,
      ...(node ? { node } : {}),
      resource_names_subscribe: added,
      resource_names_unsubscribe: dropped,
      ...(nonce && { response_nonce: nonce }),
      ...failure(error),
    }),
  decode(bytes) {
    const { resources = [], type_url = "", nonce = "", removed_resources = [] } = decode<{
      resources?: { name?: string; resource?: Any }[];
      type_url?: string;
      nonce?: string;
      removed_resources?: string[];
    }>("DeltaResponse", bytes);
    const named = resources.map(({ name = "", resource }) => ({ name, value: resource?.value ?? EMPTY }));
    return { type: type_url, nonce, version: "", resources: named, removed: removed_resources };
  },
};

/** All that there is of a type is told whenever something changes. */
export const WHOLE: Way = {
  path: `${SERVICE}/StreamAggregatedResources`,
  encode: ({ type, node, names, nonce, version, error }) =>
    bytesOf(types.whole, {
      type_url: type,
      ...(node ? { node } : {}),
      resource_names: names,
      ...(version && { version_info: version }),
      ...(nonce && { response_nonce: nonce }),
      ...failure(error),
    }),
  decode(bytes) {
    const { resources = [], type_url = "", nonce = "", version_info = "" } = decode<{
      resources?: Any[];
      type_url?: string;
      nonce?: string;
      version_info?: string;
    }>("Response", bytes);
    const named = resources.map(({ value = EMPTY }) => ({ name: nameOf(value), value }));
    return { type: type_url, nonce, version: version_info, resources: named, removed: [] };
  },
};

// All of these resources have their name, or that of their cluster, in the first field.
function nameOf(bytes: Uint8Array): string {
  return decode<{ name?: string }>("Cluster", bytes.subarray(0, firstField(bytes))).name ?? "";
}

function firstField(bytes: Uint8Array): number {
  const reader = protobuf.Reader.create(bytes);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    reader.skipType(tag & 7);
    if (tag >>> 3 === 1) return reader.pos;
  }
  return 0;
}
