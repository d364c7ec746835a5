// SPDX-License-Identifier: Apache-2.0
// A live gateway under requests that are wrong in every way: whatever it answers is an answer that is meant for them.

import { INFERENCE_PATHS } from "../../src/openai/api.ts";
import { chat, type TestGateway } from "../support/gateway.ts";
import { Random } from "../support/seed.ts";

const ALLOWED = new Set([200, 204, 400, 404, 405, 408, 413, 414, 431, 501, 503]);
const CONCURRENCY = 16;

/** Sends `cases` requests on raw connections; returns how often each status came. Throws on any other than the allowed ones. */
export async function fuzzGateway(gateway: TestGateway, cases: number, seed: number): Promise<Record<string, number>> {
  const { port } = gateway.gateway.listen;
  const statuses: Record<string, number> = {};
  let next = 0;
  const client = async () => {
    for (let i = next++; i < cases; i = next++) {
      const status = await once(port, new Random(seed + i));
      if (typeof status === "number" && !ALLOWED.has(status)) throw new Error(`case ${seed + i}: status ${status}`);
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, client));
  const answer = await fetch(`${gateway.origin}/v1/chat/completions`, { method: "POST", body: chat("still there") });
  await answer.text();
  if (answer.status !== 200) throw new Error(`after all that a right request gets ${answer.status}`);
  return statuses;
}

async function once(port: number, random: Random): Promise<number | "closed" | "left"> {
  const path = random.chance(0.8) ? random.pick([...INFERENCE_PATHS.keys()]) : `/${random.next()}`;
  const right = chat("x", { stream: random.chance(0.3), max_tokens: 2 });
  const body = random.chance(0.4) ? right : right.slice(random.below(10), random.below(right.length));
  const length = random.chance(0.9) ? body.length : random.below(100);
  const extras = ["", "x-aigw-timeout-ms: nonsense\r\n", "x-request-id: \u00e9\r\n", "accept-encoding: gzip\r\n"];
  const method = random.pick(["POST", "POST", "POST", "GET", "PUT", "OPTIONS", "BREW"]);
  const head = `${method} ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${length}\r\n`;
  const bytes = Uint8Array.from(`${head}${random.pick(extras)}\r\n${body}`, (c) => c.charCodeAt(0));
  if (random.chance(0.3)) bytes[random.below(bytes.length)] = random.below(256);
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const buffer = new Uint8Array(4_096);
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    await connection.write(bytes);
    // Who waits for a body that never comes leaves after a moment.
    const patience = new Promise<"left">((resolve) => timer = setTimeout(() => resolve("left"), random.pick([5, 100])));
    const reading = connection.read(buffer);
    reading.catch(() => {});
    const n = await Promise.race([reading, patience]);
    if (n === "left" || n === null) return n ?? "closed";
    const status = /^HTTP\/1\.[01] (\d\d\d)/.exec(new TextDecoder().decode(buffer.subarray(0, n)))?.[1];
    if (status === undefined) throw new Error("the answer is no HTTP");
    return Number(status);
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe) return "closed";
    throw error;
  } finally {
    clearTimeout(timer);
    connection.close();
  }
}
