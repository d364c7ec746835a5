// SPDX-License-Identifier: Apache-2.0
// `deno task bench:live prediction`: how far predicted times to the first token are off on a live mock fleet: unloaded,
// loaded, and after its engines have become half as fast.

import { startMockEngine } from "../../src/mock/server.ts";
import { Random } from "../../src/base/random.ts";
import { ask, median, sleep, startGateway, textOf } from "./fleet.ts";

const ENGINES = 4;
const SPEED = 2;

interface Line {
  predicted_ttft: number | null;
  ttft: number | null;
  queued_ms: number;
}

export async function prediction(): Promise<void> {
  const engines = Array.from(
    { length: ENGINES },
    () => startMockEngine({ address: { hostname: "127.0.0.1", port: 0 }, models: ["m"], speed: SPEED }),
  );
  const log = await Deno.makeTempFile();
  const gateway = await startGateway(engines.map(({ address }) => address.port), {
    log: { enabled: true, path: log, level: "error" },
    workers: 1,
  });
  const random = new Random(11);
  let id = 1;
  const one = () => ask(gateway.port, textOf(id++, 200 + Math.round(8_000 * random.next() ** 2)), 1 + random.below(40));
  // Errors of the requests since the last call, in order.
  let seen = 0;
  const errors = async (): Promise<number[]> => {
    await sleep(400);
    const lines = (await Deno.readTextFile(log)).trimEnd().split("\n").slice(seen);
    seen += lines.length;
    return lines.map((line) => JSON.parse(line) as Line).filter(({ predicted_ttft, ttft }) => predicted_ttft && ttft)
      .map(({ predicted_ttft, ttft, queued_ms }) => Math.abs(predicted_ttft! / (ttft! - queued_ms) - 1));
  };
  const poisson = async (count: number, perSecond: number) => {
    const all: Promise<unknown>[] = [];
    for (let i = 0; i < count; i++) {
      all.push(one());
      await sleep(-1_000 / perSecond * Math.log(1 - random.next()));
    }
    await Promise.all(all);
  };
  const percent = (values: number[]) => `${(100 * median(values)).toFixed(1)} %`;
  try {
    await sleep(1_000);
    for (let i = 0; i < 200; i++) await one();
    await errors();
    for (let i = 0; i < 100; i++) await one();
    console.log(`unloaded, after 200 requests: median error ${percent(await errors())}`);
    // Mean prompt 2,900 tokens: 4 engines take some 20 a second.
    await poisson(100, 15);
    await errors();
    await poisson(300, 15);
    console.log(`loaded to some 75 %: median error ${percent(await errors())}`);
    for (const engine of engines) engine.setSpeed(SPEED / 2);
    await poisson(300, 7.5);
    const after = await errors();
    console.log(
      `first 100 requests at half the speed: ${percent(after.slice(0, 100))}; requests 200 to 300: ${
        percent(after.slice(200))
      }`,
    );
  } finally {
    await gateway.kill("SIGTERM");
    for (const engine of engines) await engine.stop();
    await Deno.remove(log);
  }
}
