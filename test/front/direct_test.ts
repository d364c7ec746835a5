// SPDX-License-Identifier: Apache-2.0
// The direct front on the wire, as strangers use it: how requests follow each other, what bodies are, who left.

import { assert, assertEquals } from "@std/assert";
import { HttpResponse } from "../../src/front/http/exchange.ts";
import { echo, exchange, post, serve, statuses } from "../support/direct_server.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { gate, until } from "../support/until.ts";

Deno.test("direct: requests one after the other, at once, cut at every byte", async () => {
  await using front = serve();
  const three = `${post("one")}GET /g?q=1 HTTP/1.1\r\nHost: x\r\n\r\n\r\n${post("zwei ü", "X-A: b\r\n")}`;
  const whole = bytes(three);
  const expected = ["POST /p one", "GET /g?q=1 ", "POST /p zwei ü"];
  const bodies = (text: string) => [...text.matchAll(/\r\n\r\n([^\r]*?)(?=HTTP\/1\.1|$)/g)].map(([, body]) => body);
  assertEquals(bodies(await exchange(front.port, [whole])), expected);
  for (let cut = 1; cut < whole.length; cut++) {
    const text = await exchange(front.port, [whole.subarray(0, cut), whole.subarray(cut)]);
    assertEquals([statuses(text), bodies(text)], [[200, 200, 200], expected], `cut at ${cut}`);
  }
  const single = Array.from(whole, (_, i) => whole.subarray(i, i + 1));
  assertEquals(bodies(await exchange(front.port, single)), expected);
});

Deno.test("direct: bodies of announced length and in chunks, small and large, whole and piece by piece", async () => {
  await using front = serve();
  const random = new Random(seed);
  for (const size of [0, 1, 100, 3_900, 4_096, 20_000, 300_000, 2_000_000]) {
    const body = Array.from({ length: size }, () => String.fromCharCode(97 + random.below(26))).join("");
    for (const whole of ["", "X-Whole: 1\r\n"]) {
      const plain = await exchange(front.port, [bytes(post(body, whole))]);
      assert(plain.endsWith(`POST /p ${body}`), `${size}`);
      let chunks = "";
      for (let at = 0; at < size;) {
        const piece = body.slice(at, at + 1 + random.below(60_000));
        chunks += `${piece.length.toString(16)};a="b"\r\n${piece}\r\n`;
        at += piece.length;
      }
      const head = `POST /p HTTP/1.1\r\nhost: x\r\n${whole}transfer-encoding: chunked\r\n\r\n`;
      const text = await exchange(front.port, [bytes(`${head}${chunks}0\r\nx-trailer: 1\r\n\r\n`)]);
      assert(text.endsWith(`POST /p ${body}`), `${size} in chunks`);
    }
  }
});

Deno.test("direct: Expect is answered when the body is wanted, and not when it is refused", async () => {
  await using wanted = serve();
  const head = "POST /p HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: wanted.port });
  await connection.write(bytes(head));
  const buffer = new Uint8Array(1_000);
  const n = await connection.read(buffer);
  assertEquals(new TextDecoder().decode(buffer.subarray(0, n!)), "HTTP/1.1 100 Continue\r\n\r\n");
  await connection.write(bytes("abc"));
  await connection.closeWrite();
  assert((await new Response(connection.readable).text()).endsWith("POST /p abc"));
  await using refusing = serve(() => new HttpResponse(413, "too large"));
  const text = await exchange(refusing.port, [bytes(head)]);
  assertEquals([statuses(text), /connection: close/.test(text)], [[413], true]);
});

Deno.test("direct: a refusal reaches a client that still sends its body", async () => {
  await using front = serve(() => new HttpResponse(413, "too large"));
  const body = "x".repeat(200_000);
  for (let i = 0; i < 10; i++) {
    assertEquals(statuses(await exchange(front.port, [bytes(post(body))])), [413]);
  }
  // One that has come whole is left out instead, and the connection goes on.
  assertEquals(statuses(await exchange(front.port, [bytes(post("abc") + post("def"))])), [413, 413]);
});

