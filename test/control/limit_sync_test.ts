// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { Limits } from "../../src/admission/limits.ts";
import { Tenants } from "../../src/admission/tenants.ts";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import { LimitSync } from "../../src/control/limit_sync.ts";
import type { CenterEvent } from "../../src/metadata/server.ts";
import { freshKernels } from "../support/kernel.ts";

Deno.test("LimitSync: what was used of a limit is told once, and taken back a minute later", () => {
  const clock = new ManualClock(1_700_000_000_000);
  const [control, worker] = freshKernels();
  const config = parseConfig({ tenancy: { anonymous: { limits: { requests_per_minute: 100 } } } });
  const rows = new Map([["anonymous", 0]]);
  const sent: CenterEvent[] = [];
  const sync = new LimitSync({
    kernel: control,
    clock,
    gateway: "g",
    staleMs: 1_000,
    send: (_, events) => sent.push(...events),
  });
  sync.configure(config, rows);
  sync.start();
  const told = () =>
    sent.splice(0).map(({ type, body }) => {
      const { request_id, prompt_length } = body as { request_id: string; prompt_length?: number };
      return `${type.split(".").at(-1)} ${request_id} ${prompt_length ?? ""}`.trim();
    });
  assertEquals(told(), ["set g/limit-0 0"], "it is there");
  const tenant = new Tenants(config, rows).identify({
    authorization: undefined,
    apiKey: undefined,
    tenant: undefined,
    priority: undefined,
  });
  const limits = new Limits(worker, () => clock.shared());
  for (let i = 0; i < 7; i++) limits.reserve(tenant, () => ({ inputTokens: 1, outputTokens: 1 }));
  clock.advance(100);
  assertEquals([told(), sync.open().length], [["set g/limit-1 7"], 2]);
  clock.advance(30_000);
  assertEquals(told(), []);
  // What is given back is taken off what is used next.
  limits.reserve(tenant, () => ({ inputTokens: 1, outputTokens: 1 })).refund();
  limits.reserve(tenant, () => ({ inputTokens: 1, outputTokens: 1 }));
  clock.advance(100);
  assertEquals(told(), ["set g/limit-2 1"]);
  clock.advance(29_900);
  assertEquals([told(), sync.open().length], [["delete g/limit-1"], 2]);
  clock.advance(30_200);
  assertEquals([told(), sync.open().length], [["delete g/limit-2"], 1], "it stays there");
  sync.stop();
});
