// SPDX-License-Identifier: Apache-2.0
// The Go gateway's configuration in the routes of this workload: its listeners name them, and a route (or its virtual host)
// carries the configuration of the plugin `llmproxy` for Envoy's Go filter.

import {
  type Any,
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

/** All configurations of the plugin whenever they change. Throws Error when the control plane is lost. */
export async function* watchConfigurations(
  sessions: XdsSessions,
  signal: AbortSignal,
): AsyncGenerator<readonly Record<string, unknown>[]> {
  const { session, release } = sessions.acquire();
  let broken = false;
  try {
    session.subscribe(ResourceType.listener, EVERYTHING);
    let known: string | undefined;
    while (!signal.aborted) {
      const changed = session.changed(signal);
      changed.catch(() => {}); // it is waited for below
      const found = configurations(session);
      const told = found && JSON.stringify(found);
      if (found !== undefined && told !== known) {
        yield found;
        known = told;
      }
      await changed;
    }
  } catch (error) {
    broken = true;
    throw error;
  } finally {
    release(broken);
  }
}

// Undefined while not all of the routes have been told.
function configurations(session: XdsSession): Record<string, unknown>[] | undefined {
  const listeners = session.all(ResourceType.listener);
  if (listeners === undefined) return undefined;
  const routes: XdsRoutes[] = [];
  for (const bytes of listeners.values()) {
    for (const { filters = [] } of decodeListener(bytes).filter_chains ?? []) {
      for (const { typed_config } of filters) {
        if (!typed_config?.type_url?.endsWith(MANAGER)) continue;
        const { rds, route_config } = decodeManager(typed_config.value ?? new Uint8Array(0));
        if (route_config) routes.push(route_config);
        const name = rds?.route_config_name;
        if (!name) continue;
        session.subscribe(ResourceType.route, [name]);
        const told = session.get(ResourceType.route, name);
        if (told === undefined) return undefined;
        routes.push(decodeRoutes(told));
      }
    }
  }
  return routes.flatMap(({ typed_per_filter_config, virtual_hosts = [] }) => [
    ...pluginsOf(typed_per_filter_config),
    ...virtual_hosts.flatMap((host) => [
      ...pluginsOf(host.typed_per_filter_config),
      ...(host.routes ?? []).flatMap((route) => pluginsOf(route.typed_per_filter_config)),
    ]),
  ]);
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
