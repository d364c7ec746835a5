// SPDX-License-Identifier: Apache-2.0
// The blocks of one engine by the hashes that it names them with: a growing table of typed arrays, open addressing with
// linear probing. A fleet has many millions of them; an object for each would be ten times as large.

/** What a record has: words of its keys, then words of its state. */
export class BlockRecords {
  #lo: Uint32Array;
  #hi: Uint32Array;
  /** How often the block was stored without being removed; 0 for an empty place. */
  #references: Uint16Array;
  #words: Uint32Array;
  #mask: number;
  size = 0;

  /** @param width Words of a record. */
  constructor(readonly width: number, slots = 1_024) {
    this.#mask = slots - 1;
    this.#lo = new Uint32Array(slots);
    this.#hi = new Uint32Array(slots);
    this.#references = new Uint16Array(slots);
    this.#words = new Uint32Array(slots * width);
  }

  /** The place of a block; -1 when it is not there. Good until the next change. */
  find(lo: number, hi: number): number {
    for (let i = homeOf(lo, hi) & this.#mask;; i = (i + 1) & this.#mask) {
      if (this.#references[i] === 0) return -1;
      if (this.#lo[i] === lo && this.#hi[i] === hi) return i;
    }
  }

  /** A place for a block that is not there, with one reference and words of 0. */
  add(lo: number, hi: number): number {
    if (4 * this.size > 3 * this.#mask) this.#grow();
    const place = this.#place(lo, hi);
    this.#lo[place] = lo;
    this.#hi[place] = hi;
    this.#references[place] = 1;
    this.size++;
    return place;
  }

  retain(place: number): void {
    if (this.#references[place] < 0xffff) this.#references[place]++;
  }

  /** One reference less; whether that was the last, in which case it is to be removed. */
  release(place: number): boolean {
    if (this.#references[place] > 1) {
      this.#references[place]--;
      return false;
    }
    return true;
  }

  /** The words of a record, to read and to write. */
  words(place: number): Uint32Array {
    return this.#words.subarray(place * this.width, (place + 1) * this.width);
  }

  /** Takes a record out; those behind it that it kept from their places move up. */
  remove(place: number): void {
    let hole = place;
    for (let i = (hole + 1) & this.#mask; this.#references[i] !== 0; i = (i + 1) & this.#mask) {
      const home = homeOf(this.#lo[i], this.#hi[i]) & this.#mask;
      if (((i - home) & this.#mask) < ((i - hole) & this.#mask)) continue;
      this.#lo[hole] = this.#lo[i];
      this.#hi[hole] = this.#hi[i];
      this.#references[hole] = this.#references[i];
      this.#words.copyWithin(hole * this.width, i * this.width, (i + 1) * this.width);
      hole = i;
    }
    this.#references[hole] = 0;
    this.#words.fill(0, hole * this.width, (hole + 1) * this.width);
    this.size--;
  }

  /** Places in use. */
  *places(): Generator<number> {
    for (let i = 0; i <= this.#mask; i++) if (this.#references[i] !== 0) yield i;
  }

  #place(lo: number, hi: number): number {
    let i = homeOf(lo, hi) & this.#mask;
    while (this.#references[i] !== 0) i = (i + 1) & this.#mask;
    return i;
  }

  #grow(): void {
    const old = { lo: this.#lo, hi: this.#hi, references: this.#references, words: this.#words };
    const slots = 2 * (this.#mask + 1);
    this.#mask = slots - 1;
    this.#lo = new Uint32Array(slots);
    this.#hi = new Uint32Array(slots);
    this.#references = new Uint16Array(slots);
    this.#words = new Uint32Array(slots * this.width);
    for (let i = 0; i < old.references.length; i++) {
      if (old.references[i] === 0) continue;
      const place = this.#place(old.lo[i], old.hi[i]);
      this.#lo[place] = old.lo[i];
      this.#hi[place] = old.hi[i];
      this.#references[place] = old.references[i];
      this.#words.set(old.words.subarray(i * this.width, (i + 1) * this.width), place * this.width);
    }
  }
}

// Engines' hashes are even already, or count up.
function homeOf(lo: number, hi: number): number {
  const h = Math.imul(lo ^ hi >>> 15, 0x9e3779b1) ^ hi;
  return h ^ h >>> 16;
}
