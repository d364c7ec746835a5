// SPDX-License-Identifier: Apache-2.0
// One stream to a control plane's aggregated discovery service, and what it has told on it. Only changes are asked for; a
// server that cannot tell them so tells all that there is. Who watches asks for types and names, and is told that something
// has changed; when the stream is lost all of them are, and begin anew.

import { Client, credentials, Metadata, type ServiceError, status as Status } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import type { XdsConfig } from "../../config/xds.ts";
import { nodeOf } from "./node.ts";
import { DELTA, ResourceType, type Saying, type Told, type Way, WHOLE } from "./messages.ts";

/** How long a connection may take, and a server to say its first word. */
const CONNECT_MS = 10_000;
/** Largest message: 10,000 endpoints are 1 MB. */
const MESSAGE_BYTES = 268_435_456;
/** How often a silent connection is asked whether it still is one. */
const KEEPALIVE_MS = 30_000;

interface Subscription {
  readonly names: Set<string>;
  /** Whether the server has been told of it. */
  said: boolean;
  /** Names that it has not been told of. */
  readonly added: Set<string>;
  version: string;
  nonce: string;
  /** Whether it has answered. */
  answered: boolean;
  /** Names of which the server has said that there is nothing. */
  readonly absent: Set<string>;
}

type Call = ReturnType<Client["makeBidiStreamRequest"]>;

/** Names of what there is, whatever it is called. */
export const EVERYTHING: readonly string[] = [];

export class XdsSession {
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #resources = new Map<string, Map<string, Uint8Array>>();
  readonly #watchers = new Set<() => void>();
  #client: Client | undefined;
  #call: Call | undefined;
  #way: Way = DELTA;
  #node: unknown;
  #error: Error | undefined;
  #heard = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly config: XdsConfig, readonly connectMs = CONNECT_MS) {}

  /** Connects. What goes wrong is told to whoever watches. */
  async open(): Promise<void> {
    const { server, ca_file, server_name, token_file } = this.config;
    try {
      const trusted = ca_file === undefined
        ? credentials.createInsecure()
        : credentials.createSsl(Buffer.from(await Deno.readFile(ca_file)));
      this.#client = new Client(server, trusted, {
        "grpc.max_receive_message_length": MESSAGE_BYTES,
        "grpc.use_local_subchannel_pool": 1,
        "grpc.keepalive_time_ms": KEEPALIVE_MS,
        ...(server_name && { "grpc.ssl_target_name_override": server_name, "grpc.default_authority": server_name }),
      });
      if (this.#error) return this.#client.close(); // nobody wants it any more
      this.#node = await nodeOf(this.config);
      const metadata = new Metadata();
      if (token_file !== undefined) {
        metadata.set("authorization", `Bearer ${(await Deno.readTextFile(token_file)).trim()}`);
      }
      if (this.#error === undefined) this.#begin(metadata);
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #begin(metadata: Metadata): void {
    const way = this.#way;
    const call = this.#client!.makeBidiStreamRequest(
      way.path,
      (bytes: Uint8Array) => Buffer.from(bytes),
      way.decode,
      metadata,
    );
    this.#call = call as Call;
    call.on("data", (told: Told) => this.#call === call && this.#told(told));
    call.on("error", (error: ServiceError) => {
      if (this.#call !== call) return;
      if (error.code === Status.UNIMPLEMENTED && way === DELTA) {
        this.#way = WHOLE;
        for (const one of this.#subscriptions.values()) Object.assign(one, { said: false, nonce: "", version: "" });
        return this.#begin(metadata);
      }
      this.#fail(new Error(`${this.config.server}: ${error.details || error.message}`));
    });
    call.on("end", () => this.#call === call && this.#fail(new Error(`${this.config.server} ended the stream`)));
    this.#heard = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#heard) this.#fail(new Error(`${this.config.server} said nothing within ${this.connectMs} ms`));
    }, this.connectMs);
    let first = true;
    for (const [type, subscription] of this.#subscriptions) {
      this.#say(type, subscription, first ? { node: this.#node } : {});
      first = false;
    }
  }

  #say(type: string, one: Subscription, more: Partial<Saying>, dropped: readonly string[] = []): void {
    const added = one.said ? [...one.added] : [...one.names];
    one.said = true;
    one.added.clear();
    const { nonce, version } = one;
    this.#call!.write(this.#way.encode({ type, names: [...one.names], added, dropped, nonce, version, ...more }));
  }

  /** Is told resources of a type from now on: these beside those that are told already, or EVERYTHING. */
  subscribe(type: string, names: readonly string[]): void {
    const known = this.#subscriptions.get(type);
    if (known === undefined) {
      const subscription: Subscription = {
        names: new Set(names),
        said: false,
        added: new Set(),
        version: "",
        nonce: "",
        answered: false,
        absent: new Set(),
      };
      this.#subscriptions.set(type, subscription);
      const first = this.#subscriptions.size === 1;
      if (this.#call) this.#say(type, subscription, first ? { node: this.#node } : {});
      return;
    }
    for (const name of names) {
      if (known.names.has(name)) continue;
      known.names.add(name);
      known.added.add(name);
    }
    // A change of names is no answer.
    if (known.added.size > 0 && this.#call && known.said) {
      this.#say(type, known, this.#way === DELTA ? { nonce: "" } : {});
    }
  }

  /** A resource as it was told last; undefined when it was not yet, null when there is none. */
  get(type: string, name: string): Uint8Array | null | undefined {
    return this.#resources.get(type)?.get(name) ?? (this.#subscriptions.get(type)?.absent.has(name) ? null : undefined);
  }

  /** All of a type; undefined while the server has not answered. */
  all(type: string): ReadonlyMap<string, Uint8Array> | undefined {
    return this.#subscriptions.get(type)?.answered ? this.#resources.get(type) ?? new Map() : undefined;
  }

  /**
   * Resolves when something has changed, or the signal aborts. Rejects when the stream is lost, and at once where it has
   * been; who asked may look at what there is before it waits for that.
   */
  changed(signal: AbortSignal): Promise<void> {
    const changed = this.#error ? Promise.reject<void>(this.#error) : this.#change(signal);
    changed.catch(() => {});
    return changed;
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const wake = (): void => {
        this.#watchers.delete(wake);
        signal.removeEventListener("abort", wake);
        if (this.#error) reject(this.#error);
        else resolve();
      };
      this.#watchers.add(wake);
      signal.addEventListener("abort", wake);
    });
  }

  #told({ type, nonce, version, resources, removed }: Told): void {
    this.#heard = true;
    const subscription = this.#subscriptions.get(type);
    if (subscription === undefined) return;
    const known = this.#resources.get(type) ?? new Map<string, Uint8Array>();
    this.#resources.set(type, known);
    // All clusters or listeners that there are: those that are not among them are gone.
    const whole = this.#way === WHOLE && (type === ResourceType.cluster || type === ResourceType.listener);
    const gone = whole
      ? new Set(known.keys()).difference(new Set(resources.map(({ name }) => name)))
      : new Set(removed);
    for (const { name, value } of resources) {
      known.set(name, value);
      subscription.absent.delete(name);
    }
    for (const name of gone) {
      known.delete(name);
      if (subscription.names.has(name)) subscription.absent.add(name);
    }
    if (type === ResourceType.cluster) this.#drop(ResourceType.endpoints, gone);
    subscription.nonce = nonce;
    subscription.version = version;
    subscription.answered = true;
    this.#say(type, subscription, {});
    this.#wake();
  }

