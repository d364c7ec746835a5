// SPDX-License-Identifier: Apache-2.0
// A Chromium that is installed on this machine, driven by playwright-core.

import { type Browser, chromium } from "playwright-core";

const PROGRAMS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** Undefined, with a message, where there is none. */
export async function startBrowser(): Promise<Browser | undefined> {
  const named = Deno.env.get("AIGW_TEST_CHROMIUM");
  for (const executablePath of named === undefined ? PROGRAMS : [named]) {
    try {
      await Deno.stat(executablePath);
    } catch {
      continue;
    }
    return await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  }
  console.log("skipped: there is no Chromium here");
}
