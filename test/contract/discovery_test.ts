// SPDX-License-Identifier: Apache-2.0
// Every source of endpoints is held to one suite: what it tells at first, what it tells of changes, how it ends, and that it
// can be watched anew.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { clustersFileSchema } from "../../src/config/clusters.ts";
import { AdminDiscovery } from "../../src/discovery/admin.ts";
import { type Discovery, endpointKey, type EndpointSpec, type Update } from "../../src/discovery/discovery.ts";
import { DnsDiscovery, type Resolve } from "../../src/discovery/dns.ts";
import { kubernetesSchema, kubernetesSourceSchema } from "../../src/config/kubernetes.ts";
import { kubernetesDiscovery } from "../../src/discovery/kubernetes/discovery.ts";
import { XdsDiscovery } from "../../src/discovery/xds/discovery.ts";
import { XdsSessions } from "../../src/discovery/xds/session.ts";
import { xdsSchema, xdsSourceSchema } from "../../src/config/xds.ts";
import { XdsStandIn } from "../support/xds_stand_in.ts";
import { KubernetesStandIn, PATHS, pod, pool, slice } from "../support/kubernetes_stand_in.ts";
import { FileDiscovery } from "../../src/discovery/file.ts";
import { StaticDiscovery } from "../../src/discovery/static.ts";

/** A source of cluster "c" whose endpoints the test sets. */
interface Subject extends AsyncDisposable {
  readonly source: Discovery;
  set(ports: readonly number[]): Promise<void>;
  /** Lets time pass, for sources that look again and again. */
  tick(): void;
  /** Makes it fail from now on; undefined for a source that cannot. */
  fail?(): Promise<void>;
}

const clusterOf = (ports: readonly number[]) =>
  clustersFileSchema.parse({
    clusters: [{ name: "c", endpoints: ports.map((port) => ({ address: "127.0.0.1", port })) }],
  }).clusters;

