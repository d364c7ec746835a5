// SPDX-License-Identifier: Apache-2.0
// `aigw import`: files of the Go gateway to the text of a configuration file of ours.

import { parseAll, stringify } from "@std/yaml";
import { importGo } from "../config/go_import.ts";
import { ConfigError, parseConfig } from "../config/load.ts";

export interface ImportedText {
  /** YAML, notes on what has no counterpart in comments before it. */
  readonly text: string;
  /** What keeps it from being a valid configuration. */
  readonly problems: readonly string[];
}

/** Throws ConfigError for a file that cannot be read, and where none configures the gateway. */
export async function importFiles(files: readonly string[]): Promise<ImportedText> {
  const documents: unknown[] = [];
  for (const file of files) documents.push(...await documentsOf(file));
  const { config, notes, plugins } = importGo(documents);
  if (plugins === 0) {
    const message = "no model_mapping_rule is there: expected an Envoy bootstrap or EnvoyFilter of the Go gateway";
    throw new ConfigError(files.join(", "), [{ path: "", message }]);
  }
  const lines = [`Imported from ${files.join(", ")}.`, ...notes].map((line) => `# ${line}\n`);
  const text = `${lines.join("")}\n${stringify(config, { lineWidth: -1 })}`.trimEnd();
  try {
    parseConfig(config, "the result");
    return { text, problems: [] };
  } catch (error) {
    if (error instanceof ConfigError) return { text, problems: [error.message] };
    throw error;
  }
}

async function documentsOf(file: string): Promise<unknown[]> {
  let text: string;
  try {
    text = await Deno.readTextFile(file);
  } catch (error) {
    throw new ConfigError(file, [{ path: "", message: `cannot be read: ${(error as Error).message}` }]);
  }
  try {
    const parsed = parseAll(text);
    return Array.isArray(parsed) ? parsed : [parsed];
  } catch (error) {
    throw new ConfigError(file, [{ path: "", message: `neither YAML nor JSON: ${(error as Error).message}` }]);
  }
}
