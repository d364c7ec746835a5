// SPDX-License-Identifier: Apache-2.0
// A log of lines in a file, or on standard output. Lines are buffered and written a few times a second; a full buffer drops
// lines and counts them, it never delays a request. Several threads append to one file, and any of them may find that it is
// large enough: whoever holds the file's lock moves it aside, the others notice and open the new one. Who reads standard
// output may be slow: that is written by the runtime's threads, in pieces that other writers of a pipe cannot cut.

import type { RotationConfig } from "../config/log.ts";

const FLUSH_MS = 200;
const MEGABYTE = 1_048_576;
const DAY_MS = 86_400_000;
/** Bytes that a pipe takes as one (POSIX asks for 512, Linux has 4096). */
const PIPE_BYTES = 4_096;

export interface LineFileOptions {
  /** A file to append to, or "-" for standard output. */
  readonly path: string;
  /** Most lines that wait to be written. */
  readonly lines: number;
  /** When the file is moved aside; it grows for ever without. */
  readonly rotation?: RotationConfig;
  /** In place of standard output. */
  readonly output?: { write(bytes: Uint8Array): Promise<number> };
  /** Is told, once for each time that it begins, that lines cannot be written. */
  readonly failed?: (error: Error) => void;
}

export class LineFile {
  #lines: string[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #file: Deno.FsFile | undefined;
  #closed = false;
  #failing = false;
  /** What is being written to standard output. */
  #writing: Promise<void> | undefined;
  /** Old files that are being compressed. */
  #tidying: Promise<void> = Promise.resolve();
  /** Lines that were not written. */
  dropped = 0;

  /** Throws what opening the file throws. */
  constructor(readonly options: LineFileOptions) {
    if (options.path !== "-") this.#file = open(options.path);
  }

  write(line: string): void {
    if (this.#lines.length >= this.options.lines) {
      this.dropped++;
      return;
    }
    this.#lines.push(line);
    this.#timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  /** Writes what is buffered. What cannot be written is dropped and counted. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const lines = this.#lines;
    if (lines.length === 0 || this.#writing) return;
    this.#lines = [];
    if (this.options.path === "-") {
      this.#writing = this.#print(lines).finally(() => {
        this.#writing = undefined;
        this.flush();
      });
      return;
    }
    try {
      this.#append(new TextEncoder().encode(`${lines.join("\n")}\n`));
      this.#failing = false;
    } catch (error) {
      this.#dropped(lines.length, error as Error);
    }
  }

  #dropped(lines: number, error: Error): void {
    this.dropped += lines;
    if (!this.#failing) this.options.failed?.(error);
    this.#failing = true;
  }

  async #print(lines: readonly string[]): Promise<void> {
    const sink = this.options.output ?? Deno.stdout;
    let written = 0;
    try {
      for (const { count, bytes } of pieces(lines)) {
        for (let at = 0; at < bytes.length;) at += await sink.write(bytes.subarray(at));
        written += count;
      }
      this.#failing = false;
    } catch (error) {
      this.#dropped(lines.length - written, error as Error);
    }
  }

  #append(bytes: Uint8Array): void {
    const { path } = this.options;
    if (this.#closed) {
      using own = open(path);
      return writeAll(own, bytes);
    }
    const file = this.#file ?? open(path);
    this.#file = undefined; // until it is known to be in order
    this.#file = this.#current(file);
    writeAll(this.#file, bytes);
  }

  // The file that has the name now; another thread, or another program, may have moved ours aside.
  #current(file: Deno.FsFile): Deno.FsFile {
    const { path, rotation } = this.options;
    const named = statOf(path);
    if (named === undefined || named.ino !== file.statSync().ino) {
      file.close();
      return open(path);
    }
    if (rotation === undefined || rotation.megabytes === 0 || named.size < rotation.megabytes * MEGABYTE) return file;
    file.lockSync(true);
    try {
      // Who had the lock before may have done it already.
      if (statOf(path)?.ino === named.ino) {
        Deno.renameSync(path, asideOf(path, new Date()));
        this.#tidying = this.#tidying.then(() => tidy(path, rotation)).catch((error) => this.options.failed?.(error));
      }
    } finally {
      file.close(); // the lock goes with it
    }
    return open(path);
  }

  /**
   * Writes what is buffered; resolves when standard output has it too. What is still written, by requests that go on where
   * another log has taken over, opens the file each time.
   */
  close(): Promise<void> {
    this.flush();
    this.#file?.close();
    this.#file = undefined;
    this.#closed = true;
    return this.#written();
  }

  async #written(): Promise<void> {
    while (this.#writing) await this.#writing;
  }

  /** Resolves when files that were moved aside are compressed, and those that are too many or too old are gone. */
  get tidied(): Promise<void> {
    return this.#tidying;
  }
}

