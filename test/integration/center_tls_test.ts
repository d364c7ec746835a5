// SPDX-License-Identifier: Apache-2.0
// Centers that are reached by HTTPS: by gateways, and by each other. And what they write of it.

import { assert, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { startCenter } from "../../src/server/center_process.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { makeCertificate } from "../support/tls.ts";
import { until } from "../support/until.ts";

Deno.test("a center by HTTPS: a gateway's load reaches it and its peer, which does not talk to strangers in cleartext", async () => {
  const files = makeCertificate();
  if (!files) return;
  const folder = await Deno.makeTempDir();
  const log = `${folder}/access.log`;
  const secure = { tls: { cert_file: files.cert, key_file: files.key }, https: { ca_file: files.cert } };
  const start = async (more: Record<string, unknown>) => {
    const { metadata_center } = parseConfig({ metadata_center: { listen: "127.0.0.1:0", ...secure, ...more } });
    return await startCenter(metadata_center);
  };
  const second = await start({});
  const first = await start({
    peers: [`127.0.0.1:${second.address!.port}`],
    access_log: { enabled: true, path: log },
  });
  try {
    await using engines = startEngines(1);
    await using gateway = await startTestGateway(engines, {
      metadata_center: { host: "127.0.0.1", port: first.address!.port, https: { ca_file: files.cert } },
    });
    const stream = await post(gateway.origin, chat("x", { stream: true, max_tokens: 20_000 }));
    const queued = ({ center }: typeof first) => center.loads("c")?.reduce((sum, one) => sum + one.queued, 0) ?? 0;
    await until(() => queued(first) === 1, "the center knows");
    await until(() => queued(second) === 1, "its peer knows");
    await stream.body!.cancel();
    await until(() => queued(first) + queued(second) === 0, "both know that it is over");
    const plain = await fetch(`http://127.0.0.1:${first.address!.port}/`).then(
      ({ status }) => status,
      () => "no answer",
    );
    assert(plain !== 200, `cleartext is no way in: ${plain}`);
  } finally {
    await first.stop();
    await second.stop();
  }
  const lines = (await Deno.readTextFile(log)).trim().split("\n").map((line) => JSON.parse(line));
  const watch = lines.find(({ path }) => path === "/v1/watch");
  assertEquals([watch.method, watch.status, watch.client_ip, typeof watch.latency_us], [
    "GET",
    200,
    "127.0.0.1",
    "number",
  ]);
  assert(watch.query.includes("cluster=c") && lines.some(({ path }) => path === "/v1/batch"));
  await Deno.remove(folder, { recursive: true });
});
