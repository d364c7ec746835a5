// SPDX-License-Identifier: Apache-2.0
// Names to rows. A row belongs to its name from `acquire` until it is reclaimed: a retired name keeps its row, and gets it
// back with all that it has gathered, until nobody can hold the row any more. Who keeps a row for longer than a request
// keeps its generation too, which grows each time that the row goes to another name.
//
//   free ─acquire─► in use ─retire─► retired ─reclaim─► free (the longest free row is given first)
//                      ▲──────acquire────┘
//
// The control plane alone calls it.

import { assert } from "../base/assert.ts";

/** A name's row. */
export interface NamedRow {
  readonly row: number;
  /** Of the row: another one means that it has changed hands. */
  readonly generation: number;
}

interface Entry extends NamedRow {
  /** Snapshot version from which on nobody takes the name up; undefined while it is in use. */
  retired: number | undefined;
}

/** Where rows come from. */
export interface RowSource {
  /** How many there are. */
  readonly size: number;
  /** A free row; undefined when none is left. */
  take(): number | undefined;
  /** Takes a row back that is nobody's any more. */
  give(row: number): void;
}

/** Rows `first` to `end` − 1, the one that has been free longest first. */
export class FreeRows implements RowSource {
  readonly size: number;
  readonly #free: number[];

  constructor(first: number, end: number) {
    assert(end >= first, "there are rows");
    this.size = end - first;
    this.#free = Array.from({ length: this.size }, (_, i) => first + i);
  }

  take(): number | undefined {
    return this.#free.shift();
  }

  give(row: number): void {
    this.#free.push(row);
  }

  get left(): number {
    return this.#free.length;
  }
}

/** No row is left. */
export class RegistryFull extends Error {
  override readonly name = "RegistryFull";
}

export class Registry {
  readonly #entries = new Map<string, Entry>();
  /** Of every row that was ever given out. */
  readonly #generations = new Map<number, number>();

  /** @param what What the rows are of, for messages: "models (limits.models)". */
  constructor(readonly what: string, readonly source: RowSource) {}

  /** The row of a name that is in use or retired. */
  get(name: string): NamedRow | undefined {
    return this.#entries.get(name);
  }

  /** Whether a name is in use: it has a row and is not retired. */
  inUse(name: string): boolean {
    const entry = this.#entries.get(name);
    return entry !== undefined && entry.retired === undefined;
  }

  /** The snapshot version that a name was retired with; undefined when it is in use or unknown. */
  retiredAt(name: string): number | undefined {
    return this.#entries.get(name)?.retired;
  }

  /** Gives a name its row, the one that it has or a free one. Throws RegistryFull. */
  acquire(name: string): NamedRow {
    const known = this.#entries.get(name);
    if (known) {
      known.retired = undefined;
      return known;
    }
    const row = this.source.take();
    if (row === undefined) {
      const retired = this.retiredCount;
      throw new RegistryFull(
        `No row is left for ${JSON.stringify(name)}: there are ${this.source.size} ${this.what}` +
          (retired > 0 ? `, ${retired} of them of names that requests under way still use` : ""),
      );
    }
    const entry: Entry = { row, generation: this.#next(row), retired: undefined };
    this.#entries.set(name, entry);
    return entry;
  }

  /** Nobody takes the name up from this snapshot version on. */
  retire(name: string, version: number): void {
    const entry = this.#entries.get(name);
    assert(entry && entry.retired === undefined, "a name that is retired was in use");
    entry.retired = version;
  }

  /** Whether a row still is what it was. */
  current({ row, generation }: NamedRow): boolean {
    return this.#generations.get(row) === generation;
  }

  /**
   * Frees the rows of names that were retired before or with snapshot `oldest`, the oldest one that anybody still uses, and
   * that nobody holds otherwise. `clean` makes a row that of nobody; false keeps it. Returns the names.
   */
  reclaim(oldest: number, clean: (row: number, name: string) => boolean): string[] {
    const freed: string[] = [];
    for (const [name, { row, retired }] of this.#entries) {
      if (retired === undefined || retired > oldest || !clean(row, name)) continue;
      this.#entries.delete(name);
      this.#next(row);
      this.source.give(row);
      freed.push(name);
    }
    return freed;
  }

  /** Names with their rows, retired ones included. */
  get all(): Iterable<readonly [string, NamedRow]> {
    return this.#entries;
  }

  /** Names in use with their rows. */
  rows(): Map<string, number> {
    const rows = new Map<string, number>();
    for (const [name, { row, retired }] of this.#entries) if (retired === undefined) rows.set(name, row);
    return rows;
  }

  #next(row: number): number {
    const generation = (this.#generations.get(row) ?? 0) + 1;
    this.#generations.set(row, generation);
    return generation;
  }

  /** Rows that names have, and of these, those of retired ones. */
  get usage(): { used: number; retired: number } {
    return { used: this.#entries.size, retired: this.retiredCount };
  }

  get retiredCount(): number {
    let count = 0;
    for (const { retired } of this.#entries.values()) if (retired !== undefined) count++;
    return count;
  }
}
