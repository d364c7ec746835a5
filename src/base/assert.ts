// SPDX-License-Identifier: Apache-2.0
// Assertions that stay on in production: a broken invariant is reported where it breaks, not where it hurts.

/** Throws an Error when `condition` is false. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`Assertion failed: ${message}`);
}
