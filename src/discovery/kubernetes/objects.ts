// SPDX-License-Identifier: Apache-2.0
// Endpoints as objects of Kubernetes tell them, an object some of them: what a change of objects is as a change of
// endpoints. An endpoint may be told by two objects, as while it moves from one slice to another.

import { endpointKey, type EndpointSpec, type Update } from "../discovery.ts";
import type { Change, KubernetesObject } from "./api.ts";

export class ToldEndpoints<T extends KubernetesObject> {
  readonly #objects = new Map<string, readonly EndpointSpec[]>();
  /** Each endpoint as it was told last, and by how many objects. */
  readonly #known = new Map<string, { spec: EndpointSpec; objects: number }>();

  constructor(readonly cluster: string, readonly specsOf: (object: T) => readonly EndpointSpec[]) {}

  /** What a change comes to. */
  apply(change: Change<T>): Update[] {
    if (change.kind === "all") return [this.#reset(change.objects)];
    const [gone, fresh] = [new Map<string, EndpointSpec>(), new Map<string, EndpointSpec>()];
    const drop = (name: string): void => {
      for (const spec of this.#objects.get(name) ?? []) if (this.#forget(spec)) gone.set(endpointKey(spec), spec);
    };
    for (const { metadata: { name } } of change.gone) {
      drop(name);
      this.#objects.delete(name);
    }
    for (const object of change.changed) {
      const { name } = object.metadata;
      drop(name);
      const specs = this.specsOf(object);
      this.#objects.set(name, specs);
      for (const spec of specs) {
        const key = endpointKey(spec);
        const before = gone.get(key) ?? this.#known.get(key)?.spec;
        this.#know(spec);
        gone.delete(key);
        if (before === undefined || JSON.stringify(before) !== JSON.stringify(spec)) fresh.set(key, spec);
      }
    }
    const { cluster } = this;
    const updates: Update[] = [];
    if (fresh.size > 0) updates.push({ kind: "add", cluster, endpoints: [...fresh.values()] });
    if (gone.size > 0) {
      const ids = [...gone.values()].map(({ host, port, rank }) => ({ cluster, host, port, rank }));
      updates.push({ kind: "remove", ids });
    }
    return updates;
  }

  #reset(objects: readonly T[]): Update {
    this.#objects.clear();
    this.#known.clear();
    for (const object of objects) {
      const specs = this.specsOf(object);
      this.#objects.set(object.metadata.name, specs);
      for (const spec of specs) this.#know(spec);
    }
    return { kind: "reset", cluster: this.cluster, endpoints: [...this.#known.values()].map(({ spec }) => spec) };
  }

  #know(spec: EndpointSpec): void {
    const key = endpointKey(spec);
    const known = this.#known.get(key);
    this.#known.set(key, { spec, objects: (known?.objects ?? 0) + 1 });
  }

  // Returns whether no object tells it any more.
  #forget(spec: EndpointSpec): boolean {
    const key = endpointKey(spec);
    const known = this.#known.get(key)!;
    known.objects--;
    return known.objects === 0 && this.#known.delete(key);
  }
}
