// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertMatch } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { parseConfig } from "../../src/config/load.ts";
import { startGateway } from "../../src/server/gateway_process.ts";
import { chat, startEngines } from "../support/gateway.ts";
import { makeCertificate } from "../support/tls.ts";
import { until } from "../support/until.ts";

Deno.test("a renewed certificate is used by new connections; those that are open go on", async () => {
  const [first, second] = [makeCertificate(), makeCertificate()];
  if (!first || !second) return;
  await using engines = startEngines(1, { speed: 20 });
  const [cert_file, key_file] = [`${await Deno.makeTempDir()}/cert.pem`, `${await Deno.makeTempDir()}/key.pem`];
  const install = async ({ cert, key }: { cert: string; key: string }) => {
    await Deno.copyFile(cert, cert_file);
    await Deno.copyFile(key, key_file);
  };
  await install(first);
  const [{ address: { hostname, port } }] = engines;
  const config = parseConfig({
    listen: "127.0.0.1:0",
    admin: { listen: "127.0.0.1:0" },
    metadata_center: { enabled: false },
    workers: 1,
    log: { level: "error", enabled: false },
    reload: { interval_ms: 20 },
    tls: { listen: "127.0.0.1:0", cert_file, key_file },
    clusters: [{ name: "c", endpoints: [{ address: hostname, port }] }],
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
  });
  const gateway = await startGateway(config);
  const origin = `https://${formatAddress(gateway.tls!)}`;
  const clientOf = async ({ cert }: { cert: string }) =>
    Deno.createHttpClient({ caCerts: [await Deno.readTextFile(cert)] });
  const trusted = async (certificate: { cert: string }) => {
    using client = await clientOf(certificate);
    try {
      const response = await fetch(`${origin}/health`, { client });
      await response.body?.cancel();
      return response.status === 200;
    } catch {
      return false;
    }
  };
  assert(await trusted(first));
  assert(!await trusted(second));
  using open = await clientOf(first);
  const stream = await fetch(`${origin}/v1/chat/completions`, {
    method: "POST",
    body: chat("x", { stream: true, max_tokens: 300 }),
    client: open,
  });
  const reading = stream.text();
  await install(second);
  await until(() => trusted(second), "the new certificate");
  assert(!await trusted(first));
  assertMatch(await reading, /\[DONE\]\n\n$/);
  // One that is none is refused, and the good one stays.
  await Deno.writeTextFile(cert_file, "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n");
  const { result, error } = await gateway.reloader.reload("the test asks");
  assertEquals(result, "refused");
  assertMatch(error!, /^tls: the certificate and its key cannot be used/);
  assert(await trusted(second));
  assertEquals(await gateway.stop(2_000), 0);
});
