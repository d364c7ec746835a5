// SPDX-License-Identifier: Apache-2.0
// The mock engine's other endpoints: what vLLM serves beside chat and text completions, with answers of the right shape
// and no model behind them. Stored responses are kept in this engine, as real ones are.

import { isTrue } from "../openai/lenient.ts";
import { scriptOf } from "./script.ts";
import { word } from "./text.ts";

type Body = Record<string, unknown>;

const tokensOf = (value: unknown): number => Math.max(1, Math.ceil(JSON.stringify(value ?? "").length / 4));
const hex = (): string => crypto.randomUUID().replaceAll("-", "");
const now = (): number => Math.floor(Date.now() / 1_000);

/** Most stored responses of one engine. */
const MAX_STORED = 1_000;

export class MockSurface {
  readonly #stored = new Map<string, Body>();

  /** Answers a POST with a JSON body; undefined for a path that is not of this surface. */
  post(path: string, body: Body): Response | undefined {
    switch (path) {
      case "/v1/embeddings":
        return this.#embeddings(body);
      case "/v1/responses":
        return this.#respond(body);
      case "/v1/messages":
        return this.#message(body);
      case "/v1/messages/count_tokens":
        return Response.json({ input_tokens: tokensOf(body.messages) });
      case "/rerank":
      case "/v1/rerank":
      case "/v2/rerank":
        return this.#rerank(body);
      case "/score":
      case "/v1/score":
        return this.#score(body);
      case "/tokenize": {
        const count = tokensOf(body.prompt ?? body.messages);
        return Response.json({ count, max_model_len: 32_768, tokens: Array.from({ length: count }, (_, i) => i) });
      }
      case "/detokenize":
        if (!Array.isArray(body.tokens) || !body.tokens.every(Number.isSafeInteger)) return invalid("tokens");
        return Response.json({ prompt: body.tokens.map((token) => word(Math.abs(token), Math.abs(token))).join("") });
      default:
        return undefined;
    }
  }

  /** GET, DELETE and cancellation of a stored response. */
  stored(method: string, id: string, part?: string): Response {
    const response = this.#stored.get(id);
    if (!response) {
      const error = { message: `Response with id '${id}' not found.`, type: "NotFoundError", param: null, code: 404 };
      return Response.json({ error }, { status: 404 });
    }
    if (part === "input_items") {
      return Response.json({ object: "list", data: [], first_id: null, last_id: null, has_more: false });
    }
    if (method !== "DELETE") return Response.json(response);
    this.#stored.delete(id);
    return Response.json({ id, object: "response", deleted: true });
  }

