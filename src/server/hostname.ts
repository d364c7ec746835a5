// SPDX-License-Identifier: Apache-2.0

/** This machine's name, as far as it may be known. */
export function hostname(): string {
  try {
    return Deno.hostname();
  } catch {
    return "aigw";
  }
}
