// SPDX-License-Identifier: Apache-2.0
// The kernel again in plain TypeScript, written for clarity: the other side of the differential tests and the yardstick
// of the benchmarks.

const MASK = (1n << 64n) - 1n;
const rotl = (x: bigint, r: bigint) => ((x << r) | (x >> (64n - r))) & MASK;
const mul = (a: bigint, b: bigint) => (a * b) & MASK;
const C1 = 0x87c37b91114253d5n;
const C2 = 0x4cf5ad432745937fn;

/** Prompt bytes to a hash. */
export const CHUNK_BYTES = 512;

function finalMix(k: bigint): bigint {
  k = mul(k ^ (k >> 33n), 0xff51afd7ed558ccdn);
  k = mul(k ^ (k >> 33n), 0xc4ceb9fe1a85ec53n);
  return k ^ (k >> 33n);
}

/** MurmurHash3 x64_128, seed 0: both halves. */
export function murmur3(bytes: Uint8Array): [bigint, bigint] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let h1 = 0n;
  let h2 = 0n;
  const whole = bytes.length - (bytes.length % 16);
  for (let i = 0; i < whole; i += 16) {
    h1 ^= mul(rotl(mul(view.getBigUint64(i, true), C1), 31n), C2);
    h1 = (mul((rotl(h1, 27n) + h2) & MASK, 5n) + 0x52dce729n) & MASK;
    h2 ^= mul(rotl(mul(view.getBigUint64(i + 8, true), C2), 33n), C1);
    h2 = (mul((rotl(h2, 31n) + h1) & MASK, 5n) + 0x38495ab5n) & MASK;
  }
  const tail = bytes.subarray(whole);
  let k1 = 0n;
  let k2 = 0n;
  tail.forEach((byte, i) => {
    if (i < 8) k1 |= BigInt(byte) << BigInt(8 * i);
    else k2 |= BigInt(byte) << BigInt(8 * (i - 8));
  });
  h2 ^= mul(rotl(mul(k2, C2), 33n), C1);
  h1 ^= mul(rotl(mul(k1, C1), 31n), C2);
  h1 ^= BigInt(bytes.length);
  h2 ^= BigInt(bytes.length);
  h1 = (h1 + h2) & MASK;
  h2 = (h2 + h1) & MASK;
  h1 = finalMix(h1);
  h2 = finalMix(h2);
  h1 = (h1 + h2) & MASK;
  h2 = (h2 + h1) & MASK;
  return [h1, h2];
}

/** Hash of every prefix that ends at a chunk. */
export function prefixHashes(bytes: Uint8Array, chunkBytes: number): bigint[] {
  const hashes: bigint[] = [];
  for (let end = 0; end < bytes.length;) {
    end = Math.min(bytes.length, end + chunkBytes);
    hashes.push(murmur3(bytes.subarray(0, end))[0]);
  }
  return hashes;
}

/** SplitMix64 and the multiply-shift of assembly/random.ts. */
export class TwinRandom {
  #state: bigint;
  constructor(seed: number) {
    this.#state = BigInt(seed);
  }
  below(n: number): number {
    this.#state = (this.#state + 0x9e3779b97f4a7c15n) & MASK;
    let z = this.#state;
    z = mul(z ^ (z >> 30n), 0xbf58476d1ce4e5b9n);
    z = mul(z ^ (z >> 27n), 0x94d049bb133111ebn);
    z ^= z >> 31n;
    return Number(((z >> 32n) * BigInt(n)) >> 32n);
  }
}

interface Holder {
  row: number;
  stamp: number;
}

const bitOf = (row: number): number => 1 << (row & 31);

interface Entry {
  /** Bits of all holders of a chunk with more of them than places. */
  wide: number;
  holders: (Holder | undefined)[];
}

/** The prefix index without its bound: same holders, stamps and bits. */
export class TwinIndex {
  /** Chunks that came out of use, by row. */
  readonly inserted = new Map<number, number>();
  /** Of each row, the chunks out of use by the epoch of their stamps, and the oldest epoch that is there. */
  readonly #counts = new Map<number, Map<number, number>>();
  readonly frontier = new Map<number, number>();
  readonly #entries = new Map<string, Entry>();

  /**
   * @param serving Rows that serve.
   * @param idle Of the capacity, what is not in use.
   */
  constructor(
    readonly serving: readonly number[],
    readonly capacity: (row: number) => number,
    readonly idle = capacity,
  ) {}

