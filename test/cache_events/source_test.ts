// SPDX-License-Identifier: Apache-2.0
// A subscription against publishers that lose, restart and forget.

import { assert, assertEquals } from "@std/assert";
import { encode } from "@msgpack/msgpack";
import { systemClock } from "../../src/base/clock.ts";
import { keepTrying } from "../../src/base/keep_trying.ts";
import type { EventBatch } from "../../src/cache_events/events.ts";
import { EventSource } from "../../src/cache_events/source.ts";
import { Publisher } from "../../src/zmtp/publisher.ts";
import { ZmtpConnection } from "../../src/zmtp/connection.ts";
import { freePort } from "../support/machine.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const LIMITS = {
  messageBytes: 1_048_576,
  connectMs: 5_000,
  replayMs: 5_000,
  retryMs: 20,
};
const HOST = "127.0.0.1";

const payload = (n: number) =>
  encode([n, [{
    type: "BlockRemoved",
    block_hashes: [n],
    pad: "x".repeat(n % 400),
  }], 0]);
const numberOf = ({ events: [event] }: EventBatch) => event.kind === "removed" ? Number(event.hashes[0]) : -1;

function publisher(port = 0, kept = 1_000): Publisher {
  return new Publisher({ hostname: HOST, port, topic: "kv@e", kept });
}

