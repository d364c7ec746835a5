// SPDX-License-Identifier: Apache-2.0
// The Go gateway's configuration as the mesh has it for this workload: the plugin `llmproxy` of Envoy's Go filter, in the
// filter itself, in a configuration of it that is discovered apart, or in a route or virtual host.

import {
  type Any,
  decodeExtension,
  decodeListener,
  decodeManager,
  decodeRoutes,
  decodeStruct,
  ResourceType,
  type XdsRoutes,
} from "./messages.ts";
import { EVERYTHING, type XdsSession, type XdsSessions } from "./session.ts";

const FILTER = "envoy.filters.http.golang";
const PLUGIN = "llmproxy";
const MANAGER = "HttpConnectionManager";
/** Part of the name of a filter whose configuration is discovered apart. */
const GOLANG = "golang";
const EMPTY = new Uint8Array(0);

/** All configurations of the plugin whenever they change. Throws Error when the control plane is lost. */
export async function* watchConfigurations(
  sessions: XdsSessions,
  signal: AbortSignal,
): AsyncGenerator<readonly Record<string, unknown>[]> {
  const { session, release } = sessions.acquire();
  try {
    session.subscribe(ResourceType.listener, EVERYTHING);
    let known: string | undefined;
    while (!signal.aborted) {
      const changed = session.changed(signal);
      const found = configurations(session);
      const told = found && JSON.stringify(found);
      if (found !== undefined && told !== known) {
        yield found;
        known = told;
      }
      await changed;
    }
  } finally {
    release();
  }
}

// Undefined while not all of it has been told.
function configurations(session: XdsSession): Record<string, unknown>[] | undefined {
  const listeners = session.all(ResourceType.listener);
  if (listeners === undefined) return undefined;
  const found: Record<string, unknown>[] = [];
  const routes: XdsRoutes[] = [];
  for (const manager of [...listeners.values()].flatMap(managersOf)) {
    const { rds, route_config, http_filters = [] } = manager;
    if (route_config) routes.push(route_config);
    const name = rds?.route_config_name;
    if (name) {
      session.subscribe(ResourceType.route, [name]);
      const told = session.get(ResourceType.route, name);
      if (told === undefined) return undefined;
      if (told !== null) routes.push(decodeRoutes(told));
    }
    for (const { name = "", typed_config, config_discovery } of http_filters) {
      if (typed_config) found.push(...pluginsIn(decodeStruct(typed_config)));
      if (!config_discovery || !name.includes(GOLANG)) continue;
      session.subscribe(ResourceType.extension, [name]);
      const told = session.get(ResourceType.extension, name);
      if (told === undefined) return undefined;
      if (told !== null) found.push(...pluginsIn(decodeStruct(decodeExtension(told).typed_config ?? {})));
    }
  }
  // What is nearer to a request comes first, and counts.
  const inRoutes = routes.flatMap(({ typed_per_filter_config, virtual_hosts = [] }) => [
    ...virtual_hosts.flatMap((host) => [
      ...(host.routes ?? []).flatMap((route) => pluginsOf(route.typed_per_filter_config)),
      ...pluginsOf(host.typed_per_filter_config),
    ]),
    ...pluginsOf(typed_per_filter_config),
  ]);
  return [...inRoutes, ...found];
}

function managersOf(listener: Uint8Array): ReturnType<typeof decodeManager>[] {
  const filters = (decodeListener(listener).filter_chains ?? []).flatMap(({ filters = [] }) => filters);
  return filters.flatMap(({ typed_config }) =>
    typed_config?.type_url?.endsWith(MANAGER) ? [decodeManager(typed_config.value ?? EMPTY)] : []
  );
}

function pluginsOf(filters: Readonly<Record<string, Any>> | undefined): Record<string, unknown>[] {
  const any = filters?.[FILTER];
  return any === undefined ? [] : [...pluginsIn(decodeStruct(any))];
}

// {name: "llmproxy", config: …}, wherever it stands.
function* pluginsIn(value: unknown): Generator<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) return;
  const { name, config } = value as { name?: unknown; config?: unknown };
  if (name === PLUGIN && typeof config === "object" && config !== null) yield config as Record<string, unknown>;
  else for (const one of Object.values(value)) yield* pluginsIn(one);
}
