// SPDX-License-Identifier: Apache-2.0
// The text that an engine tokenises of a request: a chat through the model's chat template, as vLLM renders it.

import { Template } from "@huggingface/jinja";

/** What the files beside a tokenizer tell of it. */
export interface TokenizerConfig {
  readonly bos_token?: string | { readonly content: string } | null;
  readonly eos_token?: string | { readonly content: string } | null;
  readonly chat_template?: string | readonly { readonly name: string; readonly template: string }[];
}

type Body = Record<string, unknown>;

/** The text, and whether the tokenizer adds its own tokens around it. */
export interface Rendered {
  readonly text: string;
  readonly special: boolean;
}

/** A template goes over the parts of a message's content, so it gets them as a list. */
const TAKES_PARTS = /\bfor\s+\w+\s+in\s+\w+(?:\.content|\[\s*['"]content['"]\s*\])/;

export class PromptRenderer {
  readonly #template: Template | undefined;
  readonly #takesParts: boolean;
  readonly #tokens: { bos_token: string; eos_token: string };

  /** @param template Jinja; that of the config by default. Throws Error when it is none. */
  constructor(config: TokenizerConfig, template?: string) {
    const { chat_template } = config;
    const text = template ??
      (typeof chat_template === "string"
        ? chat_template
        : chat_template?.find(({ name }) => name === "default")?.template);
    this.#template = text === undefined ? undefined : new Template(text);
    this.#takesParts = TAKES_PARTS.test(text ?? "");
    this.#tokens = { bos_token: contentOf(config.bos_token), eos_token: contentOf(config.eos_token) };
  }

  /** undefined for what is not text alone, what brings a template of its own, and what the template refuses. */
  render(body: Body): Rendered | undefined {
    if (typeof body.prompt === "string") return { text: body.prompt, special: body.add_special_tokens !== false };
    const { messages, tools } = body;
    if (!Array.isArray(messages) || this.#template === undefined || body.chat_template != null) return undefined;
    const plain: Body[] = [];
    for (const message of messages) {
      const one = this.#message(message);
      if (one === undefined) return undefined;
      plain.push(one);
    }
    if (body.continue_final_message === true) return undefined;
    try {
      const text = this.#template.render({
        ...this.#tokens,
        ...(typeof body.chat_template_kwargs === "object" ? body.chat_template_kwargs : {}),
        messages: plain,
        tools: Array.isArray(tools) && tools.length > 0 ? tools.map(asDeclared) : null,
        documents: body.documents ?? null,
        add_generation_prompt: body.add_generation_prompt ?? true,
      });
      return { text, special: body.add_special_tokens === true };
    } catch {
      return undefined;
    }
  }

  #message(message: unknown): Body | undefined {
    if (typeof message !== "object" || message === null) return undefined;
    const { role, name, content, tool_calls, tool_call_id, reasoning, reasoning_content } = message as Body;
    // Engines do different things with what a model thought before.
    if (reasoning != null || reasoning_content != null) return undefined;
    let texts: string[];
    if (content === null || content === undefined) texts = [];
    else if (typeof content === "string") texts = [content];
    else if (Array.isArray(content)) {
      texts = content.map((part) => typeof part === "string" ? part : part?.type === "text" ? part.text : undefined);
      if (texts.some((text) => typeof text !== "string")) return undefined;
    } else return undefined;
    const plain: Body = {
      role,
      ...(typeof name === "string" ? { name } : {}),
      ...(role === "tool" && typeof tool_call_id === "string" ? { tool_call_id } : {}),
      content: this.#takesParts && content !== null && content !== undefined
        ? texts.map((text) => ({ type: "text", text }))
        : texts.join("\n"),
    };
    if (role === "assistant" && Array.isArray(tool_calls)) plain.tool_calls = tool_calls.map(withArguments);
    return plain;
  }
}

// A tool with the fields and in the order that vLLM declares: templates print it as JSON.
function asDeclared(tool: unknown): unknown {
  const { type = "function", function: declared, ...others } = (tool ?? {}) as { type?: string; function?: Body };
  const { name, description = null, parameters = null, ...more } = declared ?? {};
  return { type, function: { name, description, parameters, ...more }, ...others };
}

// Arguments of a tool as the object that the text of them is.
function withArguments(call: unknown): unknown {
  const { function: called, ...others } = call as { function?: { arguments?: unknown } };
  if (typeof called?.arguments !== "string") return call;
  try {
    return { ...others, function: { ...called, arguments: JSON.parse(called.arguments || "{}") } };
  } catch {
    return call;
  }
}

function contentOf(token: TokenizerConfig["bos_token"]): string {
  return typeof token === "string" ? token : token?.content ?? "";
}
