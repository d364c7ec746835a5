// SPDX-License-Identifier: Apache-2.0
// Requests with large images: the engine gets every byte as it came, and equal images are equal beginnings of prompts.

import { assert, assertEquals } from "@std/assert";
import { startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";

const JSON_TYPE = { "content-type": "application/json" };

/** Engines that keep the bodies that they get, apart from each other. */
function bodyEngines(count: number) {
  return Array.from({ length: count }, () => {
    const bodies: string[] = [];
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
      if (request.method === "GET") return new Response("", { status: 404 });
      bodies.push(await request.text());
      const event = { id: "a", choices: [{ index: 0, delta: { content: "a" }, finish_reason: "stop" }] };
      return bodies.at(-1)!.includes('"stream":true')
        ? new Response(`data: ${JSON.stringify(event)}\n\ndata: [DONE]\n\n`, {
          headers: { "content-type": "text/event-stream" },
        })
        : Response.json({ id: "a", choices: [{ index: 0, message: { role: "assistant", content: "a" } }] });
    });
    return { address: server.addr, bodies, [Symbol.asyncDispose]: () => server.shutdown() };
  });
}

function imageOf(random: Random, bytes: number): string {
  const data = Uint8Array.from({ length: bytes }, () => random.below(256));
  return `data:image/png;base64,${data.toBase64()}`;
}

Deno.test("images of megabytes go on byte by byte, streams with the wish for usage before them", async () => {
  const random = new Random(seed);
  await using stack = new AsyncDisposableStack();
  const engines = bodyEngines(2).map((engine) => stack.use(engine));
  const gateway = stack.use(await startTestGateway(engines));
  const images = [imageOf(random, 900_000), imageOf(random, 3_000_000)];
  const body = (url: string, question: string, stream: boolean) =>
    JSON.stringify({
      model: "m",
      messages: [{
        role: "user",
        content: [{ type: "image_url", image_url: { url } }, { type: "text", text: question }],
      }],
      stream,
    });
  const endpoints: string[] = [];
  for (const [i, question] of ["what is it?", "and who?", "where?"].entries()) {
    for (const url of images) {
      const sent = body(url, question, i === 1);
      const response = await fetch(`${gateway.origin}/v1/chat/completions`, {
        method: "POST",
        headers: JSON_TYPE,
        body: sent,
      });
      assertEquals(response.status, 200);
      await response.text();
      const got = engines.flatMap(({ bodies }) => bodies.splice(0));
      const expected = i === 1 ? `{"stream_options":{"include_usage":true},${sent.slice(1)}` : sent;
      assert(got.length === 1 && got[0] === expected, `AIGW_TEST_SEED=${seed}: ${got[0]?.slice(0, 200)}`);
      endpoints.push(response.headers.get("x-aigw-endpoint")!);
    }
  }
  const explained = await (await fetch(`${gateway.admin}/explain`, {
    method: "POST",
    body: body(images[0], "?", false),
  })).json();
  const held = explained.candidates.map((one: { cached_chunks?: number }) => one.cached_chunks ?? 0);
  assert(Math.max(...held) >= 7, `the image is known: ${JSON.stringify(explained.candidates)}`);
});
