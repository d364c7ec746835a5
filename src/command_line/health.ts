// SPDX-License-Identifier: Apache-2.0
// `aigw health`: whether a gateway is ready, for images without curl.

import type { Command } from "./command.ts";
import { UsageError } from "./command.ts";

const TIMEOUT_MS = 2_000;

export const healthCommand: Command = {
  name: "health",
  summary: "Say whether a gateway is ready; exit status 1 when it is not",
  operands: { shown: "[URL]", least: 0, most: 1 },
  options: [],
  notes: "URL is the gateway's; that of the environment's AIGW_HEALTH_URL, or http://127.0.0.1:10000, if not given.",
  async run(given) {
    const [text = Deno.env.get("AIGW_HEALTH_URL") || "http://127.0.0.1:10000"] = given.arguments;
    if (!/^https?:\/\//.test(text) || !URL.canParse(text)) throw new UsageError(`health: "${text}" is no URL`);
    try {
      const response = await fetch(new URL("/health?ready", text), { signal: AbortSignal.timeout(TIMEOUT_MS) });
      const { error } = response.ok ? { error: undefined } : await response.json();
      if (error?.code === "route_not_found") {
        throw new Error(`there is no gateway at ${text} (its own address is wanted, not the admin's)`);
      }
      console.log(response.ok ? "ready" : `not ready: ${error?.message ?? response.status}`);
      return response.ok ? 0 : 1;
    } catch (error) {
      console.log(`not ready: ${(error as Error).message}`);
      return 1;
    }
  },
};
