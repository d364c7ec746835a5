// SPDX-License-Identifier: Apache-2.0
// A request to a Triton endpoint: from OpenAI's JSON to tensors, over KServe gRPC or over the generate extension of
// Triton's HTTP server. Towards the rest of the gateway its answer looks like that of an OpenAI engine.

import { GatewayError } from "../../base/errors.ts";
import type { RuleConfig, TritonConfig } from "../../config/models.ts";
import type { InferenceRequest } from "../../openai/request.ts";
import type { OutgoingRequest } from "../engine.ts";
import { CompletionWriter } from "./completion.ts";
import { wrapGenerate } from "./generate_call.ts";
import { GrpcCall, type TritonOptions } from "./grpc_call.ts";
import { PromptTemplate } from "./prompt.ts";
import { inputTensors, maxTokensOf, toGenerateBody } from "./tensors.ts";

const encoder = new TextEncoder();
const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/** Makes requests for Triton endpoints; compiled chat templates are kept. */
export class TritonTranscoder {
  readonly #templates = new Map<TritonConfig | undefined, PromptTemplate>();

  constructor(readonly options: TritonOptions) {}

  /** Throws GatewayError (invalid_request) for what such an engine cannot do. */
  outgoing(call: InferenceRequest, rule: RuleConfig): OutgoingRequest {
    if (call.kind !== "chat" && call.kind !== "completion") {
      throw new GatewayError("invalid_request", "This model's engine serves chat and text completions only", "model");
    }
    const triton = rule.triton;
    const vllm = triton?.model_backend === "vllm";
    const counts = triton?.token_counts ?? vllm;
    const defaults = { maxTokens: triton?.max_tokens ?? 1_024, stop: triton?.stop ?? [], vllm, counts };
    const prompt = this.#template(triton).render(call);
    const tensors = inputTensors(call, prompt, defaults);
    const writer = () =>
      new CompletionWriter({
        chat: call.kind === "chat",
        stream: call.stream,
        model: call.model,
        maxTokens: maxTokensOf(call.body, defaults),
        includeUsage: true,
        countsParts: vllm,
        estimatedPromptTokens: Math.ceil(encoder.encode(prompt).length / this.options.bytesPerToken),
        bytesPerToken: this.options.bytesPerToken,
      });
    const model = rule.target_model || triton?.model || "ensemble";
    if (triton?.protocol !== "http") {
      return {
        method: "POST",
        target: "",
        fields: "",
        body: EMPTY,
        transcoder: new GrpcCall(this.options, { model, tensors, stream: call.stream, writer }),
      };
    }
    return {
      method: "POST",
      target: `/v2/models/${encodeURIComponent(model)}/${call.stream ? "generate_stream" : "generate"}`,
      fields: "",
      body: encoder.encode(toGenerateBody(tensors)),
      transcoder: { wrap: (opened) => wrapGenerate(opened, writer(), call.stream, this.options.eventBytes) },
    };
  }

  #template(triton: TritonConfig | undefined): PromptTemplate {
    let template = this.#templates.get(triton);
    if (!template) {
      template = new PromptTemplate({
        template: triton?.chat_template,
        bosToken: triton?.bos_token ?? "",
        eosToken: triton?.eos_token ?? "",
      });
      this.#templates.set(triton, template);
    }
    return template;
  }
}
