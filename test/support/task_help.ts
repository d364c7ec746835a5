// SPDX-License-Identifier: Apache-2.0
// --help of tasks that are scripts.

/** Prints how a task is used and ends, where its arguments ask for that. */
export function helpOf(usage: string): void {
  if (!Deno.args.includes("--help") && !Deno.args.includes("-h")) return;
  console.log(usage);
  Deno.exit(0);
}
