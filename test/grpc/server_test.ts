// SPDX-License-Identifier: Apache-2.0
// The gRPC server against the library's client: messages of every size, both sides' flow control, ends of every kind, and
// that nobody is turned away when many calls are reset, as Envoy resets them.

import { Buffer } from "node:buffer";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import { assert, assertEquals } from "@std/assert";
import { systemClock } from "../../src/base/clock.ts";
import { concat } from "../../src/base/bytes.ts";
import { ErrorCode, Flag, FrameType, FrameWriter, PREFACE, Setting } from "../../src/grpc/frames.ts";
import { encodeFields } from "../../src/grpc/hpack.ts";
import { health } from "../../src/grpc/health.ts";
import { GrpcServer } from "../../src/grpc/server.ts";
import type { GrpcStream, StreamHandler } from "../../src/grpc/stream.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const raw = (bytes: Uint8Array) => Buffer.from(bytes);

/** Sends every message back, unless its client does not take what is sent. */
class Echo implements StreamHandler {
  /** Most bytes that a call had and did not take. */
  static most = 0;
  #held = 0;
  #ended = false;
  readonly #waiting: Uint8Array[] = [];

  constructor(readonly stream: GrpcStream, readonly open: Set<GrpcStream>) {
    open.add(stream);
  }

  message(bytes: Uint8Array): void {
    this.#waiting.push(bytes.slice());
    this.#held += bytes.length;
    Echo.most = Math.max(Echo.most, this.#held);
    this.#send();
  }

  #send(): void {
    while (this.#waiting.length > 0 && this.stream.hasRoom) {
      const message = this.#waiting.shift()!;
      this.stream.send(message);
      this.stream.taken(message.length);
      this.#held -= message.length;
    }
    if (this.#waiting.length > 0) return void this.stream.whenRoom().then(() => this.#send());
    if (!this.#ended) return;
    this.open.delete(this.stream);
    this.stream.close();
  }

  ended(): void {
    this.#ended = true;
    this.#send();
  }

  gone(): void {
    this.open.delete(this.stream);
  }
}

interface Served extends AsyncDisposable {
  readonly server: GrpcServer;
  readonly client: Client;
  readonly open: ReadonlySet<GrpcStream>;
  state: boolean;
}

function serve(streams = 100, messageBytes = 4_194_304): Served {
  const open = new Set<GrpcStream>();
  const served = { state: true };
  const server = new GrpcServer({ hostname: "127.0.0.1", port: 0 }, {
    clock: systemClock,
    limits: { streams, messageBytes, headerBytes: 16_384 },
    methods: (path, stream) =>
      path === "/test.Echo/Echo" ? new Echo(stream, open) : health(path, stream, () => served.state),
  });
  const client = new Client(`127.0.0.1:${server.address.port}`, credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.use_local_subchannel_pool": 1,
  });
  return Object.assign(served, {
    server,
    client,
    open,
    async [Symbol.asyncDispose]() {
      client.close();
      await server.shutdown();
    },
  });
}

const echo = ({ client }: Served) => client.makeBidiStreamRequest("/test.Echo/Echo", raw, (bytes: Uint8Array) => bytes);

function unary({ client }: Served, path: string, bytes = new Uint8Array(0)): Promise<Uint8Array | ServiceError> {
  return new Promise((resolve) =>
    client.makeUnaryRequest(path, raw, (told: Uint8Array) => told, bytes, (error, told) => resolve(error ?? told!))
  );
}

Deno.test("GrpcServer: 60 calls at once, each with messages of any size, come back as they went", async () => {
  await using served = serve();
  const random = new Random(seed);
  await Promise.all(Array.from({ length: 60 }, async (_, i) => {
    const messages = Array.from(
      { length: 1 + random.below(12) },
      () => new Uint8Array(random.below(random.chance(0.1) ? 1_500_000 : 40_000)).fill(i + random.below(9)),
    );
    const call = echo(served);
    const back: Uint8Array[] = [];
    const over = new Promise<void>((resolve, reject) => {
      call.on("data", (bytes: Uint8Array) => back.push(bytes)).on("end", resolve).on("error", reject);
    });
    for (const message of messages) call.write(message);
    call.end();
    await over;
    assertEquals(back.map(({ length }) => length), messages.map(({ length }) => length));
    assert(back.every((bytes, k) => bytes.every((byte) => byte === messages[k][0])));
  }));
  await until(() => served.open.size === 0, "no stream is left");
});

Deno.test("GrpcServer: a client that takes nothing holds up itself alone", async () => {
  await using served = serve();
  Echo.most = 0;
  const slow = echo(served);
  slow.pause();
  slow.on("error", () => {});
  for (let i = 0; i < 400; i++) slow.write(new Uint8Array(100_000));
  // It does not take what comes back, so it is not asked for more; others go on.
  for (let i = 0; i < 20; i++) {
    const call = echo(served);
    const over = new Promise<number>((resolve, reject) => {
      let bytes = 0;
      call.on("data", (one: Uint8Array) => bytes += one.length).on("end", () => resolve(bytes)).on("error", reject);
    });
    call.write(new Uint8Array(50_000));
    call.end();
    assertEquals(await over, 50_000);
  }
  slow.cancel();
  assert(Echo.most < 4_000_000, `${Echo.most} bytes were held of a client that takes nothing`);
  await until(() => served.open.size === 0, "no stream is left");
});

Deno.test("GrpcServer: who waits for room is woken when the client goes, also behind the end of the call", async () => {
  let [asked, woken] = [0, 0];
  const server = new GrpcServer({ hostname: "127.0.0.1", port: 0 }, {
    clock: systemClock,
    limits: { streams: 10, messageBytes: 1_000, headerBytes: 16_384 },
    methods: (path, stream) => ({
      message() {
        stream.send(new Uint8Array(20_000_000)); // more than its client lets come
        stream.whenRoom().then(() => woken++);
        if (path === "/test/closed") stream.close();
        asked++;
      },
      ended() {},
      gone() {},
    }),
  });
  // A client that lets nothing come.
  const socket = await Deno.connect({ hostname: "127.0.0.1", port: server.address.port });
  const out = new FrameWriter();
  out.settings([[Setting.initialWindowSize, 0]]);
  for (const [i, path] of ["/test/open", "/test/closed"].entries()) {
    const id = 2 * i + 1;
    const block = encodeFields([":method", "POST", ":scheme", "http", ":path", path]);
    out.frame(FrameType.headers, Flag.endHeaders, id, block.length).set(block);
    out.frame(FrameType.data, 0, id, 6).set([0, 0, 0, 0, 1, 7]);
    await socket.write(i === 0 ? concat([PREFACE, out.take()]) : out.take());
    await until(() => asked === i + 1, "it has been asked");
    assertEquals(woken, i, "nobody is woken before");
    out.reset(id, ErrorCode.cancel);
    await socket.write(out.take());
    await until(() => woken === i + 1, `${path} is woken`, 5_000).finally(() => i === 1 && socket.close());
  }
  await server.shutdown();
});

Deno.test("GrpcServer: what cannot be served ends with a status that says why", async () => {
  await using served = serve(100, 1_000);
  const unknown = await unary(served, "/test.Echo/Other") as ServiceError;
  assertEquals([unknown.code, unknown.details], [12, "there is no method /test.Echo/Other"]);
  const call = echo(served);
  const failed = new Promise<ServiceError>((resolve) => call.on("error", (error) => resolve(error as ServiceError)));
  call.on("data", () => {});
  call.write(new Uint8Array(1_001));
  const { code, details } = await failed;
  assertEquals([code, details], [8, "a message of 1001 bytes, at most 1000 are taken"]);
});

Deno.test("GrpcServer: 6,000 calls that their client resets, 32 at a time, and none is refused", async () => {
  await using served = serve();
  let left = 6_000;
  await Promise.all(Array.from({ length: 32 }, async () => {
    while (left-- > 0) {
      const call = echo(served);
      await new Promise<void>((resolve, reject) => {
        call.on("error", (error) => (error as ServiceError).code === 1 ? resolve() : reject(error));
        call.on("data", () => {
          call.cancel();
          resolve();
        });
        call.write(new Uint8Array(10));
      });
    }
  }));
  await until(() => served.open.size === 0, "no stream is left");
});

Deno.test("GrpcServer: more calls than one connection may have wait, and are served", async () => {
  await using served = serve(4);
  const ends = await Promise.all(Array.from({ length: 40 }, async () => {
    const call = echo(served);
    call.write(new Uint8Array(5));
    call.end();
    return await new Promise<string>((resolve) =>
      call.on("data", () => {}).on("end", () => resolve("end")).on("error", String)
    );
  }));
  assertEquals(new Set(ends), new Set(["end"]));
});

Deno.test("GrpcServer: a shutdown lets calls finish and takes no new connection", async () => {
  await using served = serve();
  const call = echo(served);
  const back: number[] = [];
  const over = new Promise<void>((resolve, reject) => {
    call.on("data", (bytes: Uint8Array) => back.push(bytes.length)).on("end", resolve).on("error", reject);
  });
  call.write(new Uint8Array(1));
  await until(() => back.length === 1, "the first message is back");
  const stopped = served.server.shutdown();
  call.write(new Uint8Array(2));
  await until(() => back.length === 2, "the second message is back, though the server is about to end");
  call.end();
  await over;
  await stopped;
});

Deno.test("gRPC health: Check tells the state, Watch every change of it", async () => {
  await using served = serve();
  const check = () => unary(served, "/grpc.health.v1.Health/Check", Uint8Array.from([10, 1, 97]));
  assertEquals([...await check() as Uint8Array], [8, 1]);
  const watch = served.client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", raw, raw, new Uint8Array(0));
  const seen: number[] = [];
  watch.on("data", (bytes: Uint8Array) => seen.push(bytes[1])).on("error", () => {});
  await until(() => seen.length === 1, "the present state");
  served.state = false;
  await until(() => seen.length === 2, "the new one");
  assertEquals([...await check() as Uint8Array], [8, 2]);
  assertEquals(seen, [1, 2]);
  watch.cancel();
  assertEquals((await unary(served, "/grpc.health.v1.Health/Check", Uint8Array.from([255])) as ServiceError).code, 3);
});

Deno.test("GrpcServer: 3,000 connections that send anything leave it serving", async () => {
  await using served = serve();
  const random = new Random(seed);
  const preface = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  const settings = Uint8Array.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
  const frame = (): Uint8Array => {
    const length = random.below(30);
    const wrong = random.chance(0.1) ? 1 : 0;
    const head = [wrong, 0, length, random.below(11), random.below(64), 0, 0, 0, random.below(8)];
    return Uint8Array.from([...head, ...Array.from({ length }, () => random.below(256))]);
  };
  for (let round = 0; round < 100; round++) {
    await Promise.all(Array.from({ length: 30 }, async () => {
      const socket = await Deno.connect({ hostname: "127.0.0.1", port: served.server.address.port });
      try {
        if (random.chance(0.9)) await socket.write(preface);
        if (random.chance(0.9)) await socket.write(settings);
        for (let k = random.below(6); k > 0; k--) await socket.write(frame());
        await socket.closeWrite();
        const buffer = new Uint8Array(4_096);
        while (await socket.read(buffer) !== null);
      } catch {
        // it was thrown out
      }
      socket.close();
    }));
  }
  assertEquals([...await unary(served, "/grpc.health.v1.Health/Check") as Uint8Array], [8, 1]);
  await until(() => served.open.size === 0, "no stream is left");
});
