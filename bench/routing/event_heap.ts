// SPDX-License-Identifier: Apache-2.0
// What happens at which time, the earliest first; of the same time what was put in first.

export interface Event {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

export class EventHeap {
  readonly #heap: Event[] = [];
  #order = 0;

  get first(): Event | undefined {
    return this.#heap[0];
  }

  push(at: number, run: () => void): void {
    const heap = this.#heap;
    const item = { at, order: this.#order++, run };
    let i = heap.push(item) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (before(heap[parent], item)) break;
      heap[i] = heap[parent];
      i = parent;
    }
    heap[i] = item;
  }

  /** Takes the first one out, if there is one. */
  pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
      if (before(last, heap[child])) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = last;
  }
}

function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
