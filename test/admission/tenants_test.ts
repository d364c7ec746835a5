// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { Tenants } from "../../src/admission/tenants.ts";
import { GatewayError } from "../../src/base/errors.ts";
import { parseConfig } from "../../src/config/load.ts";
import { PRIORITIES } from "../../src/config/tenants.ts";
import { sha256 } from "../support/sha256.ts";

const identify = (tenants: Tenants, key: string) =>
  tenants.identify({ authorization: `Bearer ${key}`, apiKey: undefined, tenant: undefined, priority: undefined });

Deno.test("Tenants: a key is known by its whole digest", async () => {
  const digest = await sha256("key");
  for (let digit = 0; digit < digest.length; digit++) {
    const near = digest.slice(0, digit) + (digest[digit] === "0" ? "1" : "0") + digest.slice(digit + 1);
    const rows = new Map([["right", 1], ["near", 2]]);
    const both = new Tenants(
      parseConfig({ tenants: [{ name: "right", keys_sha256: [digest] }, { name: "near", keys_sha256: [near] }] }),
      rows,
    );
    assertEquals(identify(both, "key").name, "right", `digit ${digit}`);
    const one = new Tenants(parseConfig({ tenants: [{ name: "near", keys_sha256: [near] }] }), rows);
    assertThrows(() => identify(one, "key"), GatewayError, "not known");
  }
});

Deno.test("Tenants: a request may lower its priority below its tenant's, and not raise it above", async () => {
  const config = parseConfig({
    tenants: [{ name: "night", keys_sha256: [await sha256("key")], priority: "standard" }],
    tenancy: { objectives: { fast: "critical" } },
  });
  const tenants = new Tenants(config, new Map([["night", 1]]));
  const night = identify(tenants, "key");
  const { standard, batch } = PRIORITIES;
  const of = (asked: string | undefined) => tenants.priorityOf(night, asked);
  assertEquals([undefined, "critical", "fast", "1000", "standard"].map(of), Array(5).fill(standard));
  assertEquals(["batch", "-1000"].map(of), [batch, -1_000]);
  for (const asked of ["", "urgent", "1e3", "99999", "__proto__"]) {
    assertEquals(assertThrows(() => of(asked), GatewayError).code, "invalid_request", asked);
  }
});