  #age({ row, stamp }: Holder): number {
    return (this.inserted.get(row) ?? 0) - stamp;
  }

  #epoch(row: number, stamp: number): number {
    return Math.floor(stamp / 2 ** Math.max(0, Math.floor(Math.log2(Math.floor(this.capacity(row) / 32) || 1))));
  }

  #alive(holder: Holder): boolean {
    return this.#age(holder) < 0 || this.#epoch(holder.row, holder.stamp) >= (this.frontier.get(holder.row) ?? 0);
  }

  #countsOf(row: number): Map<number, number> {
    const counts = this.#counts.get(row) ?? new Map<number, number>();
    this.#counts.set(row, counts);
    return counts;
  }

  findable(row: number): number {
    return this.#countsOf(row).values().reduce((sum, count) => sum + count, 0);
  }

  #release(row: number): number {
    const stamp = (this.inserted.get(row) ?? 0) + 1;
    this.inserted.set(row, stamp);
    const epoch = this.#epoch(row, stamp);
    const counts = this.#countsOf(row);
    const merged = counts.get(epoch - 512) ?? 0;
    counts.delete(epoch - 512);
    if (merged > 0) counts.set(epoch - 511, (counts.get(epoch - 511) ?? 0) + merged);
    counts.set(epoch, (counts.get(epoch) ?? 0) + 1);
    return stamp;
  }

  // The epoch with which one is counted: the last 512 each for themselves.
  #countedWith(row: number, epoch: number): number {
    return Math.max(epoch, this.#epoch(row, this.inserted.get(row) ?? 0) - 511);
  }

  #evictTo(row: number, most: number): void {
    const now = this.#epoch(row, this.inserted.get(row) ?? 0);
    for (;;) {
      const oldest = this.#countedWith(row, this.frontier.get(row) ?? 0);
      const over = this.findable(row) - most;
      if (over <= 0 || oldest >= now || (this.#countsOf(row).get(oldest) ?? 0) > 2 * over) return;
      this.#countsOf(row).delete(oldest);
      this.frontier.set(row, oldest + 1);
    }
  }

  /** The engine has just told how much of its cache is in use. */
  evict(row: number): void {
    this.#evictTo(row, this.idle(row));
  }

  insert(hashes: bigint[], salt: number, row: number): void {
    this.#hold(hashes, salt, row, "insert");
  }

  pin(hashes: bigint[], salt: number, row: number): number {
    const pinned = this.inserted.get(row) ?? 0;
    this.#hold(hashes, salt, row, "pin");
    return pinned;
  }

  unpin(hashes: bigint[], pinned: number, salt: number, row: number): void {
    this.#hold(hashes, salt, row, "unpin", pinned);
  }

  #stamp(row: number, how: string, counts: boolean): number {
    if (how === "pin") return this.#pin(row, 1);
    return counts ? this.#release(row) : this.inserted.get(row) ?? 0;
  }

  #pin(row: number, users: number): number {
    const base = (this.inserted.get(row) ?? 0) + 16 * this.capacity(row) + 126;
    return base - base % 64 + Math.min(63, users);
  }

  #hold(hashes: bigint[], salt: number, row: number, how: "insert" | "pin" | "unpin", pinned = 0): void {
    for (const hash of [...hashes].reverse()) {
      const key = `${salt}:${hash}`;
      const entry = this.#entries.get(key) ?? { wide: 0, holders: Array(7).fill(undefined) };
      this.#entries.set(key, entry);
      const narrow = entry.wide === 0;
      const mine = entry.holders.find((holder) => holder?.row === row);
      if (mine) {
        const inUse = this.#age(mine) < 0;
        if (inUse && how === "insert") continue;
        if (inUse && how === "unpin" && (this.inserted.get(row) ?? 0) - pinned > 32 * this.capacity(row)) continue;
        if (inUse && (how === "pin" || mine.stamp % 64 > 1)) {
          mine.stamp = how === "pin" ? this.#pin(row, mine.stamp % 64 + 1) : mine.stamp - 1;
          continue;
        }
        if (this.#alive(mine) && !inUse && narrow) {
          const counts = this.#countsOf(row);
          const epoch = this.#countedWith(row, this.#epoch(row, mine.stamp));
          const count = counts.get(epoch) ?? 0;
          if (count > 0) counts.set(epoch, count - 1);
        }
        mine.stamp = this.#stamp(row, how, narrow);
        continue;
      }
      let recorded = bitOf(row);
      let gone = 0;
      for (const holder of entry.holders) {
        if (holder && this.#alive(holder)) recorded |= bitOf(holder.row);
        else if (holder) gone |= bitOf(holder.row);
      }
      if (entry.wide !== 0) {
        entry.wide = (entry.wide & ~gone) | recorded;
        if (entry.wide === recorded) entry.wide = 0;
      }
      let place = entry.holders.findIndex((holder) => !holder || !this.#alive(holder));
      if (place < 0) {
        let oldest = -Infinity;
        entry.holders.forEach((holder, i) => {
          const age = this.#age(holder!);
          if (age >= oldest) {
            oldest = age;
            place = i;
          }
        });
        entry.wide |= recorded;
      }
      entry.holders[place] = { row, stamp: this.#stamp(row, how, narrow) };
    }
    this.#evictTo(row, this.capacity(row));
  }

  lookUp(hashes: bigint[], salt: number): { everywhere: number; matches: Map<number, number> } {
    const serving = this.serving.reduce((bits, row) => bits | bitOf(row), 0);
    let everywhere = 0;
    let open = true;
    const places: { row: number; bytes: number }[] = [];
    for (let i = 0; i < hashes.length; i++) {
      const before = i * CHUNK_BYTES;
      const entry = this.#entries.get(`${salt}:${hashes[i]}`);
      if (!entry) break;
      const { wide, holders } = entry;
      const live = holders.filter((holder) => holder && this.#alive(holder)) as Holder[];
      if (wide !== 0 && everywhere === before && (wide & serving) === serving && live.length === 7) {
        everywhere += CHUNK_BYTES;
        continue;
      }
      let active = 0;
      for (const place of places) {
        const recorded = holders.find((holder) => holder?.row === place.row);
        const holds = recorded ? this.#alive(recorded) : (wide & bitOf(place.row)) !== 0;
        if (place.bytes !== before || !holds) continue;
        place.bytes += CHUNK_BYTES;
        active++;
      }
      for (const { row } of open ? live : []) {
        if (places.some((place) => place.row === row)) continue;
        const found = { row, bytes: before + CHUNK_BYTES };
        const shortest = Math.min(...places.map(({ bytes }) => bytes));
        if (places.length < 7) places.push(found);
        else if (shortest <= before) places[places.findIndex(({ bytes }) => bytes === shortest)] = found;
        else continue;
        active++;
      }
      open &&= wide !== 0;
      if (active === 0 && !open) break;
    }
    return { everywhere, matches: new Map(places.map(({ row, bytes }) => [row, bytes])) };
  }
}

/** What is scored: one endpoint row. */
export interface TwinRow {
  eligibility: number;
  requests: number;
  promptBytes: number;
  /** Leading bytes of the prompt that it holds. */
  matched: number;
  /** Numbers of the LoRA adapters that it holds. */
  adapters?: number[];
}

const f = Math.fround;

/** The inference_lb score in single precision, in the kernel's order of operations. -Infinity for no candidate. */
export function scoreInferenceLb(
  rows: TwinRow[],
  mask: number,
  chunks: number,
  [cacheWeight, requestWeight, prefillWeight]: [number, number, number],
  adapter = 0,
  adapterWeight = 0,
): Float32Array {
  const candidates = rows.filter((row) => (row.eligibility & mask) === mask);
  const queues = candidates.map((row) => f(Math.max(0, row.requests)));
  const min = Math.min(...queues);
  const delta = f(Math.max(2, f(Math.max(...queues) - min)));
  const scale = f(Math.max(1024, ...candidates.map((row) => f(row.promptBytes))));
  const factor = f(f(requestWeight) * f(Math.ceil(f(delta / 5))));
  return Float32Array.from(rows, (row) => {
    if ((row.eligibility & mask) !== mask) return -Infinity;
    const cache = chunks === 0 ? 0 : f(f(cacheWeight) * f(row.matched / (chunks * CHUNK_BYTES)));
    const request = f(factor * f(f(f(Math.max(0, row.requests)) - min) / delta));
    const prefill = f(f(prefillWeight) * f(f(row.promptBytes) / scale));
    const score = f(f(cache - request) - prefill);
    return adapter !== 0 && row.adapters?.includes(adapter) ? f(score + f(adapterWeight)) : score;
  });
}

/** One of the k best at random: index into `scores`. Draws from the generator exactly as the kernel does. */
export function pickBest(scores: Float32Array, k: number, random: TwinRandom): number {
  const sorted = [...scores].sort((a, b) => b - a);
  const value = k === 1 ? sorted[0] : sorted[random.below(k)];
  const ties = [...scores.keys()].filter((i) => scores[i] === value);
  return ties[ties.length === 1 ? 0 : random.below(ties.length)];
}