Deno.test("direct: a client that leaves is noticed, before its answer and in a stream; one that only ended its side is not", async () => {
  const held = gate();
  await using front = serve(async (request) => {
    if (request.target === "/p") await held.opened;
    const stream = {
      async pull(controller: { enqueue(piece: Uint8Array): void }) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        controller.enqueue(bytes("data: 1\n\n"));
      },
      cancel: () => void front.counts.left++,
    };
    const response = new HttpResponse(200, request.target === "/p" ? "done" : stream);
    if (request.target !== "/p") response.append("content-type", "text/event-stream");
    return response;
  });
  const opened = async (target: string) => {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
    await connection.write(bytes(`GET ${target} HTTP/1.1\r\nhost: x\r\n\r\n`));
    return connection;
  };
  const waiting = await opened("/p");
  await until(() => front.counts.connections === 1, "it is there");
  waiting.close();
  await until(() => front.counts.left === 1, "its leaving is noticed before there is an answer");
  const streaming = await opened("/s");
  await streaming.read(new Uint8Array(1_000));
  streaming.close();
  await until(() => front.counts.left >= 2, "and in a stream");
  using patient = await opened("/p");
  await patient.closeWrite();
  const before = front.counts.left;
  await new Promise((resolve) => setTimeout(resolve, 100));
  held.open();
  const text = await new Response(patient.readable).text();
  assert(text.endsWith("done"), text);
  assertEquals(front.counts.left, before);
  assert(statuses(text).every((status, i, all) => status === (i === all.length - 1 ? 200 : 100)), text);
});

Deno.test("direct: a client that takes nothing is waited for, and nothing piles up", async () => {
  let pulled = 0;
  await using front = serve(() =>
    new HttpResponse(200, {
      pull(controller) {
        pulled++;
        controller.enqueue(new Uint8Array(65_536));
      },
      cancel() {},
    })
  );
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  await connection.write(bytes("GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
  let before = -1;
  await until(async () => {
    const stands = pulled === before;
    before = pulled;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return stands && pulled > 0;
  }, "the source stands still");
  assert(pulled < 1_000, `${pulled} pieces of 64 KiB for a client that reads nothing`);
  connection.close();
  await until(() => front.counts.connections === 0, "it is gone");
});

Deno.test("direct: heads that do not end are answered 408, idle connections end, and there are no more than the limit", async () => {
  await using front = serve(echo, { headMs: 100, idleMs: 100 }, 3);
  // One whose first byte comes too late gets no answer at all.
  await until(async () => {
    const slow = await exchange(front.port, [bytes("GET / HT"), bytes("TP/1.1\r\nhost: x\r\n\r\n")], 200);
    return statuses(slow)[0] === 408;
  }, "a head that does not end is answered 408");
  assertEquals(front.seen, [], "and is no request, whatever comes of it later");
  using idle = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  assertEquals(await idle.read(new Uint8Array(1)), null, "nothing came in time");
  await until(() => front.counts.connections === 0, "all are gone");
  const held = await Promise.all(
    Array.from({ length: 8 }, () => Deno.connect({ hostname: "127.0.0.1", port: front.port })),
  );
  await until(() => front.counts.refused === 5, "five are turned away");
  for (const connection of held) connection.close();
});

Deno.test("direct: shutdown ends idle connections, and those at work after their answer", async () => {
  const held = gate();
  await using front = serve(async () => {
    await held.opened;
    return new HttpResponse(200, "late");
  });
  const idle = await Deno.connect({ hostname: "127.0.0.1", port: front.port });
  const busy = exchange(front.port, [bytes("GET / HTTP/1.1\r\nhost: x\r\n\r\n")]);
  await until(() => front.counts.connections === 2, "both are there");
  let over = false;
  const shutdown = front.server.shutdown().then(() => over = true);
  assertEquals(await idle.read(new Uint8Array(1)), null);
  idle.close();
  assert(!over);
  held.open();
  const text = await busy;
  assert(/connection: close/.test(text) && text.endsWith("late"), text);
  await shutdown;
});
