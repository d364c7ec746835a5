// SPDX-License-Identifier: Apache-2.0
// One exchange of external processing at its edges, over a stream that the test holds in its hand.

import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { Processing } from "../../src/front/ext_proc/processing.ts";
import { type HttpRequest, HttpResponse, type StreamController } from "../../src/front/http/exchange.ts";
import type { GrpcStream } from "../../src/grpc/stream.ts";
import { decodeTold, ProcessingRequest, type Told } from "../support/ext_proc_proto.ts";
import { Mode } from "../support/envoy_stand_in.ts";

const head = (fields: Record<string, string>, ends: boolean) => ({
  headers: {
    headers: Object.entries(fields).map(([key, value]) => ({ key, raw_value: new TextEncoder().encode(value) })),
  },
  end_of_stream: ends,
});

/** A stream that has no room until it is given some. */
class HeldStream {
  readonly told: Told[] = [];
  hasRoom = false;
  #waiting: (() => void)[] = [];

  send(bytes: Uint8Array): void {
    this.told.push(decodeTold(bytes));
  }

  whenRoom(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    for (const call of this.#waiting.splice(0)) call();
  }

  taken(): void {}

  close(): void {
    this.give();
  }
}

function begin(source: { pull(controller: StreamController): void; cancel(): void }) {
  const stream = new HeldStream();
  const deadlines = new Deadlines(new ManualClock());
  const processing = new Processing(stream as unknown as GrpcStream, {
    deadlines,
    patience: { headMs: 1_000, firstByteMs: 1_000, idleMs: 1_000 },
    bounds: { fallbacks: 0, bodyBytes: 1_000 },
    async answer({ carrier, target }: HttpRequest) {
      const endpoint = {
        row: 0,
        generation: 0,
        address: { hostname: "h", port: 1 },
        rank: 0,
        host: "h:1",
        name: "h:1",
      };
      const carried = { endpoint, others: [], path: target, fields: "", body: new Uint8Array(0), rest: undefined };
      await carrier!.send(carried, () => {});
      return new HttpResponse(200, source);
    },
  });
  const say = (request: Record<string, unknown>) =>
    processing.message(ProcessingRequest.encode(ProcessingRequest.fromObject(request)).finish());
  say({
    request_headers: head({ ":method": "GET", ":path": "/v1/x" }, true),
    protocol_config: { request_body_mode: Mode.fullDuplex, response_body_mode: Mode.fullDuplex },
  });
  return { stream, processing, say, deadlines };
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("Processing: a client that leaves while the whole answer waits for it ends the answer", async () => {
  let cancelled = 0;
  const { stream, processing, say, deadlines } = begin({
    pull: (controller) => controller.enqueue(new Uint8Array(10)),
    cancel: () => void cancelled++,
  });
  await settle();
  say({ response_headers: head({ ":status": "200" }, false) });
  say({ response_body: { body: new Uint8Array(10), end_of_stream: true } });
  await settle();
  assert(stream.told.some(({ response_body }) => response_body), "a piece is on its way, and there is no room");
  processing.gone();
  stream.give();
  await settle();
  assertEquals(cancelled, 1);
  deadlines.close();
});

Deno.test("Processing: an answer that cannot be made ends the call, and itself", async () => {
  let cancelled = 0;
  const { stream, processing, say, deadlines } = begin({
    pull() {
      throw new Error("it broke");
    },
    cancel: () => void cancelled++,
  });
  await settle();
  say({ response_headers: head({ ":status": "200" }, false) });
  await settle();
  assertEquals([processing.over, cancelled >= 1], [true, true]);
  assert(!stream.told.some(({ response_body }) => response_body));
  deadlines.close();
});
