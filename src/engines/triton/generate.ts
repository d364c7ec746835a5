// SPDX-License-Identifier: Apache-2.0
// Triton's generate extension over HTTP: what its answers and its events say.

import type { GeneratedPart } from "./completion.ts";

/** The part of the JSON of a whole answer or of an event's data. Throws Error with the engine's message, or when it is none. */
export function generatedPart(value: unknown): GeneratedPart {
  if (typeof value !== "object" || value === null) throw new Error("the engine's answer is no JSON object");
  const { error, text_output, num_input_tokens, num_output_tokens, finish_reason } = value as Record<string, unknown>;
  if (typeof error === "string") throw new Error(error);
  const text = Array.isArray(text_output) ? text_output[0] : text_output;
  if (typeof text !== "string") throw new Error("the engine's answer has no text_output");
  const finish = Array.isArray(finish_reason) ? finish_reason[0] : finish_reason;
  return {
    text,
    usage: countsOf(num_input_tokens, num_output_tokens),
    finish: typeof finish === "string" ? finish : undefined,
  };
}

/** Token counts that newer backends give. */
export function countsOf(input: unknown, output: unknown): GeneratedPart["usage"] {
  const number = (value: unknown) => typeof value === "number" ? value : undefined;
  const [promptTokens, completionTokens] = [number(input), number(output)];
  return {
    ...(promptTokens === undefined ? {} : { promptTokens }),
    ...(completionTokens === undefined ? {} : { completionTokens }),
  };
}
