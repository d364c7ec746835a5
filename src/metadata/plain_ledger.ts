// SPDX-License-Identifier: Apache-2.0
// What a center of the documented kind has been told of this gateway's requests in one cluster. Such a center takes one
// event a call, knows no leases and tells everybody the whole load: so it is told each end, and what it has acknowledged
// is taken off the figures that it gives.

import type { EngineLoad } from "./engine_load.ts";
import { plainKey } from "./engine_address.ts";
import type { CenterEvent } from "./server.ts";

/** One question to a center. */
export interface CenterRequest {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** Asks the center; undefined when there is no answer. */
export type Asks = (request: CenterRequest) => Promise<{ status: number } | undefined>;

const CALLS: Partial<Record<CenterEvent["type"], Pick<CenterRequest, "method" | "path">>> = {
  "load.stats.set": { method: "POST", path: "/v1/load/stats" },
  "load.stats.delete": { method: "DELETE", path: "/v1/load/stats" },
  "load.prompt.delete": { method: "DELETE", path: "/v1/load/prompt" },
};

/** Polls in a row that lack something until a center is told anew. */
const MAX_LACKING = 3;

interface OwnRequest {
  readonly engine: string;
  readonly promptLength: number;
  promptCounted: boolean;
}

export class PlainLedger {
  readonly #own = new Map<string, OwnRequest>();
  /** By the name of the engine there. */
  readonly #acknowledged = new Map<string, { queued: number; promptLength: number }>();
  /** Requests that it may have heard of: there was no answer. */
  readonly #doubtful = new Set<string>();
  #lacking = 0;

  /** Tells events one by one; false when one found no answer. */
  async tell(events: readonly CenterEvent[], ask: Asks): Promise<boolean> {
    if (events[0]?.type === "lease.reset" && !await this.#beginAnew(events, ask)) return false;
    for (const { type, body } of events) {
      const call = CALLS[type];
      // An engine without an IPv4 address has no name there.
      if (!call || (type === "load.stats.set" && body.ip === undefined)) continue;
      // Who is named there gets a lease, at a center that knows leases, and nothing here renews it.
      const { gateway: _, ...plain } = body;
      const answer = await ask({ ...call, body: plain });
      if (!answer || answer.status >= 500) {
        if (type === "load.stats.set") this.#doubtful.add(body.request_id as string);
        return false;
      }
      this.#acknowledge(type, body);
    }
    return true;
  }

  // It may have forgotten what is open, and not heard of what has ended.
  async #beginAnew(events: readonly CenterEvent[], ask: Asks): Promise<boolean> {
    const open = new Set(events.filter(({ type }) => type === "load.stats.set").map(({ body }) => body.request_id));
    for (const id of this.told()) {
      this.#own.delete(id);
      // Of one that is open it is told again: until it has answered that, its end is owed.
      this.#doubtful.add(id);
      if (open.has(id)) continue;
      if (!await ask({ ...CALLS["load.stats.delete"]!, body: { request_id: id } })) return false;
      this.#doubtful.delete(id);
    }
    this.#acknowledged.clear();
    return true;
  }

  /** Requests that it has heard of, or may have, and not of their ends. */
  told(): string[] {
    return [...this.#own.keys(), ...this.#doubtful];
  }

  /** It turned out to be of another kind, and has been told of the end of all. */
  forget(): void {
    this.#own.clear();
    this.#doubtful.clear();
    this.#acknowledged.clear();
  }

  #acknowledge(type: string, body: Record<string, unknown>): void {
    const id = body.request_id as string;
    const known = this.#own.get(id);
    if (type === "load.stats.set" && !known) {
      const engine = body.ip as string;
      const promptLength = body.prompt_length as number;
      this.#own.set(id, { engine, promptLength, promptCounted: true });
      this.#doubtful.delete(id);
      this.#add(engine, 1, promptLength);
    } else if (known && type === "load.prompt.delete" && known.promptCounted) {
      known.promptCounted = false;
      this.#add(known.engine, 0, -known.promptLength);
    } else if (known && type === "load.stats.delete") {
      this.#own.delete(id);
      this.#add(known.engine, -1, known.promptCounted ? -known.promptLength : 0);
    }
  }

  #add(engine: string, queued: number, promptLength: number): void {
    const share = this.#acknowledged.get(engine) ?? { queued: 0, promptLength: 0 };
    this.#acknowledged.set(engine, {
      queued: share.queued + queued,
      promptLength: share.promptLength + promptLength,
    });
  }

  /** What of the center's figures is the others'. */
  others(loads: readonly EngineLoad[]): EngineLoad[] {
    return loads.map((load) => {
      const own = this.#acknowledged.get(plainKey(load));
      return {
        ...load,
        queued: Math.max(0, load.queued - (own?.queued ?? 0)),
        promptLength: Math.max(0, load.promptLength - (own?.promptLength ?? 0)),
      };
    });
  }

  /** Whether it lacks, again and again, what it has acknowledged: then it has begun anew in the meantime. */
  lacks(loads: readonly EngineLoad[]): boolean {
    const queued = new Map(loads.map((load) => [plainKey(load), load.queued]));
    const lacks = [...this.#acknowledged].some(([engine, own]) => own.queued > (queued.get(engine) ?? 0));
    this.#lacking = lacks ? this.#lacking + 1 : 0;
    if (this.#lacking < MAX_LACKING) return false;
    this.#lacking = 0;
    return true;
  }
}
