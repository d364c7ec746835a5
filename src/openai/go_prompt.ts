// SPDX-License-Identifier: Apache-2.0
// The prompt text of a chat as the Go gateway hashes it: the JSON that its OpenAI library (openai-go) writes of the
// messages, with the library's order of fields and its escapes. What the library does not know is not in it: tools,
// reasoning, other fields; content with a part of an unknown kind is left out whole.
//
// Only shapes of which that is known for certain have such a text.

type Fields = Readonly<Record<string, unknown>>;

/** Thrown and caught here: what Go makes of this is not known. */
class Foreign extends Error {}

/** The text; undefined when Go's gateway has none, or another one than can be told. */
export function goPromptText(messages: readonly unknown[]): string | undefined {
  if (messages.length === 0) return undefined;
  try {
    return `[${messages.map(messageText).join(",")}]`;
  } catch (error) {
    if (error instanceof Foreign) return undefined;
    throw error;
  }
}

/** The fields of a message by its role, in the library's order; `role` stands last. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  developer: ["content", "name"],
  system: ["content", "name"],
  user: ["content", "name"],
  assistant: ["refusal", "name", "audio", "content", "function_call", "tool_calls"],
  tool: ["content", "tool_call_id"],
};

function messageText(message: unknown): string {
  const fields = objectOf(message);
  const role = stringOf(fields.role);
  if (!Object.hasOwn(FIELDS, role)) throw new Foreign();
  let text = "{";
  for (const key of FIELDS[role]) {
    const value = fieldText(role, key, fields[key]);
    if (value !== undefined) text += `"${key}":${value},`;
  }
  return `${text}"role":"${role}"}`;
}

/** undefined: the field is left out. */
function fieldText(role: string, key: string, value: unknown): string | undefined {
  switch (key) {
    case "content":
      return contentText(role, value);
    case "name":
    case "refusal":
      if (value === null) return "null";
      return value === undefined ? undefined : quoted(stringOf(value));
    case "tool_call_id":
      return quoted(stringOf(value ?? ""));
    case "audio":
      return value === null || value === undefined ? undefined : `{"id":${quoted(filled(objectOf(value).id))}}`;
    case "function_call":
      return value === null || value === undefined ? undefined : functionText(value);
    default: {
      if (value === null || value === undefined) return undefined;
      if (!Array.isArray(value)) throw new Foreign();
      return `[${value.map(toolCallText).join(",")}]`;
    }
  }
}

function toolCallText(call: unknown): string {
  const { id, function: called, type } = objectOf(call);
  const written = called === undefined ? undefined : functionText(called);
  const name = written === undefined ? "" : `"function":${written},`;
  return `{"id":${quoted(stringOf(id ?? ""))},${name}"type":${quoted(type === undefined ? "function" : filled(type))}}`;
}

function functionText(value: unknown): string | undefined {
  const { arguments: given, name } = objectOf(value);
  const [text, called] = [stringOf(given ?? ""), stringOf(name ?? "")];
  return text === "" && called === "" ? undefined : `{"arguments":${quoted(text)},"name":${quoted(called)}}`;
}

function contentText(role: string, content: unknown): string | undefined {
  if (content === null || content === undefined) return undefined;
  if (typeof content === "string") return quoted(content);
  if (!Array.isArray(content)) throw new Foreign();
  const parts: string[] = [];
  for (const part of content) {
    const text = partText(role, objectOf(part));
    if (text === undefined) return undefined;
    parts.push(text);
  }
  return `[${parts.join(",")}]`;
}

/** undefined: a part of a kind that the library does not know there. */
function partText(role: string, part: Fields): string | undefined {
  const { type } = part;
  if (type === "text") return `{"text":${quoted(stringOf(part.text))},"type":"text"}`;
  if (role !== "user" && role !== "assistant") throw new Foreign();
  if (role === "assistant") {
    return type === "refusal" ? `{"refusal":${quoted(stringOf(part.refusal))},"type":"refusal"}` : undefined;
  }
  switch (type) {
    case "image_url": {
      const { url, detail } = objectOf(part.image_url);
      const how = detail === undefined ? "" : `,"detail":${quoted(filled(detail))}`;
      return `{"image_url":{"url":${quoted(filled(url))}${how}},"type":"image_url"}`;
    }
    case "input_audio": {
      const { data, format } = objectOf(part.input_audio);
      return `{"input_audio":{"data":${quoted(filled(data))},"format":${quoted(filled(format))}},"type":"input_audio"}`;
    }
    case "file": {
      const file = objectOf(part.file);
      const known = ["file_data", "file_id", "filename"].filter((key) => file[key] !== undefined);
      if (known.length === 0) return '{"type":"file"}';
      return `{"file":{${known.map((key) => `"${key}":${quoted(filled(file[key]))}`).join(",")}},"type":"file"}`;
    }
    default:
      return undefined;
  }
}

function objectOf(value: unknown): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Foreign();
  return value as Fields;
}

function stringOf(value: unknown): string {
  if (typeof value !== "string") throw new Foreign();
  return value;
}

function filled(value: unknown): string {
  if (value === "") throw new Foreign();
  return stringOf(value);
}

/** Characters that Go's JSON escapes and JSON.stringify does not. */
const ESCAPED = /[<>&\u2028\u2029]/g;

// Half a surrogate pair becomes one thing or another there.
function quoted(text: string): string {
  if (!text.isWellFormed()) throw new Foreign();
  return JSON.stringify(text).replace(
    ESCAPED,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
