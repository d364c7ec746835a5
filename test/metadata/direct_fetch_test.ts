// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";

Deno.test("DirectFetch: proxies of the environment are for others", async () => {
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request) => new Response(request.url),
  );
  const script = `
    import { DirectFetch } from ${JSON.stringify(new URL("../../src/metadata/direct_fetch.ts", import.meta.url).href)};
    const direct = new DirectFetch();
    for (let i = 0; i < 2; i++) console.log(await (await direct.fetch("127.0.0.1:${server.addr.port}", "/a?b", {})).text());
    direct.close();
  `;
  const proxy = "http://127.0.0.1:1";
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(file, script);
  const { stdout, code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-net", file],
    env: { HTTP_PROXY: proxy, http_proxy: proxy, ALL_PROXY: proxy, NO_PROXY: "", no_proxy: "" },
  }).output();
  await Deno.remove(file);
  assertEquals([code, new TextDecoder().decode(stdout)], [0, `http://127.0.0.1:${server.addr.port}/a?b\n`.repeat(2)]);
});
