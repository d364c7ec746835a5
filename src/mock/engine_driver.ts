// SPDX-License-Identifier: Apache-2.0
// Runs an engine model in real time, `speed` times as fast as its profile says. Steps shorter than a timer can measure
// are run several at a time, so the speed holds on average.

import type { Clock } from "../base/clock.ts";
import type { EngineModel, Sequence } from "./engine_model.ts";

export class EngineDriver {
  #running = false;
  #stepEnd = 0;
  #cancelTimer: () => void = () => {};
  #stopped = false;
  #paused = false;
  /** Whether the step under way has come to its end while the engine was paused. */
  #stuck = false;

  constructor(readonly model: EngineModel, readonly clock: Clock, public speed = 1) {}

  submit(sequence: Sequence): void {
    this.model.submit(sequence);
    if (this.#running || this.#stopped) return;
    this.#running = true;
    this.#stepEnd = this.clock.now();
    this.#begin();
  }

  cancel(sequence: Sequence): void {
    this.model.cancel(sequence);
  }

  /** Lets no step end until `resume`: requests come in and nothing goes out. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    if (!this.#stuck || this.#stopped) return;
    this.#stuck = false;
    this.#stepEnd = this.clock.now();
    this.#advance();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancelTimer();
  }

  #begin(): void {
    const duration = this.model.beginStep();
    if (duration === undefined) {
      this.#running = false;
      return;
    }
    this.#stepEnd += duration / this.speed;
    this.#cancelTimer = this.clock.after(Math.max(0, this.#stepEnd - this.clock.now()), () => this.#advance());
  }

  #advance(): void {
    if (this.#paused) {
      this.#stuck = true;
      return;
    }
    for (let steps = 0; steps < 100; steps++) {
      this.model.endStep();
      const duration = this.model.beginStep();
      if (duration === undefined) {
        this.#running = false;
        return;
      }
      this.#stepEnd += duration / this.speed;
      if (this.#stepEnd > this.clock.now()) break;
    }
    // Far behind (the machine was busy): the lost time is lost.
    this.#stepEnd = Math.max(this.#stepEnd, this.clock.now() - 1_000);
    this.#cancelTimer = this.clock.after(Math.max(0, this.#stepEnd - this.clock.now()), () => this.#advance());
  }
}
