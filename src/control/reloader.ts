// SPDX-License-Identifier: Apache-2.0
// Keeps the running configuration that of its files. A change that is valid is applied as a whole; one that is not is
// refused with its error, and what was in force stays. What only a new process can take on is named.

import type { Clock } from "../base/clock.ts";
import { readAccess } from "../config/access.ts";
import { FileStamp } from "../config/file_stamp.ts";
import { checkRelations, type Config } from "../config/schema.ts";
import { type ConfigDiff, diff, keepFixed } from "../config/snapshot.ts";
import { RegistryFull } from "../tables/registry.ts";
import type { Log } from "../telemetry/log.ts";
import type { ControlPlane } from "./control_plane.ts";

/** Where the configuration comes from. */
export interface ConfigSource {
  /** For messages: the file's path. */
  readonly name: string;
  /** Reads and validates it. Throws ConfigError. */
  load(): Promise<Config>;
  /** Files that a change of any of them changes it. */
  files(config: Config): readonly string[];
}

export interface ReloadResult {
  readonly result: "applied" | "unchanged" | "refused";
  /** Why it was refused; null when it was not. */
  readonly error: string | null;
  readonly changes: ConfigDiff | null;
}

/** What `/config` and the metrics tell of it. */
export interface ReloadView {
  readonly source: string;
  readonly version: number;
  /** Ms since the epoch: since when this configuration is in force, and when it was last read and found valid. */
  readonly in_force_since: number;
  readonly last_success: number;
  /** Why the last change was refused; null when none was. */
  readonly last_error: string | null;
  readonly restart_needed_for: readonly string[];
  readonly counts: Readonly<Record<ReloadResult["result"], number>>;
}

export interface ReloaderParts {
  readonly source: ConfigSource;
  readonly control: ControlPlane;
  readonly clock: Clock;
  readonly log: Log;
  /**
   * Looks at what is beside the snapshot, certificates; returns what puts it into force with the configuration. Throws when
   * it cannot be used: then nothing of the change applies.
   */
  prepare(config: Config): Promise<() => void>;
}

export class Reloader {
  readonly #counts = { applied: 0, unchanged: 0, refused: 0 };
  #stamps: FileStamp[] = [];
  #files = "";
  #since: number;
  #lastSuccess: number;
  #lastError: string | null = null;
  #restart: readonly string[] = [];
  #running: Promise<ReloadResult> | undefined;
  /** The reload after the one that is running, for all that asked for one meanwhile. */
  #next: Promise<ReloadResult> | undefined;
  #cancel: () => void = () => {};
  #stopped = false;
  /** A valid change found no rows: they come free when what has left is forgotten, without a change of the files. */
  #waitsForRows = false;

  constructor(readonly parts: ReloaderParts) {
    this.#since = this.#lastSuccess = parts.clock.wall();
  }

  /** Watches the files from now on, as the configuration wants it. */
  async start(): Promise<void> {
    await this.#changed();
    this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  #schedule(): void {
    if (this.#stopped) return;
    const { reload } = this.parts.control.config;
    this.#cancel = this.parts.clock.after(reload.interval_ms, async () => {
      const changed = this.parts.control.config.reload.watch && await this.#changed();
      if (changed) await this.reload("a file changed");
      else if (this.#waitsForRows) await this.reload("rows may have come free");
      this.#schedule();
    });
  }

  // Whether any of the files may have changed since this was asked last.
  async #changed(): Promise<boolean> {
    const { source, control } = this.parts;
    const files = source.files(control.config);
    if (JSON.stringify(files) !== this.#files) {
      this.#files = JSON.stringify(files);
      this.#stamps = files.map((file) => new FileStamp(file));
    }
    const changes = await Promise.all(this.#stamps.map((stamp) => stamp.changed()));
    return changes.includes(true);
  }

  /** Reads the configuration and puts it into force; what is asked for meanwhile is read once more, after that. */
  reload(why: string): Promise<ReloadResult> {
    if (this.#running === undefined) return this.#begin(why);
    return this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      return this.#begin(why);
    });
  }

  #begin(why: string): Promise<ReloadResult> {
    const running = this.#reload(why).then((result) => {
      if (this.#next === undefined) this.#running = undefined;
      return result;
    });
    return this.#running = running;
  }

  async #reload(why: string): Promise<ReloadResult> {
    const { source, control, clock, log } = this.parts;
    try {
      const wanted = await source.load();
      const access = await readAccess(wanted, source.name);
      if (this.#stopped) throw new Error("the gateway is stopping");
      const running = control.config;
      const { restart } = diff(running, wanted);
      const kept = keepFixed(running, wanted);
      const issues = restart.length === 0 ? [] : checkRelations(kept);
      if (issues.length > 0) {
        const listed = issues.map(({ path, message }) => `${path}: ${message}`).join("; ");
        throw new Error(`it does not fit the running process without a restart (${restart.join(", ")}): ${listed}`);
      }
      const changes = { ...diff(running, kept), restart };
      const commit = await this.parts.prepare(kept);
      const succeeded = () => {
        this.#lastSuccess = clock.wall();
        this.#lastError = null;
        this.#restart = restart;
        this.#waitsForRows = false;
        commit();
      };
      const same = changes.sections.length === 0 &&
        JSON.stringify([...access]) === JSON.stringify([...control.snapshot.access]);
      if (same) {
        // What was refused is undone.
        if (this.#lastError !== null) log.info("the configuration is the one in force again", { source: source.name });
        succeeded(); // a certificate is no value of the configuration
        this.#counts.unchanged++;
        return { result: "unchanged", error: null, changes };
      }
      control.apply(kept, access);
      succeeded();
      this.#since = clock.wall();
      this.#counts.applied++;
      log.info("the configuration was reloaded", { source: source.name, why, sections: changes.sections });
      if (restart.length > 0) {
        log.warn("a changed value needs a restart; the running one stays", { keys: restart });
      }
      return { result: "applied", error: null, changes };
    } catch (error) {
      const { message } = error as Error;
      if (this.#lastError !== message) {
        log.error("a changed configuration is refused; the running one stays", { source: source.name, error: message });
      }
      this.#lastError = message;
      this.#waitsForRows = error instanceof RegistryFull;
      this.#counts.refused++;
      return { result: "refused", error: message, changes: null };
    }
  }

  view(): ReloadView {
    return {
      source: this.parts.source.name,
      version: this.parts.control.snapshot.version,
      in_force_since: this.#since,
      last_success: this.#lastSuccess,
      last_error: this.#lastError,
      restart_needed_for: this.#restart,
      counts: { ...this.#counts },
    };
  }
}
