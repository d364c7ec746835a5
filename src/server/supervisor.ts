// SPDX-License-Identifier: Apache-2.0
// Starts the data plane workers and keeps them: one that dies, fails or stops beating is ended, the load that it held is
// released, and another takes its place after a growing pause. One that is to be replaced serves until another does, and
// then finishes what it has.

import type { AttachedKernel, SharedKernel } from "../../wasm/kernel.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import { readCell } from "../tables/metric_cells.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Log } from "../telemetry/log.ts";
import type { ShownDecision } from "../gateway/decision_watch.ts";
import type { Snapshot } from "../config/snapshot.ts";
import type { Certificate, FromWorker, ToWorker, WorkerSetup } from "./protocol.ts";

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 10_000;
/** A worker that served this long is healthy: the next pause is the first again. */
const HEALTHY_MS = 30_000;
const WATCH_MS = 1_000;
/** A worker that has not beaten for this long hangs. */
const SILENT_MS = 10_000;
const ASKED = "restart was asked for";

export interface WorkerView {
  worker: number;
  state: "starting" | "serving" | "restarting";
  restarts: number;
}

/** Worker areas beyond those in use: a worker that is replaced leaves its area to rest before another takes it. */
export const SPARE_AREAS = 4;
/** Of them, those that are kept for workers that die. */
const SPARES_KEPT = 2;
/** Within which one that is to take another's place has to serve. */
const START_MS = 30_000;
/** Beyond the deadline of one that is replaced, until it is ended. */
const LAST_WORDS_MS = 2_000;

interface Seat {
  readonly worker: number;
  /** Its area of the shared memory. */
  area: number;
  /** The last heartbeat seen, and when it was new, by this thread's own clock. */
  beat: number;
  beatAt: number;
  thread: Worker | undefined;
  state: WorkerView["state"];
  restarts: number;
  pauseMs: number;
  servingSince: number;
  cancelRestart: () => void;
  /** It is to have another's place once it serves; another is to have its. */
  replaces: boolean;
  replaced: boolean;
  /** Ends the wait for what it has to finish. */
  cancelLeaving: () => void;
}

function newSeat(worker: number, area: number): Seat {
  return {
    worker,
    area,
    beat: NaN,
    beatAt: 0,
    thread: undefined,
    state: "starting",
    restarts: 0,
    pauseMs: FIRST_PAUSE_MS,
    servingSince: 0,
    cancelRestart() {},
    replaces: false,
    replaced: false,
    cancelLeaving() {},
  };
}

/** Makes the thread of a worker, which begins with the message "start". */
export type NewThread = (name: string) => Worker;

const newThread: NewThread = (name) => new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name });

export interface SupervisorParts {
  readonly kernel: AttachedKernel;
  readonly shared: SharedKernel;
  readonly setup: WorkerSetup;
  readonly log: Log;
  readonly workers: number;
  readonly certificate: Certificate | undefined;
  /** Takes an area from its worker; returns how many requests were lost. */
  reap(area: number): number;
  /** Is told decisions of workers while somebody watches. */
  decided?(decision: ShownDecision): void;
  /** The system's by default. */
  readonly clock?: Clock;
  readonly thread?: NewThread;
}

export class Supervisor {
  readonly #seats: Seat[];
  /** Workers that have been replaced and finish what they have. */
  readonly #leaving = new Set<Seat>();
  /** Those that are to take their places, and do not serve yet. */
  readonly #starting = new Set<Seat>();
  readonly #spares: number[];
  #draining = false;
  #watched = false;
  /** Whether clients are asked to go elsewhere. */
  #ending = false;
  /** Whether all have served at once. */
  #started = false;
  #cancelWatch: () => void = () => {};
  #snapshot: Snapshot | undefined;
  #onDrained: (seat: Seat, cut: number) => void = () => {};

  readonly kernel: AttachedKernel;
  readonly log: Log;
  readonly clock: Clock;
  certificate: Certificate | undefined;

  constructor(readonly parts: SupervisorParts) {
    const { workers } = parts;
    this.kernel = parts.kernel;
    this.log = parts.log;
    this.clock = parts.clock ?? systemClock;
    this.certificate = parts.certificate;
    this.#spares = Array.from({ length: SPARE_AREAS }, (_, i) => workers + 1 + i);
    this.#seats = Array.from({ length: workers }, (_, i) => newSeat(i + 1, i + 1));
  }

