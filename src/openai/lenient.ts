// SPDX-License-Identifier: Apache-2.0
// Options as engines read them: vLLM and SGLang take a boolean and a number in other spellings too (pydantic's lax mode).
// What is none of these is for the engine to refuse.

const TRUE = new Set(["1", "t", "true", "on", "y", "yes"]);

/** Whether an engine would read this as true: true, 1, or a word for it in any case. */
export function isTrue(value: unknown): boolean {
  return value === true || value === 1 || (typeof value === "string" && TRUE.has(value.trim().toLowerCase()));
}

/** A count, as a number or in digits; undefined for anything else. */
export function countOf(value: unknown): number | undefined {
  if (typeof value === "string" && /^\s*\d{1,15}(\.0+)?\s*$/.test(value)) return Number(value);
  return typeof value === "number" && value >= 0 ? value : undefined;
}
