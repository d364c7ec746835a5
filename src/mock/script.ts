// SPDX-License-Identifier: Apache-2.0
// What an engine without a model says: words, JSON of the shape that is asked for, or the arguments of a tool. A piece is a
// token.

import { word } from "./text.ts";

type Fields = Record<string, unknown>;

export interface ScriptedChoice {
  readonly pieces: readonly string[];
  /** The tool that it calls; its pieces are the arguments then. */
  readonly tool: { readonly id: string; readonly name: string } | undefined;
  readonly finish: "stop" | "length" | "tool_calls";
}

export interface Script {
  readonly choices: readonly ScriptedChoice[];
  /** Steps that the engine takes for it. */
  readonly steps: number;
}

/** What of a request makes the script. */
export interface Scripted {
  readonly messages?: readonly unknown[];
  readonly n?: unknown;
  readonly tools?: unknown;
  readonly tool_choice?: unknown;
  readonly response_format?: unknown;
}

export interface ScriptLengths {
  /** Makes the words. */
  readonly seed: number;
  /** Most tokens; undefined where the request sets no maximum. */
  readonly most: number | undefined;
  /** Words of an answer without a maximum. */
  readonly standard: number;
}

const MAX_CHOICES = 128;
const PIECE = 4;

export function scriptOf(request: Scripted, { seed, most, standard }: ScriptLengths): Script {
  const count = Math.min(MAX_CHOICES, Math.max(1, Math.floor(Number(request.n ?? 1)) || 1));
  const tool = calledTool(request);
  const shape = tool ? tool.parameters : shapeOf(request.response_format);
  const whole = shape === undefined ? undefined : piecesOf(JSON.stringify(valueOf(shape)));
  const length = Math.min(most ?? Infinity, whole?.length ?? most ?? standard);
  const cut = whole === undefined ? most !== undefined : length < whole.length;
  const finish = cut ? "length" : tool ? "tool_calls" : "stop";
  const choices = Array.from({ length: count }, (_, index): ScriptedChoice => ({
    pieces: whole?.slice(0, length) ?? Array.from({ length }, (_, i) => word(seed + index, i)),
    tool: tool && { id: `call_${seed}_${index}`, name: tool.name },
    finish,
  }));
  return { choices, steps: length };
}

function piecesOf(text: string): string[] {
  return text.match(new RegExp(`[\\s\\S]{1,${PIECE}}`, "g")) ?? [""];
}

// The tool that is named, or the first one for a user's message: what a tool answered is answered with words.
function calledTool(
  { tools, tool_choice: choice, messages }: Scripted,
): { name: string; parameters: Fields } | undefined {
  if (!Array.isArray(tools) || tools.length === 0 || choice === "none") return undefined;
  const functions = tools.map((tool) => ((tool as Fields | null)?.function ?? tool) as Fields);
  const named = ((choice as Fields | undefined)?.function as Fields | undefined)?.name ??
    (choice as Fields | undefined)?.name;
  const last = messages?.at(-1) as Fields | undefined;
  if (named === undefined && choice !== "required" && last?.role !== "user") return undefined;
  const chosen = functions.find(({ name }) => name === named) ?? functions[0];
  if (typeof chosen?.name !== "string") return undefined;
  return { name: chosen.name, parameters: fieldsOr(chosen.parameters) };
}

// Of chat's response_format, or of a response's text.format.
function shapeOf(format: unknown): Fields | undefined {
  const { type, json_schema, schema } = (format ?? {}) as Fields;
  if (type === "json_object") return { type: "object" };
  if (type !== "json_schema") return undefined;
  return fieldsOr((json_schema as Fields | undefined)?.schema ?? schema);
}

function fieldsOr(schema: unknown): Fields {
  return typeof schema === "object" && schema !== null ? schema as Fields : { type: "object" };
}

const MAX_DEPTH = 16;

/** A value that a JSON Schema allows, as far as its common words go. */
function valueOf(schema: Fields, root: Fields = schema, depth = 0): unknown {
  if (depth > MAX_DEPTH) return null;
  // A schema may be true or false, too.
  const inner = (value: unknown) => valueOf(typeof value === "object" && value ? value as Fields : {}, root, depth + 1);
  if (typeof schema.$ref === "string") return inner(referred(schema.$ref, root));
  if ("const" in schema) return schema.const;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  for (const key of ["anyOf", "oneOf", "allOf"]) if (Array.isArray(schema[key])) return inner(schema[key][0]);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  switch (type) {
    case "string":
      return "words";
    case "integer":
    case "number":
      return schema.minimum ?? 1;
    case "boolean":
      return true;
    case "array":
      return [inner(schema.items)];
    case "null":
      return null;
    default: {
      const properties = (schema.properties ?? {}) as Fields;
      return Object.fromEntries(Object.entries(properties).map(([name, property]) => [name, inner(property)]));
    }
  }
}

function referred(path: string, root: Fields): unknown {
  let value: unknown = root;
  for (const step of path.split("/").slice(1)) value = (value as Fields | undefined)?.[step];
  return value;
}
