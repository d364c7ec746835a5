// SPDX-License-Identifier: Apache-2.0
// Test data that is kept beside the checkout and does not travel with it: tests that need it are skipped without it.

const root = new URL("../../../shared/", import.meta.url);

/** The text of a file of the data folder, or undefined (with a message) when the folder is absent. */
export function sharedText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(new URL(path, root));
  } catch {
    console.log(`skipped: ../shared/${path} is not here`);
    return undefined;
  }
}
