// SPDX-License-Identifier: Apache-2.0
// Clients of bench:streams: each opens a connection, asks for one stream and counts its events. Prints one JSON line when
// all have begun and one when all have ended. Usage: clients.ts PORT STREAMS TOKENS RAMP_SECONDS

const [port, streams, tokens, ramp] = Deno.args.map(Number);
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const LF = 10;
let begun = 0;
let lost = 0;
let events = 0;
const reasons = new Map<string, number>();

function lose(why: string): void {
  lost++;
  reasons.set(why, (reasons.get(why) ?? 0) + 1);
}

async function stream(i: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ramp * 1_000 * i / streams));
  try {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    const body = JSON.stringify({
      model: "m",
      stream: true,
      max_tokens: tokens,
      messages: [{ role: "user", content: `${i}` }],
    });
    await connection.write(
      encoder.encode(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
      ),
    );
    const buffer = new Uint8Array(4_096);
    let own = 0;
    let before = 0;
    let tail = "";
    for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
      if (own === 0) begun++;
      // An event ends with two line feeds.
      for (let at = 0; at < n; at++) {
        if (before === LF && buffer[at] === LF) own++;
        before = buffer[at];
      }
      tail = (tail + decoder.decode(buffer.subarray(Math.max(0, n - 40), n))).slice(-40);
    }
    connection.close();
    events += own;
    if (!tail.includes("data: [DONE]")) lose("no [DONE]");
    else if (own !== tokens + 2) lose(`${own} events`);
  } catch (error) {
    lose(String(error));
  }
}

const all = Promise.all(Array.from({ length: streams }, (_, i) => stream(i)));
const watch = setInterval(() => {
  if (begun + lost < streams) return;
  clearInterval(watch);
  console.log(JSON.stringify({ begun, lost }));
}, 100);
await all;
clearInterval(watch);
console.log(JSON.stringify({ ended: streams, lost, events, reasons: Object.fromEntries(reasons) }));