  #embeddings({ model, input, encoding_format }: Body): Response {
    const texts = Array.isArray(input) && typeof input[0] !== "number" ? input : [input];
    const vector = [0.25, -0.5, 0.125];
    const bytes = new Uint8Array(new Float32Array(vector).buffer);
    const embedding = encoding_format === "base64" ? btoa(String.fromCharCode(...bytes)) : vector;
    const tokens = tokensOf(input);
    return Response.json({
      object: "list",
      data: texts.map((_, index) => ({ object: "embedding", index, embedding })),
      model,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    });
  }

  #respond(body: Body): Response {
    const { previous_response_id } = body;
    if (typeof previous_response_id === "string" && !this.#stored.has(previous_response_id)) {
      return this.stored("GET", previous_response_id);
    }
    const id = `resp_${hex()}`;
    const { choices: [{ pieces, tool, finish }] } = scriptOf(asChat(body), { seed: 1, most: undefined, standard: 2 });
    const text = pieces.join("");
    const part = { type: "output_text", text, annotations: [], logprobs: [] };
    const item = tool
      ? { id: `fc_${hex()}`, type: "function_call", call_id: tool.id, name: tool.name, arguments: text }
      : { id: `msg_${hex()}`, type: "message", role: "assistant", content: [part] };
    const usage = {
      input_tokens: tokensOf(body.input),
      input_tokens_details: { cached_tokens: 0 },
      output_tokens: pieces.length,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: tokensOf(body.input) + pieces.length,
    };
    const response = {
      id,
      object: "response",
      created_at: now(),
      status: finish === "length" ? "incomplete" : "completed",
      error: null,
      incomplete_details: null,
      instructions: body.instructions ?? null,
      metadata: body.metadata ?? {},
      model: body.model,
      output: [{ ...item, status: "completed" }],
      previous_response_id: previous_response_id ?? null,
      parallel_tool_calls: true,
      temperature: body.temperature ?? 1,
      text: body.text ?? { format: { type: "text" } },
      tool_choice: body.tool_choice ?? "auto",
      tools: body.tools ?? [],
      top_p: body.top_p ?? 1,
      usage,
    };
    if (this.#stored.size >= MAX_STORED) this.#stored.delete(this.#stored.keys().next().value!);
    this.#stored.set(id, response);
    if (!isTrue(body.stream)) return Response.json(response);
    const begun = { ...response, status: "in_progress", output: [], usage: null };
    const place = { item_id: item.id, output_index: 0 };
    const inPart = { ...place, content_index: 0 };
    const started = tool ? { ...item, arguments: "" } : { ...item, content: [] };
    return events([
      ["response.created", { response: begun }],
      ["response.in_progress", { response: begun }],
      ["response.output_item.added", { output_index: 0, item: { ...started, status: "in_progress" } }],
      ...(tool
        ? [
          ...pieces.map((delta): ResponseEvent => ["response.function_call_arguments.delta", { ...place, delta }]),
          ["response.function_call_arguments.done", { ...place, name: tool.name, arguments: text }] as ResponseEvent,
        ]
        : [
          ["response.content_part.added", { ...inPart, part: { ...part, text: "" } }] as ResponseEvent,
          ...pieces.map((delta): ResponseEvent => ["response.output_text.delta", { ...inPart, delta, logprobs: [] }]),
          ["response.output_text.done", { ...inPart, text, logprobs: [] }] as ResponseEvent,
          ["response.content_part.done", { ...inPart, part }] as ResponseEvent,
        ]),
      ["response.output_item.done", { output_index: 0, item: { ...item, status: "completed" } }],
      ["response.completed", { response }],
    ]);
  }

  #message(body: Body): Response {
    const content = [{ type: "text", text: word(1, 0) + word(1, 1) }];
    const message = {
      id: `msg_${hex()}`,
      type: "message",
      role: "assistant",
      model: body.model,
      content,
      stop_reason: "end_turn",
      stop_sequence: null,
      usage: { input_tokens: tokensOf(body.messages), output_tokens: 2, cache_read_input_tokens: 0 },
    };
    if (!isTrue(body.stream)) return Response.json(message);
    const begun = { ...message, content: [], stop_reason: null, usage: { ...message.usage, output_tokens: 0 } };
    return events([
      ["message_start", { message: begun }],
      ["content_block_start", { index: 0, content_block: { type: "text", text: "" } }],
      ["content_block_delta", { index: 0, delta: { type: "text_delta", text: word(1, 0) } }],
      ["content_block_delta", { index: 0, delta: { type: "text_delta", text: word(1, 1) } }],
      ["content_block_stop", { index: 0 }],
      ["message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 2 } }],
      ["message_stop", {}],
    ]);
  }

  #rerank({ model, query, documents }: Body): Response {
    const all = Array.isArray(documents) ? documents : [];
    const results = all.map((document, index) => ({
      index,
      document: { text: document },
      relevance_score: 1 / (index + 1),
    }));
    return Response.json({
      id: `rerank-${hex()}`,
      model,
      usage: { total_tokens: tokensOf([query, documents]) },
      results,
    });
  }

  #score({ model, text_1, text_2 }: Body): Response {
    const all = Array.isArray(text_2) ? text_2 : [text_2];
    const tokens = tokensOf([text_1, text_2]);
    return Response.json({
      id: `score-${hex()}`,
      object: "list",
      created: now(),
      model,
      data: all.map((_, index) => ({ index, object: "score", score: 1 / (index + 2) })),
      usage: { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0 },
    });
  }
}

function invalid(field: string): Response {
  const error = {
    message: `The field ${field} is missing or invalid.`,
    type: "BadRequestError",
    param: field,
    code: 400,
  };
  return Response.json({ error }, { status: 400 });
}

type ResponseEvent = [type: string, data: Body];

// A response's request in chat's words, as far as the answer goes by it.
function asChat({ input, tools, tool_choice, text }: Body) {
  const items = Array.isArray(input) ? input as Body[] : [];
  const last = items.at(-1);
  const role = last === undefined || last.type === undefined || last.type === "message" ? last?.role ?? "user" : "tool";
  return { messages: [{ role }], tools, tool_choice, response_format: (text as Body | undefined)?.format };
}

function events(list: ResponseEvent[]): Response {
  const text = list.map(([type, data], i) => {
    const numbered = type.startsWith("response.") ? { sequence_number: i } : {};
    return `event: ${type}\ndata: ${JSON.stringify({ type, ...numbered, ...data })}\n\n`;
  });
  return new Response(text.join(""), { headers: { "content-type": "text/event-stream; charset=utf-8" } });
}
