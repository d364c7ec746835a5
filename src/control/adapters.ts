// SPDX-License-Identifier: Apache-2.0
// The LoRA adapters that an engine has loaded. Its metrics name those that requests run or wait on; it keeps as many as it
// has places for, so those seen last are presumed to be there still.

export class LoadedAdapters {
  /** The one seen last comes last. */
  #names: string[] = [];

  get names(): readonly string[] {
    return this.#names;
  }

  /** Takes in what an engine reported; true when that changed what it holds. */
  seen({ names, max }: { names: string[]; max: number }): boolean {
    const before = this.#names;
    const kept = before.filter((name) => !names.includes(name));
    this.#names = [...kept, ...names].slice(-Math.max(1, max, names.length));
    return this.#names.length !== before.length || this.#names.some((name) => !before.includes(name));
  }

  /** The engine was restarted. */
  forget(): void {
    this.#names = [];
  }
}
