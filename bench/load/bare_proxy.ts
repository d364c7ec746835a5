// SPDX-License-Identifier: Apache-2.0
// The yardsticks: the least code that proxies with fetch, to the engines in turn. `pipe` hands an engine's body on
// untouched, which stays in native code and shows nothing of it; `read` reads it in JavaScript, as any proxy must that
// wants to see tokens.
// Usage: bare_proxy.ts pipe|read PORT ENGINE_PORT,ENGINE_PORT

const [mode, port, list] = Deno.args;
const engines = list.split(",");
let turn = 0;

Deno.serve({ hostname: "127.0.0.1", port: Number(port), onListen() {} }, async (request) => {
  const { pathname } = new URL(request.url);
  const answer = await fetch(`http://127.0.0.1:${engines[turn++ % engines.length]}${pathname}`, {
    method: request.method,
    headers: request.headers,
    body: request.body,
  });
  if (mode === "pipe" || answer.body === null) return new Response(answer.body, answer);
  const reader = answer.body.getReader();
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: (reason) => reader.cancel(reason),
  }, { highWaterMark: 0 });
  return new Response(body, answer);
});
