// SPDX-License-Identifier: Apache-2.0
// gRPC's health service (grpc.health.v1): Check answers once, Watch tells every change.

import protobuf from "protobufjs";
import { type GrpcStream, Status, type StreamHandler } from "./stream.ts";

const { Reader, Writer } = protobuf;

const SERVING = 1;
const NOT_SERVING = 2;
/** How often a watched state is looked at. */
const LOOK_MS = 500;

/** Begins a call of the health service; undefined for a path that is none. */
export function health(path: string, stream: GrpcStream, ready: () => boolean): StreamHandler | undefined {
  if (path === "/grpc.health.v1.Health/Check") return new Check(stream, ready);
  return path === "/grpc.health.v1.Health/Watch" ? new Watch(stream, ready) : undefined;
}

// HealthCheckRequest: the service, 1; whichever is asked for, what counts is whether requests can be served.
function check(bytes: Uint8Array): void {
  const reader = Reader.create(bytes);
  while (reader.pos < reader.len) reader.skipType(reader.uint32() & 7);
}

function told(ready: boolean): Uint8Array {
  return Writer.create().uint32(8).uint32(ready ? SERVING : NOT_SERVING).finish();
}

class Check implements StreamHandler {
  constructor(readonly stream: GrpcStream, readonly ready: () => boolean) {}

  message(bytes: Uint8Array): void {
    try {
      check(bytes);
    } catch (error) {
      return this.stream.close(Status.invalidArgument, (error as Error).message);
    }
    this.stream.send(told(this.ready()));
    this.stream.close();
  }

  ended(): void {
    this.stream.close(Status.invalidArgument, "there was no message");
  }

  gone(): void {}
}

class Watch implements StreamHandler {
  #timer: ReturnType<typeof setInterval> | undefined;
  #last: boolean | undefined;

  constructor(readonly stream: GrpcStream, readonly ready: () => boolean) {}

  message(): void {
    this.#look();
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS);
  }

  #look(): void {
    const ready = this.ready();
    if (ready !== this.#last) this.stream.send(told(ready));
    this.#last = ready;
  }

  ended(): void {
    if (this.#timer === undefined) this.stream.close(Status.invalidArgument, "there was no message");
  }

  leaving(): void {
    if (this.#last !== false) this.stream.send(told(false));
    this.gone();
    this.stream.close();
  }

  gone(): void {
    clearInterval(this.#timer);
  }
}
