// SPDX-License-Identifier: Apache-2.0
// Whether a file may have changed since it was looked at last: by its inode, size and time, links followed.

export class FileStamp {
  #stamp = "";

  constructor(readonly path: string) {}

  /** True the first time, and whenever the file is another one than before, or has come or gone. */
  async changed(): Promise<boolean> {
    const stamp = await stampOf(this.path);
    if (stamp === this.#stamp) return false;
    this.#stamp = stamp;
    return true;
  }
}

async function stampOf(path: string): Promise<string> {
  try {
    const { ino, dev, size, mtime } = await Deno.stat(path);
    return `${dev} ${ino} ${size} ${mtime?.getTime()}`;
  } catch (error) {
    return (error as Error).name;
  }
}
