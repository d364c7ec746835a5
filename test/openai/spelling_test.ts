// SPDX-License-Identifier: Apache-2.0
// One prompt in many spellings, as clients write it, and prompts that differ: by what the engine's template sees.

import { assert, assertEquals } from "@std/assert";
import type { Kind } from "../../src/openai/api.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest } from "../../src/openai/request.ts";
import { DecisionMaker } from "../../src/scheduler/decision.ts";
import { freshKernel } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

const { digest } = new DecisionMaker(freshKernel());
const text = (kind: Kind, body: unknown) =>
  promptText(decodeRequest(kind, new TextEncoder().encode(JSON.stringify(body))), {
    digest,
    payloadCharacters: 4_194_304,
  });

/** What is said, whatever the spelling. */
interface Turn {
  role: "user" | "assistant" | "tool";
  parts: string[];
  calls: { id: string; name: string; arguments: Record<string, unknown> }[];
  callId: string | undefined;
}

interface Conversation {
  system: string[];
  turns: Turn[];
  tools: { name: string; description: string }[];
}

const word = (random: Random) =>
  random.pick(["read", "é😀", 'a "quote"', "", "line\nfeed", "x".repeat(600), "<|im_end|>"]);
const words = (random: Random) => Array.from({ length: 1 + random.below(3) }, () => word(random));

function conversation(random: Random): Conversation {
  const turns = Array.from({ length: 1 + random.below(4) }, (): Turn => {
    const role = random.pick(["user", "assistant", "tool"] as const);
    const calls = role === "assistant" && random.chance(0.4)
      ? [{ id: `call_${random.below(99)}`, name: "f", arguments: { path: word(random), n: random.below(9) } }]
      : [];
    return { role, parts: words(random), calls, callId: role === "tool" ? `call_${random.below(99)}` : undefined };
  });
  return {
    system: random.chance(0.5) ? words(random) : [],
    turns,
    tools: random.chance(0.4) ? [{ name: `t${random.below(9)}`, description: word(random) }] : [],
  };
}

const shuffled = (random: Random, object: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(object).map((entry) => [random.next(), entry] as const).sort(([a], [b]) => a - b)
      .map(([, entry]) => entry),
  );

const mark = (random: Random) =>
  random.chance(0.3) ? { cache_control: { type: "ephemeral", ttl: random.pick(["5m", "1h"]) } } : {};
const nothing = (random: Random, ...names: string[]) =>
  Object.fromEntries(names.filter(() => random.chance(0.3)).map((name) => [name, null]));

// One part may stand as a text, several are parts always.
function spelledContent(random: Random, parts: string[], type = "text"): unknown {
  if (parts.length === 1 && random.chance(0.5)) return parts[0];
  return parts.map((one) => shuffled(random, { type, text: one, ...mark(random), ...nothing(random, "annotations") }));
}

function spelledTools(random: Random, { tools }: Conversation, anthropic: boolean) {
  if (tools.length === 0) return nothing(random, "tools");
  const spelled = tools.map(({ name, description }) => {
    const tool = { name, description, ...nothing(random, "strict") };
    return anthropic
      ? shuffled(random, { ...tool, input_schema: { type: "object" }, ...mark(random) })
      : shuffled(random, { type: "function", function: shuffled(random, tool), ...mark(random) });
  });
  return { tools: spelled };
}

function chatBody(random: Random, it: Conversation): unknown {
  const system = it.system.length === 0 ? [] : [{ role: "system", content: spelledContent(random, it.system) }];
  const turns = it.turns.map(({ role, parts, calls, callId }) =>
    shuffled(random, {
      role,
      content: spelledContent(random, parts),
      ...(callId === undefined ? nothing(random, "tool_call_id") : { tool_call_id: callId }),
      ...(calls.length === 0 ? nothing(random, "tool_calls", "name", "refusal", "audio", "function_call") : {
        tool_calls: calls.map(({ id, name, arguments: given }, index) =>
          shuffled(random, {
            id,
            type: "function",
            ...(random.chance(0.5) ? { index } : {}),
            function: shuffled(random, {
              name,
              arguments: JSON.stringify(shuffled(random, given), null, random.below(3)),
            }),
          })
        ),
      }),
      ...(role === "assistant" && random.chance(0.3) ? { annotations: [], logprobs: null } : {}),
    })
  );
  return shuffled(random, {
    model: "m",
    messages: [...system, ...turns],
    ...spelledTools(random, it, false),
    temperature: random.next(),
    ...nothing(random, "stop", "user"),
  });
}

