// SPDX-License-Identifier: Apache-2.0
// A direct server of its own, and clients that write what they like.

import { systemClock } from "../../src/base/clock.ts";
import { concat } from "../../src/base/bytes.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { DirectServer, type DirectServerParts } from "../../src/front/direct/server.ts";
import { type HttpRequest, HttpResponse } from "../../src/front/http/exchange.ts";
import { bytes } from "./raw_server.ts";

type Answer = DirectServerParts["answer"];

interface Seen {
  readonly line: string;
  readonly body: string;
}

/** Reads the body, and says what was asked. */
export async function echo(request: HttpRequest): Promise<HttpResponse> {
  const reader = request.reader();
  const pieces: Uint8Array[] = [];
  if (reader && request.fields.get("x-whole") === null) {
    for (let next = await reader.read(); next.value; next = await reader.read()) pieces.push(next.value);
  } else pieces.push(await request.bytes());
  return new HttpResponse(200, `${request.method} ${request.target} ${new TextDecoder().decode(concat(pieces))}`);
}

export function serve(answer: Answer = echo, limits: Partial<DirectServerParts["limits"]> = {}, connections = 0) {
  const seen: Seen[] = [];
  const counts = { connections: 0, refused: 0, left: 0 };
  const deadlines = new Deadlines(systemClock, 10);
  // Any port that is free; the server does not tell which one it got.
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = probe.addr as Deno.NetAddr;
  probe.close();
  const server = new DirectServer({ hostname: "127.0.0.1", port }, {
    deadlines,
    limits: { headBytes: 4_096, headFields: 20, headMs: 60_000, idleMs: 60_000, lookMs: 10, ...limits },
    bounds: { connections, connectionsPerAddress: 0 },
    counted: (change) => counts.connections += change,
    refused: () => counts.refused++,
    async answer(request) {
      request.whenLeft(() => counts.left++);
      try {
        const response = await answer(request);
        const body = typeof response.body === "string" ? response.body : "";
        seen.push({ line: `${request.method} ${request.target}`, body });
        return response;
      } catch (error) {
        return new HttpResponse(400, String(error));
      }
    },
  });
  const stop = async () => {
    await server.shutdown();
    deadlines.close();
  };
  return { port, seen, counts, server, stop, [Symbol.asyncDispose]: stop };
}

/** Sends pieces and reads to the end of what comes back. */
export async function exchange(port: number, pieces: readonly Uint8Array[], pauseMs = 0): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  connection.setNoDelay(true);
  const reading = (async () => {
    const got: Uint8Array[] = [];
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
        got.push(buffer.slice(0, n));
      }
    } catch {
      // reset
    }
    return new TextDecoder().decode(concat(got));
  })();
  try {
    for (const [i, piece] of pieces.entries()) {
      if (i > 0 && pauseMs >= 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      for (let at = 0; at < piece.length;) at += await connection.write(piece.subarray(at));
    }
    await connection.closeWrite();
  } catch {
    // it was refused before all was written
  }
  return await reading;
}

export const statuses = (text: string) =>
  [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));
export const post = (body: string, more = "") =>
  `POST /p HTTP/1.1\r\nhost: x\r\n${more}content-length: ${bytes(body).length}\r\n\r\n${body}`;