// Whole lines, as many as a pipe takes as one; a line that is longer goes alone.
function* pieces(lines: readonly string[]): Generator<{ count: number; bytes: Uint8Array }> {
  const encoder = new TextEncoder();
  const piece = new Uint8Array(PIPE_BYTES);
  let [count, length] = [0, 0];
  for (const line of lines) {
    const bytes = encoder.encode(`${line}\n`);
    if (count > 0 && length + bytes.length > PIPE_BYTES) {
      yield { count, bytes: piece.slice(0, length) };
      [count, length] = [0, 0];
    }
    if (bytes.length > PIPE_BYTES) yield { count: 1, bytes };
    else {
      piece.set(bytes, length);
      length += bytes.length;
      count++;
    }
  }
  if (count > 0) yield { count, bytes: piece.slice(0, length) };
}

function open(path: string): Deno.FsFile {
  return Deno.openSync(path, { append: true, create: true });
}

function writeAll(sink: { writeSync(bytes: Uint8Array): number }, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += sink.writeSync(bytes.subarray(at));
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

// dir/name.log → ["dir/", "name", ".log"]
function partsOf(path: string): [folder: string, stem: string, extension: string] {
  const slash = path.lastIndexOf("/") + 1;
  const dot = path.lastIndexOf(".");
  const end = dot > slash ? dot : path.length;
  return [path.slice(0, slash), path.slice(slash, end), path.slice(end)];
}

/** Name of a log that was moved aside at a time: dir/name-2026-11-25T10-00-00.000.log */
export function asideOf(path: string, time: Date): string {
  const [folder, stem, extension] = partsOf(path);
  return `${folder}${stem}-${time.toISOString().slice(0, -1).replaceAll(":", "-")}${extension}`;
}

const TIME = /^(\d{4}-\d\d-\d\dT)(\d\d)-(\d\d)-(\d\d\.\d{3})$/;

interface Aside {
  readonly path: string;
  readonly at: number;
}

/** Logs of a path that were moved aside, the youngest first. */
async function asidesOf(path: string): Promise<Aside[]> {
  const [folder, stem, extension] = partsOf(path);
  const found: Aside[] = [];
  for await (const { name } of Deno.readDir(folder === "" ? "." : folder)) {
    const plain = name.endsWith(".gz") ? name.slice(0, -3) : name;
    if (!plain.startsWith(`${stem}-`) || !plain.endsWith(extension)) continue;
    const time = TIME.exec(plain.slice(stem.length + 1, plain.length - extension.length));
    if (time) found.push({ path: `${folder}${name}`, at: Date.parse(`${time[1]}${time[2]}:${time[3]}:${time[4]}Z`) });
  }
  return found.sort((a, b) => b.at - a.at);
}

async function tidy(path: string, { files, days, compress }: RotationConfig): Promise<void> {
  const asides = await asidesOf(path);
  const oldest = days === 0 ? -Infinity : Date.now() - days * DAY_MS;
  for (const [i, { path: aside, at }] of asides.entries()) {
    if ((files > 0 && i >= files) || at < oldest) await removed(aside);
    else if (compress && !aside.endsWith(".gz")) await compressed(aside);
  }
}

// Another thread may have been there first.
async function removed(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function compressed(path: string): Promise<void> {
  const part = `${path}.${crypto.randomUUID()}.part`;
  try {
    const from = await Deno.open(path);
    const to = await Deno.create(part);
    await from.readable.pipeThrough(new CompressionStream("gzip")).pipeTo(to.writable);
    await Deno.rename(part, `${path}.gz`);
  } catch (error) {
    await removed(part);
    if (!(error instanceof Deno.errors.NotFound)) throw error; // another thread has done it
  }
  await removed(path);
}
