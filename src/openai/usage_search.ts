// SPDX-License-Identifier: Apache-2.0
// Finds the usage in a JSON answer of any size while its pieces pass, holding no more of it than one usage object. Inside
// a text a quote is escaped, so what is searched for does not occur there. The last one found counts: engines tell it
// behind the answer.

import { readUsage, type Usage } from "./usage.ts";

const NAME = '"usage"';
/** Largest usage object that is read, its name and the white space around it included. */
const MAX_CHARACTERS = 16_384;
// One character a byte, in native code: figures and names of fields are ASCII.
const decoder = new TextDecoder("latin1");

export class UsageSearch {
  usage: Usage | undefined;
  /** What may be the beginning of one, from the pieces before. */
  #held = "";

  /** The next piece of the answer. */
  look(piece: Uint8Array): void {
    const text = this.#held + decoder.decode(piece);
    let from = 0;
    for (let at = text.indexOf(NAME); at >= 0; at = text.indexOf(NAME, from)) {
      from = at + NAME.length;
      if (text[at - 1] === "\\") continue;
      const end = objectEnd(text, from);
      if (end === undefined && text.length - at < MAX_CHARACTERS) {
        this.#held = text.slice(at);
        return;
      }
      if (end === undefined || end < 0) continue;
      this.#read(text.slice(text.indexOf("{", from), end));
      from = end;
    }
    // The name may be cut, and what is before it tells whether it is one.
    this.#held = text.slice(Math.max(from, text.length - NAME.length));
  }

  #read(text: string): void {
    try {
      this.usage = readUsage(JSON.parse(text)) ?? this.usage;
    } catch {
      // text that looks like one
    }
  }
}

/** Where the object behind a colon at `from` ends; undefined when it has not come yet, -1 when there is none. */
function objectEnd(text: string, from: number): number | undefined {
  const opening = /^\s*(?::\s*(?:(\{)|$)|$)/.exec(text.slice(from, from + 256));
  if (opening === null) return -1;
  if (opening[1] === undefined) return undefined;
  let depth = 0;
  for (const { index, 0: mark } of text.slice(from).matchAll(/"(?:[^"\\]|\\.)*"|["{}]/gs)) {
    if (mark === '"') return undefined; // a text that has not ended
    if (mark === "{") depth++;
    else if (mark === "}" && --depth === 0) return from + index + 1;
  }
  return undefined;
}
