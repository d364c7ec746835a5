// SPDX-License-Identifier: Apache-2.0

/** A busy machine may take long; a test that waits in vain says for what. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 10;

/** Waits until a condition holds. Throws, saying what was waited for, when it does not for very long. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
