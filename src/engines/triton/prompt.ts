// SPDX-License-Identifier: Apache-2.0
// The prompt of a request as text, for engines that know no messages: a chat goes through the model's chat template.

import { Template } from "@huggingface/jinja";
import { GatewayError } from "../../base/errors.ts";
import type { InferenceRequest } from "../../openai/request.ts";

/** ChatML, for models without a template in the config. */
const CHATML =
  "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

export interface TemplateOptions {
  readonly template?: string;
  readonly bosToken: string;
  readonly eosToken: string;
}

export class PromptTemplate {
  readonly #template: Template;

  /** Throws Error when the template is none. */
  constructor(readonly options: TemplateOptions) {
    this.#template = new Template(options.template ?? CHATML);
  }

  /** Throws GatewayError (invalid_request) for content that is no text and for what the template itself refuses. */
  render({ kind, body }: InferenceRequest): string {
    if (kind === "completion") {
      if (typeof body.prompt === "string") return body.prompt;
      throw new GatewayError("invalid_request", "`prompt` is to be one string for this model's engine", "prompt");
    }
    const messages = (body.messages as Record<string, unknown>[]).map((message, i) => ({
      ...message,
      content: textOf(message.content, i),
    }));
    const { bosToken, eosToken } = this.options;
    const extra = typeof body.chat_template_kwargs === "object" ? body.chat_template_kwargs : {};
    try {
      return this.#template.render({
        ...extra,
        messages,
        tools: body.tools ?? null,
        add_generation_prompt: true,
        bos_token: bosToken,
        eos_token: eosToken,
      });
    } catch (error) {
      throw new GatewayError(
        "invalid_request",
        `The chat template refuses these messages: ${(error as Error).message}`,
        "messages",
        error,
      );
    }
  }
}

function textOf(content: unknown, i: number): string {
  if (content === undefined || content === null) return "";
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? content as Record<string, unknown>[] : [];
  if (parts.length > 0 && parts.every((part) => typeof part?.text === "string")) {
    return parts.map(({ text }) => text).join("");
  }
  throw new GatewayError(
    "invalid_request",
    `\`messages[${i}].content\` is to be text for this model's engine`,
    `messages[${i}].content`,
  );
}
