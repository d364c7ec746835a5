// SPDX-License-Identifier: Apache-2.0
// Metadata centers for tests: a process that can be killed and started again on the same port, and a stand-in for the Go
// center, which knows only the documented calls.

import { type AigwProcess, startAigw } from "./process.ts";

export interface CenterHandle extends AigwProcess {
  readonly origin: string;
}

/** Starts `aigw metadata-center` as a process; `config` is YAML. */
export async function startCenterProcess(config = "", port = 0): Promise<CenterHandle> {
  const file = await Deno.makeTempFile({ suffix: ".yaml" });
  await Deno.writeTextFile(file, config);
  const center = await startAigw(["metadata-center", "--config", file, "--listen", `127.0.0.1:${port}`]);
  await Deno.remove(file);
  return { ...center, origin: `http://127.0.0.1:${center.port}` };
}

/** No gateway that lives loses its lease at such a center, however late it renews. */
export const LONG_LEASE = "metadata_center: {lease_ms: 600000}";

/**
 * A stand-in for the Go center: the documented load calls and nothing else, engines told apart by IP alone, one request at
 * a time. `loads` is its accounting.
 */
export function startPlainCenter(port = 0): AsyncDisposable & {
  port: number;
  loads: Map<string, { queued: number; prompt: number }>;
  /** As after its restart. */
  forget(): void;
  /** It answers nobody while it is away, and forgets nothing. */
  away: boolean;
} {
  const loads = new Map<string, { queued: number; prompt: number }>();
  const requests = new Map<string, { ip: string; prompt: number }>();
  const ok = (data: unknown = null) => Response.json({ status: "OK", error: null, data, trace_id: "t" });
  const state = { away: false };
  const server = Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (state.away) return new Response("away", { status: 503 });
    const body = request.method === "GET" ? undefined : await request.json();
    switch (`${request.method} ${pathname}`) {
      case "POST /v1/load/stats": {
        if (requests.has(body.request_id)) return ok();
        requests.set(body.request_id, { ip: body.ip, prompt: body.prompt_length });
        const load = loads.get(body.ip) ?? { queued: 0, prompt: 0 };
        loads.set(body.ip, { queued: load.queued + 1, prompt: load.prompt + body.prompt_length });
        return ok();
      }
      case "DELETE /v1/load/prompt":
      case "DELETE /v1/load/stats": {
        const known = requests.get(body.request_id);
        if (!known) return ok();
        const load = loads.get(known.ip)!;
        load.prompt -= known.prompt;
        known.prompt = 0;
        if (pathname === "/v1/load/stats") {
          load.queued--;
          requests.delete(body.request_id);
        }
        return ok();
      }
      case "GET /v1/load/stats":
        return ok(
          [...loads].map(([ip, { queued, prompt }]) => ({
            ip,
            queued_req_num: queued,
            prompt_length: prompt,
            updated_time: 1795441601000000000,
          })),
        );
      default:
        return new Response("404 page not found", { status: 404 });
    }
  });
  const forget = () => {
    loads.clear();
    requests.clear();
  };
  return Object.assign(state, {
    port: server.addr.port,
    loads,
    forget,
    [Symbol.asyncDispose]: () => server.shutdown(),
  });
}

/** A TCP proxy that can delay, cut and half-open the connections through it. */
export function startFaultProxy(target: number): AsyncDisposable & {
  port: number;
  /** pass: as it is; delay: every piece 200 ms late; cut: connections end and new ones are refused; hang: bytes vanish. */
  mode: "pass" | "delay" | "cut" | "hang";
} {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const open = new Set<Deno.Conn>();
  let mode = "pass" as "pass" | "delay" | "cut" | "hang";
  const end = (connection: Deno.Conn) => {
    if (open.delete(connection)) connection.close();
  };
  const pump = async (from: Deno.Conn, to: Deno.Conn) => {
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
        const piece = buffer.slice(0, n);
        if (mode === "delay") await new Promise((resolve) => setTimeout(resolve, 200));
        if (mode === "hang") continue;
        for (let at = 0; at < piece.length;) at += await to.write(piece.subarray(at));
      }
    } catch {
      // one side is gone
    }
    end(from);
    end(to);
  };
  const pumps = new Set<Promise<void>>();
  const accepting = (async () => {
    for await (const client of listener) {
      if (mode === "cut") {
        client.close();
        continue;
      }
      try {
        const upstream = await Deno.connect({ hostname: "127.0.0.1", port: target });
        open.add(client).add(upstream);
        for (const pumped of [pump(client, upstream), pump(upstream, client)]) {
          pumps.add(pumped);
          pumped.finally(() => pumps.delete(pumped));
        }
      } catch {
        client.close();
      }
    }
  })();
  return {
    port: (listener.addr as Deno.NetAddr).port,
    get mode() {
      return mode;
    },
    set mode(value) {
      mode = value;
      if (value === "cut") { for (const connection of [...open]) end(connection); }
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      for (const connection of [...open]) end(connection);
      await accepting;
      await Promise.all(pumps);
    },
  };
}