function messagesBody(random: Random, it: Conversation): unknown {
  const line = { type: "text", text: `x-anthropic-billing-header: cch=${random.below(1e6)};` };
  const blocks = it.system.map((one) => ({ type: "text", text: one, ...mark(random) }));
  const system = it.system.length === 0 ? (random.chance(0.3) ? { system: [line] } : nothing(random, "system")) : {
    system: it.system.length === 1 && random.chance(0.5)
      ? it.system[0]
      : [...(random.chance(0.5) ? [line] : []), ...blocks],
  };
  const turns = it.turns.map(({ role, parts }) => shuffled(random, { role, content: spelledContent(random, parts) }));
  return shuffled(random, { model: "m", max_tokens: 9, messages: turns, ...system, ...spelledTools(random, it, true) });
}

function responsesBody(random: Random, it: Conversation): unknown {
  const instructions = it.system.length === 1 ? { instructions: it.system[0] } : {};
  const items = it.turns.map(({ role, parts }) => {
    const stored = random.chance(0.3) ? { id: `msg_${random.below(99)}`, status: "completed" } : {};
    const typed = random.chance(0.5) || "id" in stored ? { type: "message", ...stored } : {};
    const type = role === "assistant" ? "output_text" : "input_text";
    return shuffled(random, { role, content: spelledContent(random, parts, type), ...typed });
  });
  return shuffled(random, { model: "m", input: items, ...instructions });
}

const BODIES: [Kind, (random: Random, it: Conversation) => unknown][] = [
  ["chat", chatBody],
  ["messages", messagesBody],
  ["responses", responsesBody],
];

Deno.test("promptText: 10,000 pairs of spellings of one prompt are one prefix, and another word is another", () => {
  const random = new Random(seed);
  for (let i = 0; i < 10_000; i++) {
    const [kind, spell] = BODIES[i % BODIES.length];
    const it = conversation(random);
    const [a, b] = [spell(random, it), spell(random, it)];
    assertEquals(text(kind, a), text(kind, b), `pair ${i}: ${JSON.stringify(a)}\n${JSON.stringify(b)}`);
    const turn = random.pick(it.turns);
    turn.parts[random.below(turn.parts.length)] += "!";
    assert(text(kind, spell(random, it)) !== text(kind, a), `pair ${i} with another word`);
  }
});

Deno.test("promptText: a text and its one part, a prompt and its list, are one; token ids stay apart", () => {
  const same = (kind: Kind, ...bodies: Record<string, unknown>[]) => {
    const [first, ...others] = bodies.map((body) => text(kind, { model: "m", ...body }));
    for (const other of others) assertEquals(other, first);
  };
  const hi = { role: "user", content: "hi" };
  same("chat", { messages: [hi] }, { messages: [{ role: "user", content: [{ type: "text", text: "hi" }] }] });
  same("completion", { prompt: "Once" }, { prompt: ["Once"] });
  same("completion", { prompt: [1, 2] }, { prompt: [[1, 2]] });
  same("responses", { input: "hi" }, { input: [hi] }, {
    input: [{ type: "message", role: "user", content: [{ type: "input_text", text: "hi" }] }],
  });
  same("messages", { system: "s", messages: [hi] }, { system: [{ type: "text", text: "s" }], messages: [hi] });
  const apart = (kind: Kind, ...bodies: Record<string, unknown>[]) => {
    const texts = bodies.map((body) => text(kind, { model: "m", ...body }));
    assertEquals(new Set(texts).size, texts.length, texts.join("\n"));
  };
  apart("completion", { prompt: [1, 2] }, { prompt: [12] }, { prompt: "[1,2]x" }, { prompt: ["a", "b"] });
  apart(
    "chat",
    { messages: [{ role: "user", content: "ab" }] },
    { messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] }] },
    { messages: [{ role: "system", content: "ab" }] },
  );
});
