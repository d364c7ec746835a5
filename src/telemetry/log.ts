// SPDX-License-Identifier: Apache-2.0
// The gateway's own log: one JSON object a line on standard error.

const LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LEVELS)[number];

export class Log {
  constructor(public level: LogLevel, readonly source: string) {}

  debug(message: string, fields: Record<string, unknown> = {}): void {
    this.#write("debug", message, fields);
  }
  info(message: string, fields: Record<string, unknown> = {}): void {
    this.#write("info", message, fields);
  }
  warn(message: string, fields: Record<string, unknown> = {}): void {
    this.#write("warn", message, fields);
  }
  error(message: string, fields: Record<string, unknown> = {}): void {
    this.#write("error", message, fields);
  }

  #write(level: LogLevel, message: string, fields: Record<string, unknown>): void {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(this.level)) return;
    console.error(JSON.stringify({ time: new Date().toISOString(), level, source: this.source, message, ...fields }));
  }
}
