// SPDX-License-Identifier: Apache-2.0
// Server-sent events in bytes that hold whole events (as EventBoundary hands them on). For the few events of a stream
// that are looked into; the others pass without being split.

const LF = 10;
const CR = 13;

const decoder = new TextDecoder();

/** Calls `visit` with the byte range of each event, the empty line that ends it included, and of a rest without one. */
export function forEachEvent(bytes: Uint8Array, visit: (start: number, end: number) => void): void {
  let start = 0;
  let lineStart = 0;
  for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, at + 1)) {
    const empty = at === lineStart || (at === lineStart + 1 && bytes[lineStart] === CR);
    lineStart = at + 1;
    if (!empty) continue;
    visit(start, lineStart);
    start = lineStart;
  }
  if (start < bytes.length) visit(start, bytes.length);
}

/** The data of an event: its `data` lines joined by line feeds; undefined when it has none. */
export function eventData(bytes: Uint8Array, start: number, end: number): string | undefined {
  let data: string | undefined;
  for (const line of decoder.decode(bytes.subarray(start, end)).split(/\r\n|\n|\r/)) {
    if (!line.startsWith("data:") && line !== "data") continue;
    const value = line.slice(line[5] === " " ? 6 : 5);
    data = data === undefined ? value : `${data}\n${value}`;
  }
  return data;
}

/** The data of an event as JSON; undefined when there is none or it is no JSON (as `[DONE]`). */
export function eventJson(bytes: Uint8Array, start: number, end: number): unknown {
  const data = eventData(bytes, start, end);
  if (data === undefined) return undefined;
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}
