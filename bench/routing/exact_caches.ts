// SPDX-License-Identifier: Apache-2.0
// What simulated engines tell of their caches, to one gateway: as late as is wanted, and a part of it only when it is missed.

import type { Random } from "../../src/base/random.ts";
import type { BlockKey, CacheListener } from "../../src/mock/kv_cache.ts";
import type { AskedBlocks } from "../../src/tokens/prompt_tokens.ts";
import type { BlockIndex, BlockKeys } from "../../src/tables/block_index.ts";
import type { Fleet, Job } from "./simulator.ts";

/** A key stands for a whole block of an engine: tokens are counted in units, so many a block. */
const KEY_TOKENS = 16;
/** A batch that was lost comes with what is asked for when the next one comes. */
const REPLAY_MS = 100;

export interface EventDelay {
  readonly lagMs: number;
  /** Share of the batches that are lost at first. */
  readonly loss: number;
}

/** Listens to every engine of a fleet; several gateways may. */
export function listen(
  fleet: Fleet,
  index: BlockIndex,
  rows: readonly number[],
  delay: EventDelay,
  random: Random,
): void {
  fleet.engines.forEach(({ cache }, engine) => {
    const row = rows[engine];
    index.setBlockTokens(row, KEY_TOKENS);
    const held = new Set<BlockKey>();
    let last = 0;
    // In order: what is asked for comes before what came after it.
    const later = (apply: () => void): void => {
      const ms = delay.lagMs + (random.chance(delay.loss) ? REPLAY_MS : 0);
      if (ms === 0) return apply();
      last = Math.max(last, fleet.now + ms);
      fleet.after(last - fleet.now, apply);
    };
    const change = (keys: readonly BlockKey[], add: boolean): void =>
      later(() => {
        const changed = keys.filter((key) => held.has(key) !== add);
        for (const key of changed) add ? held.add(key) : held.delete(key);
        const words = keysOf(changed);
        if (add) index.hold(row, words, changed.length);
        else index.drop(row, words, changed.length);
      });
    const before = cache.listener;
    const listener: CacheListener = {
      stored(keys, from, to) {
        before?.stored(keys, from, to);
        change(keys.slice(from, to), true);
      },
      removed(keys) {
        before?.removed(keys);
        change(keys, false);
      },
      cleared() {
        before?.cleared();
        later(() => {
          index.drop(row, keysOf([...held]), held.size);
          held.clear();
        });
      },
    };
    cache.listener = listener;
  });
}

/** A job's prompt as keys, in the blocks that all engines have. */
export function blocksOf({ keys, inputTokens }: Job, blockTokens: number): AskedBlocks {
  const tokens = Math.ceil(inputTokens * KEY_TOKENS / blockTokens);
  return {
    blocks: { keys: keysOf(keys.of(blockTokens)), tokens },
    done: Promise.resolve(),
    soon: Promise.resolve(),
  };
}

function keysOf(ids: readonly BlockKey[]): BlockKeys {
  const keys = new Uint32Array(2 * ids.length);
  ids.forEach((id, i) => {
    keys[2 * i] = Math.imul(Number(id) + 1, 0x9e3779b1);
    keys[2 * i + 1] = Math.imul(Number(id) ^ 0x5bd1e995, 0x85ebca6b);
  });
  return keys;
}
