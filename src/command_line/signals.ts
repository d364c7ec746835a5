// SPDX-License-Identifier: Apache-2.0
// The wish that a process ends.

/** A terminal and a task runner may both pass one Ctrl-C on: only a later one is a second wish. */
const SAME_SIGNAL_MS = 1_000;

/** Resolves at the first SIGTERM or SIGINT; one that comes a second or more later ends the process at once. */
export function terminationSignal(): Promise<Deno.Signal> {
  return new Promise((resolve) => {
    let first: number | undefined;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      Deno.addSignalListener(signal, () => {
        first ??= performance.now();
        if (performance.now() - first > SAME_SIGNAL_MS) Deno.exit(signal === "SIGINT" ? 130 : 143);
        resolve(signal);
      });
    }
  });
}
