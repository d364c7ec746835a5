// SPDX-License-Identifier: Apache-2.0
// Endpoints as objects of Kubernetes tell them, an object some of them: what a change of objects is as a change of
// endpoints. An endpoint may be told by two objects, as while it moves from one slice to another.

import { endpointKey, type EndpointSpec, type Update } from "../discovery.ts";
import type { Change, KubernetesObject } from "./api.ts";

export class ToldEndpoints<T extends KubernetesObject> {
  readonly #objects = new Map<string, readonly EndpointSpec[]>();
  /** Each endpoint as each object tells it; the last one counts. */
  readonly #known = new Map<string, Map<string, EndpointSpec>>();

  constructor(readonly cluster: string, readonly specsOf: (object: T) => readonly EndpointSpec[]) {}

  /** What a change comes to. */
  apply(change: Change<T>): Update[] {
    if (change.kind === "all") return [this.#reset(change.objects)];
    /** Endpoints that the changed objects tell, or told, as they were before. */
    const before = new Map<string, EndpointSpec | undefined>();
    const touch = (key: string): void => {
      if (!before.has(key)) before.set(key, this.#specOf(key));
    };
    for (const { metadata: { name } } of [...change.gone, ...change.changed]) {
      for (const spec of this.#objects.get(name) ?? []) {
        const key = endpointKey(spec);
        touch(key);
        this.#known.get(key)?.delete(name);
      }
      this.#objects.delete(name);
    }
    for (const object of change.changed) {
      const specs = this.specsOf(object);
      for (const spec of specs) touch(endpointKey(spec));
      this.#take(object.metadata.name, specs);
    }
    return this.#differences(before);
  }

  #differences(before: ReadonlyMap<string, EndpointSpec | undefined>): Update[] {
    const { cluster } = this;
    const [fresh, gone] = [[] as EndpointSpec[], [] as EndpointSpec[]];
    for (const [key, was] of before) {
      const is = this.#specOf(key);
      if (is === undefined) {
        this.#known.delete(key);
        if (was !== undefined) gone.push(was);
      } else if (JSON.stringify(is) !== JSON.stringify(was)) fresh.push(is);
    }
    const ids = gone.map(({ host, port, rank }) => ({ cluster, host, port, rank }));
    return [
      ...(fresh.length > 0 ? [{ kind: "add", cluster, endpoints: fresh } as const] : []),
      ...(ids.length > 0 ? [{ kind: "remove", ids } as const] : []),
    ];
  }

  #reset(objects: readonly T[]): Update {
    this.#objects.clear();
    this.#known.clear();
    for (const object of objects) this.#take(object.metadata.name, this.specsOf(object));
    const endpoints = [...this.#known.keys()].map((key) => this.#specOf(key)!);
    return { kind: "reset", cluster: this.cluster, endpoints };
  }

  #take(name: string, specs: readonly EndpointSpec[]): void {
    this.#objects.set(name, specs);
    for (const spec of specs) {
      const key = endpointKey(spec);
      const told = this.#known.get(key);
      if (told) told.set(name, spec);
      else this.#known.set(key, new Map([[name, spec]]));
    }
  }

  #specOf(key: string): EndpointSpec | undefined {
    return [...this.#known.get(key)?.values() ?? []].at(-1);
  }
}
