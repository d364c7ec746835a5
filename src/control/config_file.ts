// SPDX-License-Identifier: Apache-2.0
// Configurations as a gateway takes them: out of a file, checked by the engines that they name as well.

import { ConfigError, filesOf, loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { engineIssues } from "../engines/check.ts";
import type { ConfigSource } from "./reloader.ts";

/** Throws ConfigError. */
export async function loadChecked(path: string): Promise<Config> {
  const config = await loadConfig(path);
  const issues = engineIssues(config);
  if (issues.length > 0) throw new ConfigError(path, issues);
  return config;
}

/** A configuration file. @param override Changes what the command line decides. */
export function configFile(path: string, override: (config: Config) => void): ConfigSource {
  return {
    name: path,
    async load() {
      const config = await loadChecked(path);
      override(config);
      return config;
    },
    files: (config) => [path, ...filesOf(config)],
  };
}

/** A configuration that is the command line's, or a program's, alone. */
export function fixedConfig(config: Config): ConfigSource {
  return { name: "command line", load: () => Promise.resolve(structuredClone(config)), files: filesOf };
}
