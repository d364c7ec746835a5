// SPDX-License-Identifier: Apache-2.0
// What engines publish of their KV caches, as vLLM and SGLang write it: a batch is a msgpack array of a time in seconds,
// events, and the data-parallel rank. Events are maps tagged by "type", or, in older versions, arrays with the tag first. What
// is not known is passed over; absent fields are null.

import { decode } from "@msgpack/msgpack";

/** A hash by which an engine names a block, an unsigned number of 64 bits. */
export type BlockHash = bigint;

/** Blocks that a cache holds from now on, one after the other. */
export interface BlocksStored {
  readonly kind: "stored";
  readonly hashes: readonly BlockHash[];
  /** The block before the first one; undefined at the beginning of a prompt. */
  readonly parent: BlockHash | undefined;
  /** blockTokens of them for each hash. */
  readonly tokens: readonly number[];
  readonly blockTokens: number;
  readonly lora: string;
  /** For each block what else it depends on but its tokens and the adapter: digests of images, a salt; empty for nothing. */
  readonly extras: readonly string[] | undefined;
  /** Which of a model's caches: layers of different kinds have their own. */
  readonly group: number;
  /** Whether a prompt is found there by its prefix: not so of sliding windows and states. */
  readonly prefix: boolean;
}

export interface BlocksRemoved {
  readonly kind: "removed";
  readonly hashes: readonly BlockHash[];
  readonly group: number;
}

export interface CacheCleared {
  readonly kind: "cleared";
}

export type CacheEvent = BlocksStored | BlocksRemoved | CacheCleared;

export interface EventBatch {
  /** When the engine made it, ms since 1970 by its own clock. */
  readonly atMs: number;
  readonly rank: number;
  readonly events: readonly CacheEvent[];
}

/** A payload that is no batch of events, or an event without what it has to have. */
export class MalformedEvents extends Error {
  override readonly name = "MalformedEvents";
}

const ATTENTION = /^(full|mla|sink_full)_attention$/;
/** Where a block is that is found without being loaded first. */
const TIER = "GPU";
const STORED_FIELDS =
  "type block_hashes parent_block_hash token_ids block_size lora_id medium lora_name extra_keys group_idx kv_cache_spec_kind"
    .split(" ");
const REMOVED_FIELDS = "type block_hashes medium group_idx".split(" ");

type Fields = Record<string, unknown>;

/** @param maxTokens Most tokens of one event. Throws MalformedEvents. */
export function decodeBatch(payload: Uint8Array, maxTokens = 1_048_576): EventBatch {
  let batch: unknown;
  try {
    batch = decode(payload, { useBigInt64: true, maxArrayLength: maxTokens, maxMapLength: 64, maxExtLength: 0 });
  } catch (error) {
    throw new MalformedEvents(`no msgpack: ${(error as Error).message}`);
  }
  if (!Array.isArray(batch) || !Array.isArray(batch[1])) {
    throw new MalformedEvents("no batch: expected [time, events, rank]");
  }
  const [seconds, given, rank] = batch;
  const events: CacheEvent[] = [];
  for (const event of given) {
    const read = readEvent(event);
    if (read !== undefined) events.push(read);
  }
  return { atMs: numberOf(seconds, 0) * 1_000, rank: numberOf(rank, 0), events };
}

function readEvent(event: unknown): CacheEvent | undefined {
  const tag = Array.isArray(event) ? event[0] : (event as Fields | null)?.type;
  if (tag === "AllBlocksCleared") return { kind: "cleared" };
  if (tag === "BlockRemoved") {
    const { block_hashes, medium, group_idx } = fieldsOf(event, REMOVED_FIELDS);
    if (elsewhere(medium)) return undefined;
    return { kind: "removed", hashes: hashesOf(block_hashes), group: numberOf(group_idx, 0) };
  }
  if (tag !== "BlockStored") return undefined;
  const fields = fieldsOf(event, STORED_FIELDS);
  return elsewhere(fields.medium) ? undefined : readStored(fields);
}

// In a lower tier: what is stored there, and dropped, says nothing of the accelerator.
function elsewhere(medium: unknown): boolean {
  return typeof medium === "string" && medium !== TIER;
}

function readStored(fields: Fields): BlocksStored {
  const hashes = hashesOf(fields.block_hashes);
  const tokens = fields.token_ids;
  const blockTokens = numberOf(fields.block_size, 0);
  if (!Array.isArray(tokens) || !Number.isInteger(blockTokens) || blockTokens < 1) {
    throw new MalformedEvents("BlockStored wants token_ids and a block_size of 1 or more");
  }
  if (tokens.length !== hashes.length * blockTokens) {
    throw new MalformedEvents(`BlockStored has ${tokens.length} tokens in ${hashes.length} blocks of ${blockTokens}`);
  }
  for (const token of tokens) {
    if (typeof token !== "number") throw new MalformedEvents("BlockStored has a token that is no number below 2^32");
  }
  const parent = fields.parent_block_hash;
  const { lora_name, lora_id } = fields;
  const kind = fields.kv_cache_spec_kind;
  return {
    kind: "stored",
    hashes,
    parent: parent === null || parent === undefined || parent === 0 || parent === 0n ? undefined : hashOf(parent),
    tokens,
    blockTokens,
    lora: typeof lora_name === "string" ? lora_name : lora_id === null || lora_id === undefined ? "" : `#${lora_id}`,
    extras: extrasOf(fields, hashes.length),
    group: numberOf(fields.group_idx, 0),
    prefix: typeof kind !== "string" || ATTENTION.test(kind),
  };
}

function fieldsOf(event: unknown, names: readonly string[]): Fields {
  if (!Array.isArray(event)) return event as Fields;
  return Object.fromEntries(names.map((name, i) => [name, event[i]]));
}

function hashesOf(value: unknown): BlockHash[] {
  if (!Array.isArray(value)) throw new MalformedEvents("an event wants block_hashes");
  return value.map(hashOf);
}

// A number of 64 bits, signed or not, or bytes, of which the last eight count.
function hashOf(value: unknown): BlockHash {
  if (typeof value === "bigint") return BigInt.asUintN(64, value);
  if (typeof value === "number" && Number.isInteger(value)) return BigInt.asUintN(64, BigInt(value));
  if (value instanceof Uint8Array && value.length >= 8) {
    return new DataView(value.buffer, value.byteOffset + value.length - 8).getBigUint64(0);
  }
  throw new MalformedEvents("a block's hash is a number or eight bytes and more");
}

// Without what is the adapter's name or number, which stand in every block.
function extrasOf(
  { extra_keys, lora_name, lora_id, cache_salt, parent_block_hash }: Fields,
  blocks: number,
): string[] | undefined {
  // SGLang says it with every event; it is part of a prompt's first block.
  const salt = typeof cache_salt === "string" && parent_block_hash == null ? cache_salt : "";
  if (!Array.isArray(extra_keys)) return salt === "" ? undefined : [salt];
  let some = false;
  const extras = Array.from({ length: blocks }, (_, i) => {
    const of = extra_keys[i];
    const left = Array.isArray(of) ? of.filter((one) => one !== lora_name && one !== lora_id) : of === null ? [] : [of];
    if (left.length === 0 || of === undefined) return "";
    some = true;
    return left.length === 1 && typeof left[0] === "string" ? left[0] : JSON.stringify(left, plain);
  });
  return some ? extras : undefined;
}

function plain(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}` : value instanceof Uint8Array ? [...value] : value;
}

function numberOf(value: unknown, otherwise: number): number {
  if (typeof value === "bigint") return Number(value);
  return typeof value === "number" ? value : otherwise;
}
