// SPDX-License-Identifier: Apache-2.0
// What a gRPC server serves, and within which bounds.

import type { GrpcStream, StreamHandler } from "./stream.ts";

/** Begins a call; undefined when there is no such method. */
export type Methods = (path: string, stream: GrpcStream) => StreamHandler | undefined;

export interface GrpcLimits {
  /** Calls at once on a connection; a client that has more opens another one. */
  streams: number;
  messageBytes: number;
  headerBytes: number;
}

/** Takes what comes of a call of which nothing is wanted. */
export const NOBODY: StreamHandler = { message() {}, ended() {}, gone() {} };