function listen(address: { port: number; replay?: number; topic?: string }) {
  const heard: number[] = [];
  const words: string[] = [];
  const stop = new AbortController();
  const { port, replay, topic = "" } = address;
  const source = new EventSource(
    {
      events: { hostname: HOST, port },
      replay: replay === undefined ? undefined : { hostname: HOST, port: replay },
      topic,
    },
    LIMITS,
    {
      batch: (batch) => heard.push(numberOf(batch)),
      reset() {
        heard.length = 0;
        words.push("reset");
      },
      complete: (known) => words.push(known ? "complete" : "incomplete"),
      gap: (missed) => words.push(`gap ${missed}`),
    },
  );
  const running = keepTrying(
    () => source.listen(stop.signal),
    (error) => words.push(error.name),
    { firstMs: 20, longestMs: 200 },
    systemClock,
    stop.signal,
  );
  return {
    source,
    heard,
    words,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}

const counted = (n: number) => Array.from({ length: n }, (_, i) => i);

Deno.test("EventSource: all from the beginning, what was published before and what is lost on the way replayed", async () => {
  const random = new Random(seed);
  await using engine = publisher();
  for (let i = 0; i < 50; i++) engine.publish(payload(i));
  await using late = listen({ port: engine.port, replay: engine.replayPort });
  await until(
    () => late.heard.length === 50 && late.source.connected,
    "what was published before",
  );
  assertEquals(late.words, ["complete"]);
  for (let i = 50; i < 300; i++) {
    engine.publish(payload(i), random.chance(0.3));
    if (random.chance(0.1)) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
  engine.publish(payload(300));
  await until(
    () => late.heard.length === 301,
    () => `${late.heard.length} of 301`,
  );
  assertEquals(late.heard, counted(301));
  assertEquals(late.words, ["complete"]);
});

Deno.test("EventSource: what is lost for good is told, and what was known forgotten", async () => {
  await using engine = publisher(0, 5);
  await using one = listen({ port: engine.port, replay: engine.replayPort });
  await until(
    () => one.words.length > 0,
    "nothing is published yet, which is all",
  );
  assertEquals(one.words, ["complete"]);
  await until(() => one.source.connected, "connected");
  engine.publish(payload(0));
  await until(() => one.heard.length === 1, "the first one");
  for (let i = 1; i < 20; i++) engine.publish(payload(i), true);
  engine.publish(payload(20));
  await until(() => one.words.length > 1, "the gap");
  await until(() => one.heard.length > 0, "what comes after it");
  assertEquals([one.words, one.heard], [[
    "complete",
    "gap 19",
    "reset",
    "incomplete",
  ], [20]]);
  one.source.cleared();
  assertEquals(one.words.at(-1), "complete");

  await using plain = listen({ port: engine.port });
  await until(
    () => plain.source.connected,
    "connected without a place to ask for kept ones",
  );
  await until(() => {
    engine.publish(payload(engine.sequence));
    return plain.heard.length > 1;
  }, "events");
  assertEquals(
    plain.words,
    [],
    "it was there before: nobody knows what it holds",
  );
});

Deno.test("EventSource: an engine that begins anew at the same port is noticed, one that was only away goes on", async () => {
  let engine = publisher();
  const { port } = engine;
  await using one = listen({ port, replay: engine.replayPort });
  for (let i = 0; i < 3; i++) engine.publish(payload(i));
  await until(() => one.heard.length === 3, "three");
  await engine[Symbol.asyncDispose]();
  await until(() => !one.source.connected, "the end");
  engine = publisher(port);
  // Its kept events are elsewhere: what is asked for first fails, until the address is told anew.
  await until(() => one.words.includes("ConnectionRefused"), "no kept events");
  await engine[Symbol.asyncDispose]();

  const first = publisher();
  await using two = listen({ port: first.port });
  await until(() => two.source.connected, "connected");
  await until(() => {
    first.publish(payload(first.sequence));
    return two.heard.length > 3;
  }, "events");
  await first[Symbol.asyncDispose]();
  await until(() => !two.source.connected, "the end");
  await using again = publisher(first.port);
  await until(() => two.source.connected, "connected again");
  assertEquals([two.heard, two.words.includes("reset")], [[], true]);
  await until(() => {
    again.publish(payload(again.sequence));
    return two.heard.length > 1;
  }, "events of the new one");
});

Deno.test("EventSource: only its topic, and who speaks something else is told as that", async () => {
  await using engine = publisher();
  await using other = listen({ port: engine.port, topic: "kv@f" });
  await using same = listen({ port: engine.port, topic: "kv@" });
  await until(
    () => other.source.connected && same.source.connected,
    "connected",
  );
  await until(() => {
    engine.publish(payload(engine.sequence));
    return same.heard.length > 2;
  }, "events");
  assertEquals(other.heard, []);
  const http = Deno.serve(
    { hostname: HOST, port: 0, onListen() {} },
    () => new Response("no"),
  );
  await using wrong = listen({ port: http.addr.port });
  await using router = listen({ port: engine.replayPort });
  await until(
    () => wrong.words.length > 0 && router.words.length > 0,
    "errors",
  );
  assert(
    wrong.words.every((word) => word === "ZmtpError") &&
      router.words[0] === "ZmtpError",
  );
  await http.shutdown();
});

Deno.test("ZmtpConnection: messages survive every cut, random bytes end in a ZmtpError or the stream's end", async () => {
  const random = new Random(seed + 1);
  const listener = Deno.listen({ hostname: HOST, port: 0 });
  const { port } = listener.addr;
  const streams = async () => {
    const [theirs, ours] = await Promise.all([
      listener.accept(),
      Deno.connect({ hostname: HOST, port }),
    ]);
    return { theirs, ours };
  };
  // The bytes of a whole conversation, recorded from a connection that speaks.
  const { theirs, ours } = await streams();
  const messages = [[Uint8Array.of(1)], [
    random.bytes(300),
    new Uint8Array(0),
    random.bytes(70_000),
  ], [random.bytes(255)]];
  const opened = ZmtpConnection.open(ours, "PUB", 1_048_576);
  const spoken: Uint8Array[] = [];
  const buffer = new Uint8Array(65_536);
  const reading = (async () => {
    for (let read; (read = await theirs.read(buffer)) !== null;) {
      spoken.push(buffer.slice(0, read));
    }
  })();
  const greeting = Uint8Array.from([
    0xff,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0x7f,
    3,
    0,
    ...new TextEncoder().encode("NULL"),
    ...new Uint8Array(48),
  ]);
  const ready = Uint8Array.from([
    4,
    25,
    5,
    ...new TextEncoder().encode("READY"),
    11,
    ...new TextEncoder().encode("Socket-Type"),
    0,
    0,
    0,
    3,
    ...new TextEncoder().encode("SUB"),
  ]);
  await theirs.write(
    Uint8Array.from([...greeting, 4, ready.length - 2, ...ready.subarray(2)]),
  );
  const connection = await opened;
  for (const message of messages) await connection.send(message);
  connection.close();
  await reading;
  theirs.close();
  const bytes = Uint8Array.from(spoken.flatMap((piece) => [...piece]));
  for (let round = 0; round < 60; round++) {
    const pair = await streams();
    const cut = round < 20 ? bytes.length : random.below(bytes.length);
    const sent = bytes.slice(0, cut);
    if (round >= 40) {
      for (let i = 0; i < 3; i++) sent[random.below(200)] = random.below(256);
    }
    const heard: Uint8Array[][] = [];
    const hearing = (async () => {
      try {
        using listening = await ZmtpConnection.open(
          pair.ours,
          "SUB",
          1_048_576,
        );
        for (
          let message;
          (message = await listening.receive()) !== undefined;
        ) heard.push(message);
      } catch (error) {
        return (error as Error).name;
      }
    })();
    for (let at = 0; at < sent.length;) {
      const end = Math.min(
        sent.length,
        at + 1 + random.below(round % 2 === 0 ? 9_000 : 30_000),
      );
      try {
        await pair.theirs.write(sent.subarray(at, end));
      } catch {
        break; // given up
      }
      at = end;
    }
    await pair.theirs.closeWrite().catch(() => {});
    const failed = await hearing;
    await pair.theirs.readable.cancel().catch(() => {});
    assert(
      failed === undefined ||
        ["ZmtpError", "ConnectionReset", "BrokenPipe"].includes(failed),
      failed,
    );
    if (round < 20) assertEquals([failed, heard], [undefined, messages]);
  }
  listener.close();
});

Deno.test("EventSource: back at the same ports, an engine that goes on is gone on with, another one is begun with", async () => {
  const ports = { port: freePort(), replayPort: freePort() };
  const start = () => new Publisher({ hostname: HOST, ...ports, topic: "kv@e", kept: 1_000 });
  const first = start();
  await using one = listen({ port: ports.port, replay: ports.replayPort });
  for (let i = 0; i < 5; i++) first.publish(payload(i));
  await until(() => one.heard.length === 5, "five");
  await first[Symbol.asyncDispose]();
  await until(() => !one.source.connected, "the end");
  // It was only away: it has kept what is known, and published more meanwhile.
  const same = start();
  for (let i = 0; i < 8; i++) same.publish(payload(i));
  await until(() => one.heard.length === 8, "three more");
  assertEquals([one.heard, one.words.includes("reset")], [counted(8), false]);
  await same[Symbol.asyncDispose]();
  await until(() => !one.source.connected, "the end");
  // Another one, that has published more than is known of the one before.
  await using other = start();
  for (let i = 0; i < 12; i++) other.publish(payload(100 + i));
  await until(() => one.heard.length === 12, "all of the other");
  assertEquals([one.heard[0], one.words.includes("reset"), one.words.at(-1)], [100, true, "complete"]);
});