  // Names that nobody wants any more, as what they belonged to is gone.
  #drop(type: string, names: ReadonlySet<string>): void {
    const subscription = this.#subscriptions.get(type);
    const dropped = [...names].filter((name) => subscription?.names.delete(name));
    for (const name of dropped) {
      this.#resources.get(type)?.delete(name);
      subscription!.absent.delete(name);
      subscription!.added.delete(name);
    }
    if (dropped.length > 0 && subscription!.names.size > 0) this.#say(type, subscription!, {}, dropped);
  }

  #wake(): void {
    for (const wake of [...this.#watchers]) wake();
  }

  #fail(error: Error): void {
    if (this.#error) return;
    this.#error = error;
    clearTimeout(this.#timer);
    const call = this.#call;
    this.#call = undefined;
    call?.on("error", () => {}); // of its being cancelled
    call?.cancel();
    this.#client?.close();
    this.#wake();
  }

  /** Whether it has been lost, or closed. */
  get failed(): boolean {
    return this.#error !== undefined;
  }

  close(): void {
    this.#fail(new Error("it is not watched any more"));
  }
}

/** A session for all that watch one control plane, as long as anybody does. */
export class XdsSessions {
  #session: XdsSession | undefined;
  #users = 0;

  constructor(readonly config: XdsConfig, readonly connectMs?: number) {}

  /** The session; `release` ends the use of it. One that is lost is nobody's any more. */
  acquire(): { session: XdsSession; release(): void } {
    if (this.#session === undefined) {
      this.#session = new XdsSession(this.config, this.connectMs);
      this.#users = 0;
      this.#session.open();
    }
    const session = this.#session;
    this.#users++;
    return {
      session,
      release: () => {
        if (this.#session !== session) return;
        if (--this.#users > 0 && !session.failed) return;
        this.#session = undefined;
        session.close();
      },
    };
  }
}
