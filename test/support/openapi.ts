// SPDX-License-Identifier: Apache-2.0
// Checks answers against OpenAI's own schemas, when they are at hand.

import { Ajv2020 } from "ajv/dist/2020.js";
import { sharedText } from "./shared.ts";

/** A function that throws when a value is not what the named schema says; it accepts all when the schemas are absent. */
export function responseValidator(): (schema: string, value: unknown) => void {
  const text = sharedText("data/openai/openapi.chat-core-subset.json");
  if (text === undefined) return () => {};
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: false });
  ajv.addSchema({ ...JSON.parse(text, withNull), $id: "openai" });
  return (schema, value) => {
    const validate = ajv.getSchema(`openai#/components/schemas/${schema}`);
    if (!validate) throw new Error(`There is no schema ${schema}`);
    if (!validate(value)) {
      throw new Error(`${schema}: ${ajv.errorsText(validate.errors)}\n${JSON.stringify(value, null, 2)}`);
    }
  };
}

// OpenAPI 3.0's `nullable`, which some of the schemas still use, in the words of JSON Schema.
function withNull(_: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || (value as { nullable?: unknown }).nullable !== true) return value;
  const { nullable: _nullable, ...rest } = value as Record<string, unknown>;
  return { anyOf: [rest, { type: "null" }] };
}
