// SPDX-License-Identifier: Apache-2.0
// A list whose items know their place in it: in and out cost a store each, where a Set would hash an object twice.

export interface Placed {
  /** Kept by the list; -1 outside of one. An item is in one list at a time. */
  place: number;
}

export class PlacedList<T extends Placed> {
  readonly #items: T[] = [];

  /** Nothing happens to one that is in already. */
  add(item: T): void {
    if (item.place < 0) item.place = this.#items.push(item) - 1;
  }

  /** The last item takes its place. Nothing happens to one that is in no list. */
  remove(item: T): void {
    const { place } = item;
    if (place < 0) return;
    const last = this.#items.pop()!;
    if (last !== item) {
      this.#items[place] = last;
      last.place = place;
    }
    item.place = -1;
  }

  clear(): void {
    for (const item of this.#items.splice(0)) item.place = -1;
  }

  filter(wanted: (item: T) => boolean): T[] {
    return this.#items.filter(wanted);
  }

  get size(): number {
    return this.#items.length;
  }
}
