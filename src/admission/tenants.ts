// SPDX-License-Identifier: Apache-2.0
// Who a request is from: by its API key, or by a header field where those are trusted. Every tenant of the config has a row
// of its own; trusted names that are not configured share some rows by their hash, so that memory stays as
// it was planned, whatever names come.

import { createHash } from "node:crypto";
import { GatewayError } from "../base/errors.ts";
import { fnv1a } from "../base/fnv1a.ts";
import { type Config, tenantRows } from "../config/schema.ts";
import { MAX_PRIORITY, PRIORITIES, priorityNumber, type TenantConfig } from "../config/tenants.ts";

export interface Tenant {
  /** Row in the shared memory; 0 is everybody without one. */
  readonly row: number;
  readonly name: string;
  readonly priority: number;
  /** Undefined: all. */
  readonly models: ReadonlySet<string> | undefined;
  readonly limits: TenantConfig["limits"];
}

/** What a request's header fields say of it. */
export interface Credentials {
  readonly authorization: string | undefined;
  readonly apiKey: string | undefined;
  readonly tenant: string | undefined;
  readonly priority: string | undefined;
}

/** Band of a priority in the queue, 0 first. */
export function bandOf(priority: number): number {
  return MAX_PRIORITY - priority;
}

const DIGEST_WORDS = 8;

export class Tenants {
  readonly #named = new Map<string, Tenant>();
  readonly #anonymous: Tenant;
  /** Digests of all keys, 8 words each, and whose they are. */
  readonly #digests: Int32Array;
  readonly #owners: Tenant[] = [];
  readonly #firstOther: number;

  /** @param rows Rows by name; the anonymous tenant's is 0. */
  constructor(readonly config: Config, rows: ReadonlyMap<string, number>) {
    const { tenants, tenancy, limits } = config;
    this.#anonymous = tenantOf("anonymous", 0, tenancy.anonymous);
    for (const tenant of tenants) {
      this.#named.set(tenant.name, tenantOf(tenant.name, rows.get(tenant.name)!, tenant));
    }
    this.#firstOther = tenantRows(limits.tenants).others;
    const keys = tenants.flatMap(({ name, keys_sha256 }) => keys_sha256.map((hex) => ({ name, hex })));
    this.#digests = new Int32Array(keys.length * DIGEST_WORDS);
    keys.forEach(({ name, hex }, i) => {
      this.#digests.set(wordsOf(Uint8Array.from(hex.match(/../g)!, (byte) => parseInt(byte, 16))), i * DIGEST_WORDS);
      this.#owners.push(this.#named.get(name)!);
    });
  }

  /** Whether requests need a key. */
  get authenticates(): boolean {
    return this.#owners.length > 0;
  }

  /** Throws GatewayError (unauthorized) when keys are wanted and there is none that is known. */
  identify({ authorization, apiKey, tenant }: Credentials): Tenant {
    const own = this.authenticates ? this.#byKey(apiKey ?? bearer(authorization)) : this.#anonymous;
    // A key of the gateway in front of us may speak for others, and so may everybody where there are no keys.
    if (!this.config.tenancy.trust_headers || tenant === undefined || tenant === "") return own;
    return this.#named.get(tenant) ?? this.#shared(tenant);
  }

  #shared(name: string): Tenant {
    const rows = this.config.limits.tenants - this.#firstOther;
    return { ...this.#anonymous, name: "other", row: this.#firstOther + fnv1a(name) % rows };
  }

  // Every digest is compared in full, so that the time says nothing of how much of a key was right.
  #byKey(key: string | undefined): Tenant {
    if (key === undefined || key === "") {
      throw new GatewayError("unauthorized", "An API key is required: as Authorization: Bearer KEY, or as x-api-key");
    }
    const digest = wordsOf(createHash("sha256").update(key).digest());
    let found = -1;
    for (let i = 0; i < this.#owners.length; i++) {
      let difference = 0;
      for (let w = 0; w < DIGEST_WORDS; w++) difference |= digest[w] ^ this.#digests[i * DIGEST_WORDS + w];
      // -1 when all words agree, else 0.
      const same = ~(difference | -difference) >> 31;
      found = (same & i) | (~same & found);
    }
    if (found < 0) throw new GatewayError("unauthorized", "The API key is not known here");
    return this.#owners[found];
  }

  /** Throws GatewayError (model_not_allowed). */
  checkModel({ models }: Tenant, model: string): void {
    if (models === undefined || models.has(model)) return;
    throw new GatewayError(
      "model_not_allowed",
      `This tenant may not use the model ${JSON.stringify(model)}; it may use: ${[...models].join(", ")}`,
      "model",
    );
  }

  /** A request's priority: what it asks for, never above its tenant's. Throws GatewayError (invalid_request). */
  priorityOf(tenant: Tenant, asked: string | undefined): number {
    if (asked === undefined) return tenant.priority;
    const { objectives } = this.config.tenancy;
    const named = Object.hasOwn(objectives, asked)
      ? priorityNumber(objectives[asked])
      : Object.hasOwn(PRIORITIES, asked)
      ? PRIORITIES[asked as keyof typeof PRIORITIES]
      : undefined;
    const number = named ?? (/^-?\d{1,4}$/.test(asked) ? Number(asked) : NaN);
    if (!(Math.abs(number) <= MAX_PRIORITY)) {
      throw new GatewayError(
        "invalid_request",
        `The priority is to be critical, standard, batch${
          Object.keys(objectives).map((name) => `, ${name}`).join("")
        }` +
          ` or a whole number from -${MAX_PRIORITY} to ${MAX_PRIORITY}`,
      );
    }
    return Math.min(tenant.priority, number);
  }
}

function tenantOf(
  name: string,
  row: number,
  { priority, models, limits }: Omit<TenantConfig, "name" | "keys_sha256">,
): Tenant {
  return { row, name, priority: priorityNumber(priority), models: models && new Set(models), limits };
}

function wordsOf(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.slice().buffer);
}

function bearer(authorization: string | undefined): string | undefined {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : undefined;
}
