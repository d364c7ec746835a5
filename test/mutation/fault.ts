// SPDX-License-Identifier: Apache-2.0

export interface Fault {
  readonly name: string;
  readonly file: string;
  /** What stands there, once, and what the fault has in its place. */
  readonly was: string;
  readonly is: string;
  readonly tests: readonly string[];
}
