// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { Tenants } from "../../src/admission/tenants.ts";
import { parseConfig } from "../../src/config/load.ts";
import { StoredResponses } from "../../src/gateway/stored_responses.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { ResponseTable } from "../../src/tables/response_table.ts";
import { freshKernel } from "../support/kernel.ts";
import { sha256 } from "../support/sha256.ts";

Deno.test("a stored response is found by its tenant, and by nobody else", async () => {
  const kernel = freshKernel();
  const endpoints = new EndpointTable(kernel);
  const row = endpoints.add(0, { hostname: "10.0.0.1", port: 1 }, 100, 0);
  const responses = new StoredResponses(new ResponseTable(kernel), endpoints);
  const config = parseConfig({
    tenants: [
      { name: "gold", keys_sha256: [await sha256("a")] },
      { name: "night", keys_sha256: [await sha256("b")] },
    ],
  });
  const tenants = new Tenants(config, new Map([["gold", 1], ["night", 2]]));
  const [gold, night] = ["a", "b"].map((key) =>
    tenants.identify({ authorization: `Bearer ${key}`, apiKey: undefined, tenant: undefined, priority: undefined })
  );
  assertEquals([gold.name, night.name], ["gold", "night"]);
  responses.store("resp_1", row, endpoints.generation(row), gold);
  assertEquals([gold, night].map((tenant) => responses.rowOf("resp_1", tenant)), [row, undefined]);
  // Names that share a row are apart too.
  const [one, other] = ["one", "other"].map((name) => ({ ...night, name }));
  responses.store("resp_2", row, endpoints.generation(row), one);
  assertEquals([one, other, gold].map((tenant) => responses.rowOf("resp_2", tenant)), [row, undefined, undefined]);
  // The same id of two tenants is two responses.
  const second = endpoints.add(0, { hostname: "10.0.0.2", port: 1 }, 100, 0);
  responses.store("resp_1", second, endpoints.generation(second), night);
  assertEquals([gold, night].map((tenant) => responses.rowOf("resp_1", tenant)), [row, second]);
});
