// SPDX-License-Identifier: Apache-2.0
// The access log and the log of texts of a worker. Their files stay open under the snapshots that name the same ones.

import type { Config } from "../config/schema.ts";
import { AccessLog } from "../telemetry/access_log.ts";
import { LlmLog } from "../telemetry/llm_log.ts";
import type { Log } from "../telemetry/log.ts";

export class WorkerLogs {
  #access: AccessLog | undefined;
  #texts: LlmLog | undefined;
  /** What they were opened with. */
  #accessOptions = "";
  #textsOptions = "";

  /** By logs before these. */
  readonly #dropped = { access: 0, texts: 0 };

  constructor(readonly log: Log) {}

  /** Lines that were dropped, by logs before too. */
  get dropped(): { access: number; texts: number } {
    return {
      access: this.#dropped.access + (this.#access?.dropped ?? 0),
      texts: this.#dropped.texts + (this.#texts?.dropped ?? 0),
    };
  }

  get access(): AccessLog | undefined {
    return this.#access;
  }

  get texts(): LlmLog | undefined {
    return this.#texts;
  }

  /** A configuration comes into force. */
  configure({ log: { enabled, path, format, sample, lines, rotation, llm } }: Config): void {
    const options = { path, format, sample, lines, rotation };
    const access = enabled ? JSON.stringify(options) : "";
    if (access !== this.#accessOptions) {
      this.#access?.close();
      this.#dropped.access += this.#access?.dropped ?? 0;
      this.#access = enabled ? new AccessLog(options, this.#failed(path)) : undefined;
      this.#accessOptions = access;
    }
    const texts = llm.enabled ? JSON.stringify(llm) : "";
    if (texts !== this.#textsOptions) {
      this.#texts?.close();
      this.#dropped.texts += this.#texts?.dropped ?? 0;
      this.#texts = llm.enabled ? new LlmLog(llm, this.#failed(llm.path)) : undefined;
      this.#textsOptions = texts;
    }
  }

  #failed(path: string): (error: Error) => void {
    return ({ message }) => this.log.error("a log cannot be written", { path, error: message });
  }

  /** Resolves when everything is written. */
  async close(): Promise<void> {
    await Promise.all([this.#access?.close(), this.#texts?.close()]);
  }
}
