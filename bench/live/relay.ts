// SPDX-License-Identifier: Apache-2.0
// A port in front of an engine's that lets everything through some ms later, both ways: the network between them.

export interface Relay extends Disposable {
  readonly port: number;
}

export function startRelay(engine: number, delayMs: number): Relay {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accept = async (): Promise<void> => {
    for await (const client of listener) {
      client.setNoDelay();
      Deno.connect({ hostname: "127.0.0.1", port: engine }).then((upstream) => {
        upstream.setNoDelay();
        late(client, upstream, delayMs);
        late(upstream, client, delayMs);
      }, () => client.close());
    }
  };
  accept().catch(() => {}); // the listener was closed
  return { port: listener.addr.port, [Symbol.dispose]: () => listener.close() };
}

// Timers of equal length end in the order in which they began.
async function late(from: Deno.TcpConn, to: Deno.TcpConn, delayMs: number): Promise<void> {
  let writing = Promise.resolve();
  const after = (act: () => void | Promise<void>) => {
    const due = new Promise<void>((resolve) => setTimeout(resolve, delayMs));
    writing = writing.then(() => due).then(act).catch(() => {});
  };
  try {
    for (const buffer = new Uint8Array(65_536);;) {
      const read = await from.read(buffer);
      if (read === null) break;
      const bytes = buffer.slice(0, read);
      after(async () => {
        for (let at = 0; at < bytes.length;) at += await to.write(bytes.subarray(at));
      });
    }
    after(() => to.closeWrite());
  } catch {
    after(() => to.close());
  }
}
