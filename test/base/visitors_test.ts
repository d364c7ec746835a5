// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { comesFromPage, Visitors } from "../../src/base/visitors.ts";

const request = (headers: Record<string, string>) => ({ headers: new Headers(headers) });

Deno.test("Visitors: only names that no stranger can point here are hosts", () => {
  const visitors = new Visitors({ hosts: ["admin.example.com"], token: undefined });
  const takes = (host: string) => {
    try {
      visitors.check(request({ host }));
      return true;
    } catch (error) {
      assertEquals((error as GatewayError).code, "forbidden");
      return false;
    }
  };
  const known = ["127.0.0.1:15000", "10.1.2.3", "[::1]:15000", "localhost:15000", "gateway", "aigw.ns.svc:15000"];
  for (const host of [...known, "a.b.svc.cluster.local", "ADMIN.example.com:15000", "x.internal", ""]) {
    assertEquals(takes(host), true, host);
  }
  const strangers = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:15000",
    "admin.example.com.evil",
  ];
  for (const host of [...strangers, "evil.example:127.0.0.1", "svc.example.org", "1.2.3.4.5"]) {
    assertEquals(takes(host), false, host);
    assertEquals(takes(host), false, host);
  }
});

Deno.test("Visitors: the token opens everything, and nothing less than it does", () => {
  const visitors = new Visitors({ hosts: [], token: "secret" });
  const host = "127.0.0.1";
  visitors.check(request({ host: "evil.example", authorization: "Bearer secret" }));
  visitors.check(request({ host }), true);
  visitors.checkChange(request({ authorization: "Bearer secret" }));
  for (
    const authorization of ["", "Bearer", "Bearer secre", "Bearer secrets", "bearer secret", "Basic secret", "secret"]
  ) {
    const error = assertThrows(() => visitors.check(request({ host, authorization })), GatewayError);
    assertEquals(error.code, "unauthorized", authorization);
    assertThrows(() => visitors.checkChange(request({ authorization })), GatewayError);
  }
  assertThrows(() => visitors.check(request({ host: "evil.example" }), true), GatewayError, "not known here");
});

Deno.test("Visitors: what changes something needs a field that pages cannot send", () => {
  const visitors = new Visitors({ hosts: [], token: undefined });
  assertThrows(
    () => visitors.checkChange(request({ authorization: "Bearer undefined" })),
    GatewayError,
    "x-aigw-admin",
  );
  visitors.checkChange(request({ "x-aigw-admin": "" }));
});

Deno.test("a page of another origin is known by its Origin", () => {
  const from = (origin?: string) => comesFromPage(request({ host: "127.0.0.1:1", ...(origin && { origin }) }));
  assertEquals([from(), from("http://127.0.0.1:1"), from("https://127.0.0.1:1")], [false, false, false]);
  assertEquals([from("http://evil.example"), from("null"), from("http://127.0.0.1:2")], [true, true, true]);
  const site = (site: string) => comesFromPage(request({ host: "127.0.0.1:1", "sec-fetch-site": site }));
  assertEquals(["none", "same-origin", "same-site", "cross-site"].map(site), [false, false, true, true]);
});
