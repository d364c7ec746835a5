// SPDX-License-Identifier: Apache-2.0
// A Kubernetes API server's side of lists and watches: pages, resource versions, label and field selectors, bookmarks,
// history that is forgotten, connections that are cut.

export interface StandInObject {
  readonly metadata: {
    readonly name: string;
    readonly labels?: Record<string, string>;
    readonly deletionTimestamp?: string;
  };
  readonly [field: string]: unknown;
}

interface Stored extends StandInObject {
  readonly metadata: StandInObject["metadata"] & { readonly resourceVersion: string };
}

interface Event {
  readonly version: number;
  readonly path: string;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly object: Stored;
}

interface Watcher {
  readonly path: string;
  readonly selects: (object: Stored) => boolean;
  readonly controller: ReadableStreamDefaultController<Uint8Array>;
}

const encoder = new TextEncoder();
const line = (event: unknown) => encoder.encode(`${JSON.stringify(event)}\n`);

export class KubernetesStandIn implements AsyncDisposable {
  readonly url: string;
  /** What was asked. */
  lists = 0;
  watches = 0;
  tokens: (string | null)[] = [];
  /** Answers with this status instead; undefined for none. */
  failing: number | undefined;
  /** Watches end at once, or are told that what they ask for is forgotten; undefined for neither. */
  ending: "empty" | "forgets" | undefined;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #objects = new Map<string, Map<string, Stored>>();
  readonly #watchers = new Set<Watcher>();
  #history: Event[] = [];
  #version = 100;
  #oldest = 0;

  constructor(certificate?: { cert: string; key: string }) {
    const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
    const handler = (request: Request) => this.#answer(request);
    this.#server = certificate ? Deno.serve({ ...options, ...certificate }, handler) : Deno.serve(options, handler);
    this.url = `${certificate ? "https" : "http"}://127.0.0.1:${this.#server.addr.port}`;
  }

  put(path: string, object: StandInObject): void {
    const objects = this.#objects.get(path) ?? new Map<string, Stored>();
    this.#objects.set(path, objects);
    const { name } = object.metadata;
    const type = objects.has(name) ? "MODIFIED" : "ADDED";
    const version = ++this.#version;
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(version) } };
    objects.set(name, stored);
    this.#tell({ version, path, type, object: stored });
  }

  delete(path: string, name: string): void {
    const object = this.#objects.get(path)?.get(name);
    if (object === undefined) return;
    this.#objects.get(path)!.delete(name);
    const version = ++this.#version;
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(version) } };
    this.#tell({ version, path, type: "DELETED", object: stored });
  }

  names(path: string): string[] {
    return [...this.#objects.get(path)?.keys() ?? []];
  }

  #tell(event: Event): void {
    this.#history.push(event);
    for (const { path, selects, controller } of this.#watchers) {
      if (path !== event.path) continue;
      if (selects(event.object)) controller.enqueue(line({ type: event.type, object: event.object }));
      // One that is not selected any more is gone for whoever watches those that are.
      else if (event.type === "MODIFIED") controller.enqueue(line({ type: "DELETED", object: event.object }));
    }
  }

  /** Tells every watcher how far it is, and nothing else. */
  bookmark(): void {
    const object = { metadata: { resourceVersion: String(this.#version) } };
    for (const { controller } of this.#watchers) controller.enqueue(line({ type: "BOOKMARK", object }));
  }

  /** Ends every watch, as the server does after its time. */
  cut(): void {
    for (const { controller } of this.#watchers) controller.close();
    this.#watchers.clear();
  }

  /** Forgets what was before: who watches from there is told that it is gone, in its way. */
  expire(told = false): void {
    this.#history = [];
    this.#oldest = this.#version;
    if (!told) return this.cut();
    for (const { controller } of this.#watchers) {
      controller.enqueue(line({ type: "ERROR", object: { kind: "Status", code: 410, message: "too old" } }));
    }
    this.cut();
  }

  #answer(request: Request): Response {
    this.tokens.push(request.headers.get("authorization"));
    if (this.failing !== undefined) return Response.json({ message: "it is broken" }, { status: this.failing });
    const { pathname, searchParams: query } = new URL(request.url);
    const selects = selector(query);
    if (query.get("watch") === "1") return this.#watch(pathname, selects, Number(query.get("resourceVersion")));
    this.lists++;
    const all = [...this.#objects.get(pathname)?.values() ?? []].filter(selects);
    const from = Number(query.get("continue") ?? 0);
    const limit = Number(query.get("limit") ?? all.length);
    const more = from + limit < all.length ? String(from + limit) : undefined;
    return Response.json({
      items: all.slice(from, from + limit),
      metadata: { resourceVersion: String(this.#version), continue: more },
    });
  }

  #watch(path: string, selects: (object: Stored) => boolean, version: number): Response {
    this.watches++;
    if (this.ending === "empty") return new Response("");
    if (this.ending === "forgets") return Response.json({ message: "too old" }, { status: 410 });
    if (version < this.#oldest) return Response.json({ message: "too old" }, { status: 410 });
    let watcher: Watcher;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        watcher = { path, selects, controller };
        this.#watchers.add(watcher);
        for (const event of this.#history) {
          if (event.version <= version || event.path !== path || !selects(event.object)) continue;
          controller.enqueue(line({ type: event.type, object: event.object }));
        }
      },
      cancel: () => void this.#watchers.delete(watcher),
    });
    return new Response(body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await this.#server.shutdown();
  }
}

function selector(query: URLSearchParams): (object: Stored) => boolean {
  const pairs = (name: string) => (query.get(name) ?? "").split(",").filter((one) => one).map((one) => one.split("="));
  const [labels, fields] = [pairs("labelSelector"), pairs("fieldSelector")];
  return ({ metadata }) =>
    labels.every(([key, value]) => metadata.labels?.[key] === value) &&
    fields.every(([key, value]) => key !== "metadata.name" || metadata.name === value);
}

// --- Objects.

export function slice(name: string, service: string, addresses: readonly string[], port = 8_000): StandInObject {
  return {
    metadata: { name, labels: { "kubernetes.io/service-name": service } },
    addressType: "IPv4",
    endpoints: addresses.map((address) => ({ addresses: [address], conditions: { ready: true } })),
    ports: [{ name: "http", port, protocol: "TCP" }],
  };
}

export function pod(
  name: string,
  labels: Record<string, string>,
  podIP: string,
  { ready = true, ending = false } = {},
): StandInObject {
  return {
    metadata: { name, labels, ...(ending && { deletionTimestamp: "2026-01-01T00:00:00Z" }) },
    status: { phase: "Running", podIP, conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
}

export function pool(name: string, labels: Record<string, string>, ports: readonly number[]): StandInObject {
  return {
    metadata: { name },
    spec: { selector: { matchLabels: labels }, targetPorts: ports.map((number) => ({ number })) },
  };
}

export const PATHS = {
  slices: (namespace = "default") => `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
  pods: (namespace = "default") => `/api/v1/namespaces/${namespace}/pods`,
  pools: (namespace = "default") => `/apis/inference.networking.k8s.io/v1/namespaces/${namespace}/inferencepools`,
} as const;
