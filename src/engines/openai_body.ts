// SPDX-License-Identifier: Apache-2.0
// The body that an OpenAI engine gets: the client's bytes, with another model name for an alias or an adapter, and with
// the wish for the usage of a stream.

import { concat } from "../base/bytes.ts";
import type { InferenceRequest } from "../openai/request.ts";
import { isTrue } from "../openai/lenient.ts";
import { type Change, spliceBody } from "../openai/splice.ts";

/** Kinds whose streams tell their usage only when asked. */
const ASKED = new Set(["chat", "completion"]);
const OPEN_BRACE = 123;
const encoder = new TextEncoder();
const WISH = '{"stream_options":{"include_usage":true},';

/** Whether the client itself wants the usage of its stream. */
export function asksForUsage({ kind, streamOptions }: InferenceRequest): boolean {
  const options = streamOptions as { include_usage?: unknown } | null | undefined;
  return !ASKED.has(kind) || (typeof options === "object" && isTrue(options?.include_usage));
}

/** A body, and what stands before it in ASCII. */
export interface OutgoingBody {
  readonly opening?: string;
  readonly body: Uint8Array<ArrayBuffer>;
}

/** @param targetModel The name to send; empty for the client's. */
export function outgoingBody(
  call: InferenceRequest,
  bytes: Uint8Array<ArrayBuffer>,
  targetModel: string,
  usageAccounting: boolean,
): OutgoingBody {
  const wish = usageAccounting && call.stream && !asksForUsage(call);
  // Fast paths: nothing changes, or one key goes in front, without a copy.
  if (targetModel === "" && !wish) return { body: bytes };
  if (call.modelAt) {
    const body = concat([
      bytes.subarray(0, call.modelAt.start),
      encoder.encode(targetModel),
      bytes.subarray(call.modelAt.end),
    ]);
    return { body };
  }
  if (call.kind === "form") return { body: bytes };
  if (targetModel === "" && call.streamOptions === undefined) {
    return { opening: WISH, body: bytes.subarray(bytes.indexOf(OPEN_BRACE) + 1) };
  }
  const changes: Change[] = [];
  if (targetModel !== "") changes.push({ key: "model", value: targetModel });
  if (wish) {
    const options = call.streamOptions;
    const given = typeof options === "object" && options !== null ? options : {};
    changes.push({ key: "stream_options", value: { ...given, include_usage: true } });
  }
  return { body: spliceBody(bytes, changes) };
}
