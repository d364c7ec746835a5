// SPDX-License-Identifier: Apache-2.0
// What this machine has.

/** A port that nobody listens on now. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Whether a program is installed. */
export function installed(program: string): boolean {
  return new Deno.Command("which", { args: [program], stdout: "null", stderr: "null" }).outputSync().success;
}
