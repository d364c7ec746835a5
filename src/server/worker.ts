// SPDX-License-Identifier: Apache-2.0
// A data plane thread: attaches to the shared memory, listens, and serves by the snapshot that is in force.

import { attachKernel } from "../../wasm/kernel.ts";
import { systemClock } from "../base/clock.ts";
import { GatewayError } from "../base/errors.ts";
import { WorkerListeners } from "./worker_listeners.ts";
import type { FromWorker, StartWorker, ToWorker } from "./protocol.ts";
import { Serving } from "./serving.ts";
import { TICK_MS } from "./vitals.ts";

const TICKS_A_BEAT = 10;
/** For the error events of streams that the drain deadline cuts, and for the last lines of logs. */
const LAST_WORDS_MS = 500;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  postMessage(message: FromWorker): void;
  close(): void;
};

scope.onmessage = ({ data }) => {
  if (data.kind !== "start") return;
  try {
    start(data);
  } catch (error) {
    scope.postMessage({ kind: "failed", message: (error as Error).message });
  }
};

function start({ shared, worker, seed, snapshot, certificate, ...setup }: StartWorker): void {
  const serving = new Serving(attachKernel(shared, worker, seed), setup, snapshot, (decision) => {
    scope.postMessage({ kind: "decision", decision });
  });
  const stopBeating = beat(serving);
  const listeners = new WorkerListeners(setup, {
    direct: serving.direct,
    extProc: serving.extProc,
    failed(error) {
      // A client that left, or was let go, while its answer was streamed: accounted for by the pipeline.
      if (error instanceof GatewayError && error.code === "client_closed") return;
      serving.log.error("a request failed outside the pipeline", { error: String(error) });
    },
  });
  listeners.open(certificate).then(() => scope.postMessage({ kind: "serving" }), (error) => {
    scope.postMessage({ kind: "failed", message: (error as Error).message });
  });

  scope.onmessage = ({ data }) => {
    switch (data.kind) {
      case "snapshot":
        return serving.take(data.snapshot);
      case "certificate":
        return renew(listeners, data.certificate);
      case "leave":
        return serving.leave();
      case "watch":
        serving.watch.open = data.open;
        return;
      case "drain":
        return drain(serving, listeners, data.deadlineMs, stopBeating);
    }
  };
}

async function renew(listeners: WorkerListeners, certificate: { cert: string; key: string }): Promise<void> {
  try {
    await listeners.renew(certificate);
    scope.postMessage({ kind: "certificate", error: null });
  } catch (error) {
    scope.postMessage({ kind: "certificate", error: (error as Error).message });
  }
}

/** Beats, and lets the event loop's delay be sampled at every tick; returns what ends both. */
function beat(serving: Serving): () => void {
  const { ticks } = serving;
  // The first sample at once, so that the metric is there from the beginning.
  const began = systemClock.now();
  const first = setTimeout(() => serving.vitals.late(systemClock.now() - began));
  let cancel = (): void => {};
  let count = 0;
  const tick = (): void => {
    if (count++ % TICKS_A_BEAT === 0) serving.beat(serving.boundsMemory);
    cancel = ticks.after(TICK_MS, tick);
  };
  tick();
  return () => {
    clearTimeout(first);
    cancel();
  };
}

// Stops accepting and lets what is in flight finish; what is left at the deadline is told so and ends.
async function drain(
  serving: Serving,
  listeners: WorkerListeners,
  deadlineMs: number,
  stopBeating: () => void,
): Promise<void> {
  const over = listeners.close();
  await Promise.race([over, pause(deadlineMs)]);
  const cut = serving.cut();
  if (cut > 0) await Promise.race([over, pause(LAST_WORDS_MS)]);
  stopBeating();
  await Promise.race([serving.close(), pause(LAST_WORDS_MS)]);
  scope.postMessage({ kind: "drained", cut });
}
