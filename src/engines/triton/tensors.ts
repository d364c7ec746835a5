// SPDX-License-Identifier: Apache-2.0
// The input tensors of a request to a model in Triton, and their two spellings: KServe v2 contents for gRPC, and the flat
// JSON of Triton's generate extension. Names and datatypes are those of the ensemble model of TensorRT-LLM's backend; the
// one of vLLM takes its sampling parameters as JSON.

import { GatewayError } from "../../base/errors.ts";
import type { InferenceRequest } from "../../openai/request.ts";

type Datatype = "BYTES" | "BOOL" | "INT32" | "UINT64" | "FP32";

/** One input, of shape [1, values]. */
export interface Tensor {
  readonly name: string;
  readonly datatype: Datatype;
  readonly values: readonly (string | number | boolean)[];
}

export interface GenerationDefaults {
  readonly maxTokens: number;
  readonly stop: readonly string[];
  /** The model is vLLM's. */
  readonly vllm: boolean;
  /** Whether its answer is to count its tokens. */
  readonly counts: boolean;
}

const OPTIONAL: [field: string, name: string, datatype: Datatype][] = [
  ["temperature", "temperature", "FP32"],
  ["top_p", "top_p", "FP32"],
  ["top_k", "top_k", "INT32"],
  ["seed", "random_seed", "UINT64"],
  ["presence_penalty", "presence_penalty", "FP32"],
  ["frequency_penalty", "frequency_penalty", "FP32"],
  ["repetition_penalty", "repetition_penalty", "FP32"],
  ["length_penalty", "len_penalty", "FP32"],
  ["min_tokens", "min_tokens", "INT32"],
];

/** Fields that ask for what the backend cannot do, and the value that asks for nothing. */
const UNSUPPORTED: [field: string, idle: unknown][] = [
  ["n", 1],
  ["best_of", 1],
  ["echo", false],
  ["suffix", ""],
  ["logprobs", false],
  ["response_format", undefined],
  ["tools", undefined],
  ["functions", undefined],
];

const MAX_INT32 = 2 ** 31 - 1;
const RANGES: Partial<Record<Datatype, [min: number, max: number]>> = {
  INT32: [-MAX_INT32, MAX_INT32],
  UINT64: [0, Number.MAX_SAFE_INTEGER],
};

/** Most tokens of the answer to a request. */
export function maxTokensOf(body: InferenceRequest["body"], defaults: Pick<GenerationDefaults, "maxTokens">): number {
  const asked = body.max_completion_tokens ?? body.max_tokens ?? defaults.maxTokens;
  if (typeof asked !== "number" || !Number.isInteger(asked) || asked < 1 || asked > MAX_INT32) {
    const message = `\`max_tokens\` is to be a whole number from 1 to ${MAX_INT32}`;
    throw new GatewayError("invalid_request", message, "max_tokens");
  }
  return asked;
}

/** Throws GatewayError (invalid_request) for what the backend cannot do and for values of another type. */
export function inputTensors(
  { body, stream }: InferenceRequest,
  prompt: string,
  defaults: GenerationDefaults,
): Tensor[] {
  const { counts, vllm } = defaults;
  for (const [field, idle] of UNSUPPORTED) {
    const value = body[field];
    const text = field === "response_format" && (value as { type?: string } | undefined)?.type === "text";
    if (Array.isArray(value) && value.length === 0) continue;
    if (value === undefined || value === null || value === idle || text) continue;
    throw new GatewayError("invalid_request", `\`${field}\` is not supported by this model's engine`, field);
  }
  const tensors: Tensor[] = [
    { name: "text_input", datatype: "BYTES", values: [prompt] },
    { name: "stream", datatype: "BOOL", values: [stream] },
    { name: "exclude_input_in_output", datatype: "BOOL", values: [true] },
  ];
  if (counts) tensors.push(flag("return_num_input_tokens"), flag("return_num_output_tokens"));
  const options = samplingOptions(body);
  const stop = [...defaults.stop, ...stopWords(body.stop)];
  const maxTokens = maxTokensOf(body, defaults);
  if (vllm) {
    const parameters = Object.fromEntries(options.map(({ field, value }) => [field, value]));
    const values = [JSON.stringify({ ...parameters, max_tokens: maxTokens, ...(stop.length > 0 ? { stop } : {}) })];
    return [...tensors, flag("return_finish_reason"), { name: "sampling_parameters", datatype: "BYTES", values }];
  }
  tensors.push({ name: "max_tokens", datatype: "INT32", values: [maxTokens] });
  if (stop.length > 0) tensors.push({ name: "stop_words", datatype: "BYTES", values: stop });
  for (const { name, datatype, value } of options) tensors.push({ name, datatype, values: [value] });
  return tensors;
}

function flag(name: string): Tensor {
  return { name, datatype: "BOOL", values: [true] };
}

// The optional fields that are there, each with its tensor's name.
function samplingOptions(body: InferenceRequest["body"]) {
  const options: { field: string; name: string; datatype: Datatype; value: number }[] = [];
  for (const [field, name, datatype] of OPTIONAL) {
    const value = body[field];
    if (value === undefined || value === null) continue;
    const whole = datatype !== "FP32";
    const [min, max] = RANGES[datatype] ?? [-Infinity, Infinity];
    const fits = typeof value === "number" && Number.isFinite(value) && value >= min && value <= max;
    if (!fits || (whole && !Number.isSafeInteger(value))) {
      const range = whole ? ` from ${min} to ${max}` : "";
      throw new GatewayError(
        "invalid_request",
        `\`${field}\` is to be a ${whole ? "whole " : ""}number${range}`,
        field,
      );
    }
    options.push({ field, name, datatype, value });
  }
  return options;
}

function stopWords(stop: unknown): string[] {
  if (stop === undefined || stop === null) return [];
  const words = Array.isArray(stop) ? stop : [stop];
  if (words.every((word) => typeof word === "string")) return words.filter((word) => word !== "");
  throw new GatewayError("invalid_request", "`stop` is to be a string or an array of strings", "stop");
}

const CONTENTS: Record<Datatype, string> = {
  BYTES: "bytes_contents",
  BOOL: "bool_contents",
  INT32: "int_contents",
  UINT64: "uint64_contents",
  FP32: "fp32_contents",
};

/** A tensor as KServe v2's InferInputTensor. */
export function toInferInput({ name, datatype, values }: Tensor): Record<string, unknown> {
  const contents = datatype === "BYTES" ? values.map((value) => new TextEncoder().encode(String(value))) : values;
  return { name, datatype, shape: [1, values.length], contents: { [CONTENTS[datatype]]: contents } };
}

/** Tensors as the body of a generate request. */
export function toGenerateBody(tensors: readonly Tensor[]): string {
  return JSON.stringify(
    Object.fromEntries(tensors.map(({ name, values }) => [name, values.length === 1 ? values[0] : values])),
  );
}
