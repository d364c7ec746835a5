// SPDX-License-Identifier: Apache-2.0
// Limits a minute, shared by all workers: a sliding window made of the last minute's use and this one's,
//
//   used = last · (1 − part of this minute that has passed) + this + what other gateways used
//
// in one 64-bit word, so that a reservation is one compare-and-swap: two requests never both get the last token.

import { requestRow, tenantAt, tenants } from "./memory/plan";
import { TENANT_CONCURRENCY, TENANT_PRESUMED, TENANT_REMOTE, TENANT_TOTALS, TENANT_WINDOWS, WINDOWS } from "./memory/tenant";

const MINUTE_MS: f64 = 60_000;
/** When other gateways will have told what they use. */
const SOON_MS: f64 = 200;
const MAX_USE: u64 = (1 << 28) - 1;

@inline
function windowAt(tenant: u32, window: u32): usize {
  return tenantAt(tenant) + TENANT_WINDOWS + (<usize>window << 3);
}

@inline
function totalAt(tenant: u32, window: u32): usize {
  return tenantAt(tenant) + TENANT_TOTALS + (<usize>window << 3);
}

@inline
function pack(minute: u64, last: u64, current: u64): u64 {
  return ((minute & 255) << 56) | (last << 28) | current;
}

// The word as it is in this minute: minutes that passed move what was used on.
function advanced(word: u64, minute: u64): u64 {
  const passed = (minute - (word >> 56)) & 255;
  // 255: a thread that is still in the minute before.
  if (passed == 0 || passed == 255) return word;
  return pack(minute, passed == 1 ? word & MAX_USE : 0, 0);
}

@inline
function usedIn(word: u64, part: f64): f64 {
  return <f64>((word >> 28) & MAX_USE) * (1 - part) + <f64>(word & MAX_USE);
}

/** Used of a window in the last minute, by this gateway and the others. */
export function limitUsed(tenant: u32, window: u32, now: f64): f64 {
  const minute = <u64>(now / MINUTE_MS);
  const part = now / MINUTE_MS - <f64>minute;
  const remote = load<u32>(tenantAt(tenant) + TENANT_REMOTE + (<usize>window << 2));
  return usedIn(advanced(atomic.load<u64>(windowAt(tenant, window)), minute), part) + <f64>remote;
}

/**
 * Takes `amount` from a window of which `limit` may be used in a minute. Returns 0 when it was taken, else the ms until it
 * may be, without taking it; -1 when it never may.
 */
export function limitReserve(tenant: u32, window: u32, amount: f64, limit: f64, now: f64): f64 {
  if (amount > limit) return -1;
  const at = windowAt(tenant, window);
  const minute = <u64>(now / MINUTE_MS);
  const part = now / MINUTE_MS - <f64>minute;
  const remote = <f64>load<u32>(tenantAt(tenant) + TENANT_REMOTE + (<usize>window << 2));
  const presumed = <f64>load<u32>(tenantAt(tenant) + TENANT_PRESUMED + (<usize>window << 2));
  let before: u64;
  let after: u64;
  do {
    before = atomic.load<u64>(at);
    const word = advanced(before, minute);
    const used = usedIn(word, part) + remote;
    if (used + amount > limit) return waitMs(word, part, used + amount - limit);
    // A request may reach into the others' part once: it may be larger than a part.
    if (used + presumed >= limit && presumed > 0) return SOON_MS;
    after = (word & ~MAX_USE) | min((word & MAX_USE) + <u64>amount, MAX_USE);
  } while (atomic.cmpxchg<u64>(at, before, after) != before);
  atomic.add<i64>(totalAt(tenant, window), <i64>amount);
  return 0;
}

// Ms until `excess` has left the window: the last minute's use leaves evenly, then this one's.
function waitMs(word: u64, part: f64, excess: f64): f64 {
  const last = <f64>((word >> 28) & MAX_USE);
  const leaving = last * (1 - part);
  if (leaving >= excess && last > 0) return excess / last * MINUTE_MS;
  const current = max<f64>(1, <f64>(word & MAX_USE));
  return (1 - part) * MINUTE_MS + min<f64>(1, (excess - leaving) / current) * MINUTE_MS;
}

/**
 * Brings all windows to this minute. The control plane does so every minute: a word knows its minute by 8 bits, and one
 * that nobody touched for 256 minutes would be taken for this minute's.
 */
export function limitsAge(now: f64): void {
  const minute = <u64>(now / MINUTE_MS);
  for (let tenant: u32 = 0; tenant < tenants; tenant++) {
    for (let window: u32 = 0; window < WINDOWS; window++) {
      const at = windowAt(tenant, window);
      let word: u64;
      do {
        word = atomic.load<u64>(at);
      } while (atomic.cmpxchg<u64>(at, word, advanced(word, minute)) != word);
    }
  }
}

/** Adds to what was used, or gives back with a negative amount, when the true figure is known. */
export function limitSettle(tenant: u32, window: u32, amount: f64, now: f64): void {
  const at = windowAt(tenant, window);
  const minute = <u64>(now / MINUTE_MS);
  let before: u64;
  let after: u64;
  do {
    before = atomic.load<u64>(at);
    const word = advanced(before, minute);
    const current = max<f64>(0, min<f64>(<f64>MAX_USE, <f64>(word & MAX_USE) + amount));
    // What was reserved in the minute before is given back there.
    const over = min<f64>(0, <f64>(word & MAX_USE) + amount);
    const last = max<f64>(0, <f64>((word >> 28) & MAX_USE) + over);
    after = pack(word >> 56, <u64>last, <u64>current);
  } while (atomic.cmpxchg<u64>(at, before, after) != before);
  atomic.add<i64>(totalAt(tenant, window), <i64>amount);
}

/** Counts a row in its tenant's concurrency; 0 when `limit` requests are under way already. Its release takes it off. */
export function admit(row: u32, tenant: u32, limit: u32): u32 {
  const request = requestRow(row);
  const count = tenantAt(tenant) + TENANT_CONCURRENCY;
  request.tenant = tenant;
  request.admitted = 1;
  if (atomic.add<u32>(count, 1) < limit) return 1;
  request.admitted = 0;
  atomic.sub<u32>(count, 1);
  return 0;
}
