// SPDX-License-Identifier: Apache-2.0
// Limits a minute in tests: what was used before a minute ended fades after it.

/**
 * Runs a body within one minute: again, from its beginning, when it failed and a minute had ended meanwhile. `check` throws
 * once it has, for a body that waits.
 */
export async function withinOneMinute(body: (check: () => void) => Promise<void>): Promise<void> {
  const minute = () => Math.floor(Date.now() / 60_000);
  for (;;) {
    const began = minute();
    const check = (): void => {
      if (minute() !== began) throw new Error("the minute has ended");
    };
    try {
      return await body(check);
    } catch (error) {
      if (minute() === began) throw error;
      console.log(`a minute ended meanwhile, once more: ${error}`);
    }
  }
}
