// SPDX-License-Identifier: Apache-2.0
// A TCP server that answers each HTTP request with raw bytes, cut into writes as the test wants: what engines and broken
// networks do and no HTTP server would.

import { gate } from "./until.ts";

/** What to do with one request: the writes to make, and how to end. */
export interface RawAnswer {
  writes: Uint8Array[];
  /** keep: wait for the next request; close: end the connection; hang: say nothing more. */
  then: "keep" | "close" | "hang";
  /** Pause between the writes. */
  pauseMs?: number;
  /** What to wait for before a write, by its number, and before the end, by the count of the writes. */
  before?: (write: number) => Promise<unknown> | undefined;
}

export interface RawServer extends AsyncDisposable {
  readonly address: { hostname: string; port: number };
  /** Requests read so far, as text. */
  readonly requests: string[];
  readonly connections: number;
  /** Connections whose peer closed or reset them. */
  readonly closedByPeer: number;
}

export const bytes = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** Starts a server; `answer` is asked for every request with its number. */
export function startRawServer(
  answer: (request: string, n: number) => RawAnswer,
  hostname = "127.0.0.1",
): RawServer {
  const listener = Deno.listen({ hostname, port: 0 });
  const open = new Set<Deno.TcpConn>();
  const state = { requests: [] as string[], connections: 0, closedByPeer: 0 };
  const over = gate();
  const serve = async (connection: Deno.TcpConn): Promise<void> => {
    open.add(connection);
    connection.setNoDelay(true);
    try {
      for (;;) {
        const request = await readRequest(connection);
        if (request === undefined) {
          state.closedByPeer++;
          break;
        }
        const { writes, then, pauseMs, before } = answer(request, state.requests.push(request) - 1);
        for (const [i, write] of writes.entries()) {
          if (before !== undefined) await Promise.race([before(i), over.opened]);
          if (i > 0 && pauseMs !== undefined) await new Promise((resolve) => setTimeout(resolve, pauseMs));
          for (let at = 0; at < write.length;) at += await connection.write(write.subarray(at));
        }
        if (before !== undefined) await Promise.race([before(writes.length), over.opened]);
        if (then === "close") break;
        if (then === "hang") {
          while (await connection.read(new Uint8Array(1_024)) !== null);
          state.closedByPeer++;
          break;
        }
      }
    } catch {
      state.closedByPeer++;
    }
    open.delete(connection);
    try {
      connection.close();
    } catch {
      // closed by the test's end
    }
  };
  const serving = new Set<Promise<void>>();
  const accepting = (async () => {
    for await (const connection of listener) {
      state.connections++;
      const served = serve(connection).finally(() => serving.delete(served));
      serving.add(served);
    }
  })();
  return {
    address: { hostname, port: (listener.addr as Deno.NetAddr).port },
    get requests() {
      return state.requests;
    },
    get connections() {
      return state.connections;
    },
    get closedByPeer() {
      return state.closedByPeer;
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      over.open();
      for (const connection of open) connection.close();
      await accepting;
      // A test that ends while a connection pauses between two writes would leave its timer behind.
      await Promise.all(serving);
    },
  };
}

async function readRequest(connection: Deno.TcpConn): Promise<string | undefined> {
  let text = "";
  const buffer = new Uint8Array(65_536);
  const decoder = new TextDecoder("latin1");
  for (;;) {
    const head = text.indexOf("\r\n\r\n");
    const length = /\r\ncontent-length: *(\d+)/i.exec(text);
    if (head >= 0 && text.length >= head + 4 + Number(length?.[1] ?? 0)) return text;
    const n = await connection.read(buffer);
    if (n === null) return undefined;
    text += decoder.decode(buffer.subarray(0, n));
  }
}

/** An engine whose streams are one token, at once; they tell no usage, so nobody learns how fast it is. */
export function startTokenEngine(): RawServer {
  const stream = chunkedResponse(['data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', "data: [DONE]\n\n"]);
  return startRawServer(() => ({ writes: [stream], then: "keep" }));
}

/** A response with this body in chunks. */
export function chunkedResponse(chunks: string[], contentType = "text/event-stream"): Uint8Array<ArrayBuffer> {
  const framed = chunks.map((chunk) => `${bytes(chunk).length.toString(16)}\r\n${chunk}\r\n`).join("");
  return bytes(
    `HTTP/1.1 200 OK\r\ncontent-type: ${contentType}\r\ntransfer-encoding: chunked\r\n\r\n${framed}0\r\n\r\n`,
  );
}

/** Cuts bytes at every position in `cuts`. */
export function cut(whole: Uint8Array<ArrayBuffer>, ...cuts: number[]): Uint8Array<ArrayBuffer>[] {
  const ends = [...cuts, whole.length];
  return ends.map((end, i) => whole.slice(i === 0 ? 0 : ends[i - 1], end)).filter((piece) => piece.length > 0);
}
