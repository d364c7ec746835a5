// SPDX-License-Identifier: Apache-2.0

import { PromptTokenizer, type TokenizerFiles } from "./prompt_tokenizer.ts";
import type { TokenizerConfig } from "./prompt_renderer.ts";
import type { TokenizerPaths } from "./protocol.ts";
import type { SegmentCache } from "./segment_cache.ts";

/**
 * A tokenizer out of its files: `tokenizer.json`, and, beside it unless named, `tokenizer_config.json` and the template
 * `chat_template.jinja`. Throws Error, naming the file, when one cannot be read or is not what it is to be.
 */
export function loadTokenizer(paths: TokenizerPaths, cache: SegmentCache): PromptTokenizer {
  const files = readFiles(paths);
  try {
    return new PromptTokenizer(files, cache);
  } catch (error) {
    throw new Error(`${paths.file}: ${(error as Error).message}`);
  }
}

/** What stands in the files. Throws Error as `loadTokenizer` does. */
export function readFiles({ file, configFile, templateFile }: TokenizerPaths): TokenizerFiles {
  const folder = file.slice(0, file.lastIndexOf("/") + 1);
  const config = configFile === undefined ? json(`${folder}tokenizer_config.json`, true) : json(configFile, false);
  const template = templateFile === undefined ? text(`${folder}chat_template.jinja`, true) : text(templateFile, false);
  return { tokenizer: json(file, false), config: (config ?? {}) as TokenizerConfig, template };
}

function json(file: string, optional: boolean): unknown {
  const read = text(file, optional);
  if (read === undefined) return undefined;
  try {
    return JSON.parse(read);
  } catch (error) {
    throw new Error(`${file} is no JSON: ${(error as Error).message}`);
  }
}

function text(file: string, optional: boolean): string | undefined {
  try {
    return Deno.readTextFileSync(file);
  } catch (error) {
    if (optional && error instanceof Deno.errors.NotFound) return undefined;
    throw new Error(`${file} cannot be read: ${(error as Error).message}`);
  }
}
