// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { ServedRequest } from "../../src/front/http/served.ts";
import { readBody } from "../../src/front/http/body.ts";
import { end } from "../../src/gateway/accounting.ts";
import { callParts, settle } from "../support/parts.ts";

const LIMITS = { bytes: 100_000, ms: 1_000 };

/** A request whose body the test sends, with an announced length or without. */
function sending(length: number | undefined) {
  const told = { cancelled: false };
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>({
    start(given) {
      controller = given;
    },
    cancel() {
      told.cancelled = true;
    },
  });
  const headers = length === undefined ? undefined : { "content-length": String(length) };
  const request = new ServedRequest(new Request("http://x/", { method: "POST", body, headers }));
  const parts = callParts();
  const call = parts.open({ headers });
  return { ...parts, request, call, told, controller };
}

async function codeOf(reading: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => reading, GatewayError)).code;
}

Deno.test("readBody: whole, with an announced length or without", async () => {
  for (const length of [10, 90_000, undefined]) {
    const { request, call, controller, deadlines } = sending(length);
    const reading = readBody(request, call, LIMITS);
    const half = new Uint8Array((length ?? 90_000) / 2).fill(7);
    controller.enqueue(half);
    await settle();
    controller.enqueue(half);
    controller.close();
    assertEquals((await reading).bytes, new Uint8Array(2 * half.length).fill(7));
    end(call, "ok");
    assertEquals(deadlines.size, 0);
  }
});

Deno.test("readBody: too large by what is announced, or by what comes, which is read no further", async () => {
  const announced = sending(100_001);
  assertEquals(await codeOf(readBody(announced.request, announced.call, LIMITS)), "body_too_large");
  const counted = sending(undefined);
  const reading = readBody(counted.request, counted.call, LIMITS);
  counted.controller.enqueue(new Uint8Array(100_000));
  await settle();
  counted.controller.enqueue(new Uint8Array(1));
  assertEquals(await codeOf(reading), "body_too_large");
  assert(counted.told.cancelled);
  for (const { call } of [announced, counted]) end(call, "body_too_large");
});

Deno.test("readBody: a body that does not come in its time is given up", async () => {
  for (const length of [10, undefined]) {
    const { request, call, clock, told } = sending(length);
    const reading = readBody(request, call, LIMITS);
    clock.advance(980);
    const early = await Promise.race([reading, settle().then(() => "waits")]);
    assertEquals(early, "waits");
    clock.advance(40);
    assertEquals(await codeOf(reading), "request_timeout");
    if (length === undefined) assert(told.cancelled);
    end(call, "request_timeout");
  }
});

Deno.test("readBody: the request's own time counts where it is shorter than the body's", async () => {
  const { request, call, open, clock, told } = sending(undefined);
  const short = open({ headers: { "x-aigw-timeout-ms": "500" } });
  const reading = readBody(request, short, LIMITS);
  clock.advance(520);
  assertEquals(await codeOf(reading), "deadline_exceeded");
  assert(told.cancelled);
  for (const one of [short, call]) end(one, "deadline_exceeded");
});

Deno.test("readBody: a client that leaves in the middle of its body", async () => {
  const { request, call, controller } = sending(undefined);
  const reading = readBody(request, call, LIMITS);
  controller.enqueue(new Uint8Array(10));
  controller.error(new Error("reset"));
  assertEquals(await codeOf(reading), "client_closed");
  end(call, "client_closed");
});
