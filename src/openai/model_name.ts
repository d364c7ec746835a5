// SPDX-License-Identifier: Apache-2.0
// Replaces the model's name in a request body by splicing, not by printing the parsed body: every other byte stays.

/** The JSON text with each top-level "model" set to `name`. `text` is valid JSON whose top level is an object. */
export function replaceModelName(text: string, name: string): string {
  let result = "";
  let copied = 0;
  let depth = 0;
  let atKey = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '"') {
      const end = stringEnd(text, i);
      if (depth === 1 && atKey && JSON.parse(text.slice(i, end)) === "model") {
        const value = skipSpace(text, skipSpace(text, end) + 1);
        const valueEnd = stringEnd(text, value);
        if (text[value] === '"') {
          result += text.slice(copied, value) + JSON.stringify(name);
          copied = valueEnd;
          i = valueEnd - 1;
          atKey = false;
          continue;
        }
      }
      i = end - 1;
      atKey = false;
    } else if (character === "{" || character === "[") {
      depth++;
      atKey = character === "{";
    } else if (character === "}" || character === "]") depth--;
    else if (character === ",") atKey = depth === 1;
  }
  return result + text.slice(copied);
}

function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === '"') return i + 1;
  }
  return text.length;
}

function skipSpace(text: string, at: number): number {
  while (at < text.length && " \t\r\n".includes(text[at])) at++;
  return at;
}
