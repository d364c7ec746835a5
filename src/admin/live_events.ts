// SPDX-License-Identifier: Apache-2.0
// The stream behind the page: server-sent events with the fleet as a whole and then what changes of it, traffic, and
// decisions. Who does not read fast enough misses changes and gets the whole again.

import type { Clock } from "../base/clock.ts";
import type { ShownDecision } from "../gateway/decision_watch.ts";
import type { TrafficHistory } from "./traffic_history.ts";

/** An endpoint as the page shows it; whatever is not known is null. */
export interface LiveEndpoint {
  readonly cluster: string;
  readonly endpoint: string;
  readonly state: string;
  /** Why it is in that state. */
  readonly why: string;
  readonly in_flight: number;
  readonly remote_in_flight: number;
  readonly waiting: number | null;
  readonly running: number | null;
  readonly kv_usage: number | null;
  readonly prefix_hit_ratio: number | null;
  /** Mean seconds to the first token over all that it answered. */
  readonly ttft: number | null;
  readonly dispatched: number;
  readonly failed: number;
  readonly labels: string;
}

export interface LiveState {
  readonly version: string;
  /** Why no request can be served; null when they can. */
  readonly not_ready: string | null;
  readonly workers: number;
  readonly clusters: readonly { name: string; saturation: number; waiting: number }[];
  readonly tenants: readonly { name: string; waiting: number; under_way: number; sent: number; refused: number }[];
}

export interface LiveParts {
  readonly clock: Clock;
  readonly traffic: TrafficHistory;
  state(): LiveState;
  endpoints(): LiveEndpoint[];
  /** Whether decisions are wanted. */
  watch(open: boolean): void;
}

/** How often the fleet is looked at. */
const LOOK_MS = 500;
/** Pages at once. */
const MAX_PAGES = 32;
const KEPT_DECISIONS = 50;

export class LiveEvents {
  readonly #pages = new Set<Page>();
  readonly #decisions: ShownDecision[] = [];
  #cancel: () => void = () => {};

  constructor(readonly parts: LiveParts) {}

  /** A worker tells a decision. */
  decided(decision: ShownDecision): void {
    this.#decisions.push(decision);
    if (this.#decisions.length > KEPT_DECISIONS) this.#decisions.shift();
    for (const page of this.#pages) page.send("decisions", { whole: false, decisions: [decision] });
  }

  /** The stream of one page; undefined when there are too many. */
  open(): ReadableStream<Uint8Array> | undefined {
    if (this.#pages.size >= MAX_PAGES) return undefined;
    const { traffic, watch } = this.parts;
    let page: Page;
    let unlisten: () => void;
    const close = () => {
      if (!this.#pages.delete(page)) return;
      unlisten();
      if (this.#pages.size > 0) return;
      this.#cancel();
      watch(false);
    };
    return new ReadableStream({
      start: (controller) => {
        page = new Page(controller, close);
        this.#pages.add(page);
        unlisten = traffic.listen((sample) => page.send("traffic", { whole: false, samples: [sample] }));
        page.send("traffic", { whole: true, samples: traffic.samples });
        page.send("decisions", { whole: true, decisions: this.#decisions });
        if (this.#pages.size === 1) {
          watch(true);
          this.#look();
        } else this.#show([page]);
      },
      cancel: close,
    }, new CountQueuingStrategy({ highWaterMark: 64 }));
  }

  #look(): void {
    this.#show(this.#pages);
    this.#cancel = this.parts.clock.after(LOOK_MS, () => this.#look());
  }

  #show(pages: Iterable<Page>): void {
    const endpoints = new Map(
      this.parts.endpoints().map((one) => {
        return [`${one.cluster} ${one.endpoint}`, JSON.stringify(one)];
      }),
    );
    const state = this.parts.state();
    for (const page of pages) page.show(state, endpoints);
  }

  /** Ends every stream. */
  stop(): void {
    for (const page of [...this.#pages]) page.close();
  }
}

class Page {
  readonly #encoder = new TextEncoder();
  /** The endpoints that it knows, as they were told; undefined when it has to be told all. */
  #known: Map<string, string> | undefined;

  constructor(readonly controller: ReadableStreamDefaultController<Uint8Array>, readonly closed: () => void) {}

  /** False when the page is too slow to take it. */
  send(event: string, data: unknown): boolean {
    return this.#write(event, JSON.stringify(data));
  }

  #write(event: string, data: string): boolean {
    if (this.controller.desiredSize === null || this.controller.desiredSize <= 0) return false;
    this.controller.enqueue(this.#encoder.encode(`event: ${event}\ndata: ${data}\n\n`));
    return true;
  }

  show(state: LiveState, endpoints: Map<string, string>): void {
    const known = this.#known;
    const changed = [...endpoints].filter(([key, text]) => known?.get(key) !== text).map(([, text]) => text);
    const gone = known === undefined ? [] : [...known.keys()].filter((key) => !endpoints.has(key));
    this.#known = endpoints;
    const told = this.send("state", state) && this.#write(
      "endpoints",
      `{"whole":${known === undefined},"changed":[${changed.join(",")}],"gone":${JSON.stringify(gone)}}`,
    );
    if (!told) this.#known = undefined;
  }

  close(): void {
    this.closed();
    try {
      this.controller.close();
    } catch {
      // the page is gone already
    }
  }
}
