// SPDX-License-Identifier: Apache-2.0
// `deno task bench:live check|prediction|overload|retries`: a real gateway in front of mock engines on this machine.

import { check } from "./check.ts";
import { overload } from "./overload.ts";
import { prediction } from "./prediction.ts";
import { retries } from "./retries.ts";

const USAGE = `Usage: deno task bench:live COMMAND

  check FILE [REQUESTS] [SCALE] [DELAY]
                                  A trace through the gateway beside the simulation (1500 requests, 1.38 times its rate,
                                  no network; else so many ms each way, which are ten in the engines' time)
  prediction                      Errors of predicted times to the first token
  overload [SECONDS]              150 % load with and without protection (300 s)
  retries [SECONDS]               300 % by clients that retry at once, and what comes after (60 s each)`;

const [command, ...rest] = Deno.args;
if (command === "check" && rest.length >= 1) {
  await check(rest[0], Number(rest[1] ?? 1_500), Number(rest[2] ?? 1.38), Number(rest[3] ?? 0));
} else if (command === "prediction") await prediction();
else if (command === "overload") await overload(Number(rest[0] ?? 300));
else if (command === "retries") await retries(Number(rest[0] ?? 60));
else {
  console.error(USAGE);
  Deno.exit(2);
}