const SUBJECTS: Record<string, () => Promise<Subject>> = {
  configuration() {
    const source = new StaticDiscovery();
    return Promise.resolve({
      source,
      set: (ports) => Promise.resolve(source.set(clusterOf(ports))),
      tick() {},
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
  admin() {
    const source = new AdminDiscovery();
    let known: readonly number[] = [];
    const id = (port: number) => ({ cluster: "c", host: "127.0.0.1", port, rank: 0 });
    return Promise.resolve({
      source,
      set(ports) {
        for (const port of known) if (!ports.includes(port)) assert(source.delete(id(port)));
        for (const port of ports) if (!known.includes(port)) source.put("c", { ...id(port), labels: {} });
        known = ports;
        return Promise.resolve();
      },
      tick() {},
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
  async clusters_file() {
    const path = await Deno.makeTempFile({ suffix: ".json" });
    const clock = new ManualClock();
    let serial = 0;
    const write = async (text: string) => {
      // As careful writers do: beside it, and renamed.
      await Deno.writeTextFile(`${path}.${++serial}`, text);
      await Deno.rename(`${path}.${serial}`, path);
    };
    await write('{"clusters": []}');
    return {
      source: new FileDiscovery(path, 100, clock),
      set: (ports) =>
        write(JSON.stringify({ clusters: clusterOf(ports).map(({ name, endpoints }) => ({ name, endpoints })) })),
      tick: () => clock.advance(100),
      fail: () => write("clusters: [{name: 7}]"),
      [Symbol.asyncDispose]: () => Deno.remove(path),
    };
  },
  kubernetes_service: () => {
    const server = new KubernetesStandIn();
    // Two slices of the Service, as it has several ports here: an endpoint each.
    return kubernetesSubject(server, { service: "c" }, (ports) => {
      for (const name of server.names(PATHS.slices())) {
        if (!ports.includes(Number(name))) server.delete(PATHS.slices(), name);
      }
      for (const port of ports) {
        if (!server.names(PATHS.slices()).includes(String(port))) {
          server.put(PATHS.slices(), slice(String(port), "c", ["127.0.0.1"], port));
        }
      }
    });
  },
  kubernetes_inference_pool: () => {
    const server = new KubernetesStandIn();
    server.put(PATHS.pods(), pod("engines", { app: "c" }, "127.0.0.1"));
    return kubernetesSubject(server, { inference_pool: "c" }, (ports) => {
      server.put(PATHS.pools(), pool("c", { app: "c" }, ports));
    });
  },
  async xds() {
    const server = await XdsStandIn.start();
    return {
      source: new XdsDiscovery(
        "c",
        xdsSourceSchema.parse({ host: "c" }),
        new XdsSessions(xdsSchema.parse({ server: server.address })),
      ),
      set(ports) {
        server.failing = false;
        server.host("c", 80, ports.map((port) => `127.0.0.1:${port}`));
        return Promise.resolve();
      },
      tick() {},
      fail() {
        server.failing = true;
        server.cut();
        return Promise.resolve();
      },
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    };
  },
  dns() {
    const clock = new ManualClock();
    let records: Deno.SrvRecord[] | Error = [];
    const resolve: Resolve = (name, type) => {
      if (records instanceof Error) return Promise.reject(records);
      if (type === "SRV" && records.length > 0) return Promise.resolve(records);
      if (type === "A" && name === "host.example") return Promise.resolve(["127.0.0.1"]);
      return Promise.reject(new Deno.errors.NotFound("no records"));
    };
    const config = { name: "_http.c.example", type: "SRV" as const, interval_ms: 100, labels: {} };
    return Promise.resolve({
      source: new DnsDiscovery("c", config, clock, resolve),
      set(ports: readonly number[]) {
        records = ports.map((port) => ({ port, target: "host.example.", priority: 0, weight: 0 }));
        return Promise.resolve();
      },
      tick: () => clock.advance(100),
      fail() {
        records = new Error("SERVFAIL");
        return Promise.resolve();
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
};

function kubernetesSubject(
  server: KubernetesStandIn,
  source: Record<string, string>,
  set: (ports: readonly number[]) => void,
): Promise<Subject> {
  const config = kubernetesSchema.parse({ api_server: server.url });
  return Promise.resolve({
    source: kubernetesDiscovery("c", kubernetesSourceSchema.parse(source), config),
    set(ports) {
      server.failing = undefined;
      set(ports);
      return Promise.resolve();
    },
    tick() {},
    fail() {
      server.failing = 500;
      server.expire();
      return Promise.resolve();
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  });
}

/** What a watcher of cluster "c" knows. */
class Watcher {
  readonly endpoints = new Map<string, EndpointSpec>();
  synced = false;
  error: Error | undefined;
  ended = false;
  readonly #abort = new AbortController();
  readonly #watching: Promise<void>;

  constructor(readonly subject: Subject) {
    this.#watching = (async () => {
      try {
        for await (const update of subject.source.watch(this.#abort.signal)) this.#take(update);
        this.ended = true;
      } catch (error) {
        this.error = error as Error;
      }
    })();
  }

  #take(update: Update): void {
    if (update.kind === "reset") this.endpoints.clear();
    if (update.kind === "reset" || update.kind === "add") {
      assertEquals(update.cluster, "c");
      for (const spec of update.endpoints) this.endpoints.set(endpointKey(spec), spec);
    } else if (update.kind === "remove") { for (const id of update.ids) this.endpoints.delete(endpointKey(id)); }
    else if (update.kind === "does_not_exist") this.endpoints.clear();
    else this.synced = true;
  }

  get ports(): number[] {
    return [...this.endpoints.values()].map(({ port }) => port).sort((a, b) => a - b);
  }

  /** Waits for a condition, while time passes for the source. */
  async until(what: string, condition: () => boolean): Promise<void> {
    for (let i = 0; !condition(); i++) {
      assert(i < 10_000, `waited in vain: ${what}; it knows ${this.ports}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
      this.subject.tick();
    }
  }

  async end(): Promise<void> {
    this.#abort.abort();
    await this.#watching;
  }
}

for (const [name, make] of Object.entries(SUBJECTS)) {
  // The library for gRPC keeps timers for connections that have been given up.
  const sanitizeOps = name !== "xds";
  Deno.test(`discovery contract: ${name}`, { sanitizeOps, sanitizeResources: sanitizeOps }, async (t) => {
    await using subject = await make();
    await t.step("tells what it knows, then that this is all, then every change", async () => {
      await subject.set([1, 2]);
      const watcher = new Watcher(subject);
      await watcher.until("synced", () => watcher.synced);
      assertEquals(watcher.ports, [1, 2]);
      for (const ports of [[2], [2, 3, 4], [5], [1, 5]]) {
        await subject.set(ports);
        await watcher.until(`ports ${ports}`, () => String(watcher.ports) === String(ports));
      }
      await watcher.end();
      assert(watcher.ended, "it ends when it is not watched any more, without an error");
    });
    // Of a name without records nothing can be said: see its step below.
    if (name !== "dns") {
      await t.step("says when there is nothing left", async () => {
        await subject.set([7]);
        const watcher = new Watcher(subject);
        await watcher.until("port 7", () => watcher.ports.length === 1);
        await subject.set([]);
        await watcher.until("nothing", () => watcher.ports.length === 0);
        await watcher.end();
      });
    }
    await t.step("can be watched anew, and tells the present state", async () => {
      await subject.set([8, 9]);
      for (let i = 0; i < 2; i++) {
        const watcher = new Watcher(subject);
        await watcher.until("both", () => String(watcher.ports) === "8,9" && watcher.synced);
        await watcher.end();
      }
    });
    if (subject.fail) {
      await t.step("throws when it fails and has told nothing wrong; watched again, it goes on", async () => {
        await subject.set([1, 2]);
        const watcher = new Watcher(subject);
        await watcher.until("both", () => watcher.ports.length === 2);
        await subject.fail!();
        await watcher.until("an error", () => watcher.error !== undefined);
        assertEquals(watcher.ports, [1, 2]);
        await subject.set([3]);
        const again = new Watcher(subject);
        await again.until("the new one", () => String(again.ports) === "3");
        await again.end();
      });
    }
  });
}

Deno.test("DnsDiscovery: every address of a name is an endpoint; an answer without a record changes nothing", async () => {
  const clock = new ManualClock();
  let addresses = ["10.0.0.2", "10.0.0.1"];
  const resolve: Resolve = (_, type) => {
    if (type === "AAAA") return Promise.resolve(["fd00::1"]);
    return addresses.length > 0 ? Promise.resolve(addresses) : Promise.reject(new Deno.errors.NotFound("none"));
  };
  const config = { name: "engines.example", port: 8000, type: "A" as const, interval_ms: 50, labels: { zone: "a" } };
  const abort = new AbortController();
  const any = new DnsDiscovery("c", { ...config, type: "any" }, clock, resolve).watch(abort.signal);
  const { value } = await any.next();
  assert(value?.kind === "reset");
  assertEquals(value.endpoints.map(endpointKey), ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"]);
  assertEquals(value.endpoints[0].labels, { zone: "a" });
  abort.abort();

  const source = new DnsDiscovery("c", config, clock, resolve).watch(new AbortController().signal);
  assertEquals((await source.next()).value?.kind, "reset");
  assertEquals((await source.next()).value?.kind, "synced");
  addresses = [];
  const failing = assertRejects(() => source.next(), Error, "no record of engines.example (A)");
  await new Promise((resolve) => setTimeout(resolve, 0));
  clock.advance(50);
  await failing;
});
