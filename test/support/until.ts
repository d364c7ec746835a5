// SPDX-License-Identifier: Apache-2.0
// Waiting for what is to happen, however long that takes on a busy machine: the bound is there to end a test that fails.

/** Polls until the condition holds. Throws Error, with what was waited for, when it does not within `ms`. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string | (() => string),
  ms = 30_000,
): Promise<void> {
  for (const end = performance.now() + ms; !await condition();) {
    if (performance.now() > end) {
      throw new Error(`It did not happen within ${ms} ms: ${typeof what === "string" ? what : what()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A gate that is closed until `open`. */
export function gate(): { readonly opened: Promise<void>; open(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: resolve };
}
