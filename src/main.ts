// SPDX-License-Identifier: Apache-2.0
// The entry point. Exit status: 0 done, 1 failed, 2 wrong usage.

import { UsageError } from "./command_line/command.ts";
import { runCommand } from "./command_line/commands.ts";
import { ConfigError } from "./config/load.ts";

if (import.meta.main) {
  try {
    Deno.exit(await runCommand(Deno.args));
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(error.message);
      Deno.exit(2);
    }
    const expected = error instanceof ConfigError || error instanceof Error && /^(Cannot|Worker) /.test(error.message);
    console.error(expected ? (error as Error).message : error);
    Deno.exit(1);
  }
}