  /** Starts every worker; resolves when all serve. Rejects, with all ended, when one cannot. */
  async start(): Promise<void> {
    try {
      await Promise.all(this.#seats.map((seat) => this.#begin(seat)));
    } catch (error) {
      for (const seat of this.#seats) {
        seat.cancelRestart();
        seat.thread?.terminate();
      }
      throw error;
    }
    this.#started = true;
    this.#watchHearts();
  }

  #begin(seat: Seat): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const thread = (this.parts.thread ?? newThread)(`worker-${seat.worker}`);
    seat.thread = thread;
    seat.state = "starting";
    seat.beat = NaN;
    seat.beatAt = this.clock.now();
    thread.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (seat.thread !== thread) return; // said before it was lost, and heard after
      if (data.kind === "serving") {
        seat.state = "serving";
        seat.servingSince = this.clock.now();
        resolve();
        if (this.#watched) thread.postMessage({ kind: "watch", open: true } satisfies ToWorker);
        if (this.#ending) thread.postMessage({ kind: "leave" } satisfies ToWorker);
      } else if (data.kind === "decision") this.parts.decided?.(data.decision);
      else if (data.kind === "drained") {
        if (this.#leaving.has(seat)) this.#left(seat, data.cut);
        else this.#onDrained(seat, data.cut);
      } else if (data.kind === "certificate") {
        if (data.error !== null) this.log.error("a worker cannot use the new certificate", { error: data.error });
      } else this.#lost(seat, thread, data.message, reject);
    };
    thread.onerror = (event) => {
      event.preventDefault();
      this.#lost(seat, thread, event.message, reject);
    };
    thread.postMessage(
      {
        kind: "start",
        shared: this.parts.shared,
        worker: seat.area,
        seed: crypto.getRandomValues(new Uint32Array(1))[0],
        snapshot: this.#snapshot!,
        certificate: this.certificate,
        ...this.parts.setup,
      } satisfies ToWorker,
    );
    return promise;
  }

  #lost(seat: Seat, thread: Worker, why: string, reject: (error: Error) => void): void {
    if (seat.thread !== thread) return;
    thread.terminate();
    seat.thread = undefined;
    reject(new Error(`Worker ${seat.worker} cannot serve: ${why}`));
    if (this.#leaving.has(seat)) return this.#left(seat, 0);
    // Termination is a request to the thread, not its end: the area is fenced off and rests while another is used.
    const released = this.parts.reap(seat.area);
    this.#spares.push(seat.area);
    if (seat.replaces && seat.state === "starting") return; // who it was to replace goes on
    seat.area = this.#spares.shift()!;
    this.log[why === ASKED ? "info" : "error"]("worker lost", { worker: seat.worker, why, released });
    if (this.#draining) {
      this.#onDrained(seat, 0);
      return;
    }
    if (!this.#started && seat.state !== "serving" && seat.restarts === 0) return; // the first start fails as a whole
    if (seat.state === "serving" && this.clock.now() - seat.servingSince > HEALTHY_MS) seat.pauseMs = FIRST_PAUSE_MS;
    seat.state = "restarting";
    seat.restarts++;
    seat.cancelRestart = this.clock.after(seat.pauseMs, () => {
      this.parts.reap(seat.area); // what the area's last worker may have been in the middle of
      this.#begin(seat).catch(() => {/* logged where it was lost */});
    });
    seat.pauseMs = Math.min(LONGEST_PAUSE_MS, seat.pauseMs * 2);
  }

  #watchHearts(): void {
    this.#cancelWatch = this.clock.after(WATCH_MS, () => this.#watchHearts());
    const now = this.clock.now();
    for (const seat of this.#seats) {
      if (!seat.thread) continue;
      const beat = readCell(this.kernel, seat.area, WORKER_CELLS.heartbeat);
      if (beat !== seat.beat) {
        seat.beat = beat;
        seat.beatAt = now;
      } else if (now - seat.beatAt > SILENT_MS) {
        this.#lost(seat, seat.thread, `no heartbeat for ${SILENT_MS} ms`, () => {});
      }
    }
  }

  /** Hands a snapshot to every worker, now and later. */
  publish(snapshot: Snapshot): void {
    this.#snapshot = snapshot;
    this.#tell({ kind: "snapshot", snapshot });
  }

  /** The same for the certificate of the HTTPS listener. */
  renew(certificate: Certificate): void {
    this.certificate = certificate;
    // One that has been replaced listens no more.
    const told: ToWorker = { kind: "certificate", certificate };
    for (const { thread } of [...this.#seats, ...this.#starting]) thread?.postMessage(told);
  }

  /** Whether workers are to tell decisions. */
  watch(open: boolean): void {
    this.#watched = open;
    this.#tell({ kind: "watch", open });
  }

  /** Asks clients to go elsewhere: a drain is to come. */
  leave(): void {
    this.#ending = true;
    this.#tell({ kind: "leave" });
  }

  #tell(message: ToWorker): void {
    for (const { thread } of this.#threads()) thread?.postMessage(message);
  }

  #threads(): Seat[] {
    return [...this.#seats, ...this.#leaving, ...this.#starting];
  }

  /** The oldest snapshot that a request of any worker was begun with. */
  get oldestSnapshot(): number {
    let oldest = Infinity;
    for (const { thread, area } of this.#threads()) {
      if (thread) oldest = Math.min(oldest, readCell(this.kernel, area, WORKER_CELLS.snapshot));
    }
    return oldest;
  }

  /** Ends a worker at once, as a crash would; another takes its place. False when there is no such worker serving. */
  kill(worker: number): boolean {
    const seat = this.#seats.find((one) => one.worker === worker);
    if (!this.#started || !seat?.thread) return false;
    this.#lost(seat, seat.thread, ASKED, () => {});
    return true;
  }

  /**
   * Replaces a worker: another serves before it stops to accept, and it finishes what it has up to the deadline. Resolves
   * when the other serves; false when there is no such worker serving, or all spare areas are in use. Rejects when the
   * other cannot serve: then everything is as before.
   */
  async replace(worker: number, deadlineMs: number): Promise<boolean> {
    const seat = this.#seats.find((one) => one.worker === worker);
    if (!this.#started || this.#draining || seat?.state !== "serving" || seat.replaced) return false;
    if (this.#spares.length <= SPARES_KEPT) return false;
    const { thread } = seat;
    const fresh = { ...newSeat(worker, this.#spares.shift()!), restarts: seat.restarts + 1, replaces: true };
    const late = Promise.withResolvers<never>();
    const cancelLate = this.clock.after(START_MS, () => {
      late.reject(new Error(`Worker ${worker} cannot be replaced: another did not serve within ${START_MS} ms`));
    });
    this.parts.reap(fresh.area);
    seat.replaced = true;
    this.#starting.add(fresh);
    try {
      await Promise.race([this.#begin(fresh), late.promise]);
    } catch (error) {
      this.#giveBack(fresh);
      throw error;
    } finally {
      cancelLate();
      seat.replaced = false;
      this.#starting.delete(fresh);
    }
    // It may have died meanwhile, and another may have its place.
    if (this.#draining || seat.thread !== thread || !this.#seats.includes(seat)) {
      this.#giveBack(fresh);
      return false;
    }
    fresh.replaces = false;
    this.#seats[this.#seats.indexOf(seat)] = fresh;
    this.#leaving.add(seat);
    seat.cancelLeaving = this.clock.after(deadlineMs + LAST_WORDS_MS, () => this.#left(seat, 0));
    thread!.postMessage({ kind: "drain", deadlineMs } satisfies ToWorker);
    return true;
  }

  // One that is not needed, or did not begin to serve in time.
  #giveBack(seat: Seat): void {
    if (seat.thread === undefined) return; // it was lost, and its area with it
    seat.thread.terminate();
    seat.thread = undefined;
    this.parts.reap(seat.area);
    this.#spares.push(seat.area);
  }

  #left(seat: Seat, cut: number): void {
    if (!this.#leaving.delete(seat)) return;
    seat.cancelLeaving();
    seat.thread?.terminate();
    seat.thread = undefined;
    const lost = this.parts.reap(seat.area);
    this.#spares.push(seat.area);
    this.log.info("a worker was replaced", { worker: seat.worker, cut, lost });
    if (this.#draining) this.#onDrained(seat, cut);
  }

  view(): WorkerView[] {
    return this.#seats.map(({ worker, state, restarts }) => ({ worker, state, restarts }));
  }

  /** Areas of the shared memory that workers have now. */
  areas(): { worker: number; area: number }[] {
    return this.#seats.map(({ worker, area }) => ({ worker, area }));
  }

  get serving(): number {
    return this.#seats.filter(({ state }) => state === "serving").length;
  }

  get restarts(): number {
    return this.#seats.reduce((sum, { restarts }) => sum + restarts, 0);
  }

  /** Stops accepting, waits for what is in flight up to the deadline, ends the workers. Returns how many requests were cut. */
  async drain(deadlineMs: number): Promise<number> {
    this.#draining = true;
    this.#cancelWatch();
    const waiting = new Set(this.#leaving);
    let total = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onDrained = (seat, cut) => {
      total += cut;
      waiting.delete(seat);
      if (waiting.size === 0) resolve();
    };
    for (const seat of this.#seats) {
      seat.cancelRestart();
      if (!seat.thread) continue;
      if (seat.state !== "serving") {
        // It would begin to accept while the others stop to.
        seat.thread.terminate();
        seat.thread = undefined;
        continue;
      }
      waiting.add(seat);
      seat.thread.postMessage({ kind: "drain", deadlineMs } satisfies ToWorker);
    }
    const cancelLate = this.clock.after(deadlineMs + 2_000, resolve);
    if (waiting.size > 0) await promise;
    cancelLate();
    for (const seat of this.#threads()) {
      seat.cancelLeaving();
      seat.thread?.terminate();
    }
    return total;
  }
}
