// SPDX-License-Identifier: Apache-2.0
// The commands around a configuration: check it, print its schema, make one from the Go gateway's.

import { configJsonSchema } from "../config/load.ts";
import { type Config, configNotes } from "../config/schema.ts";
import { diff } from "../config/snapshot.ts";
import { loadChecked } from "../control/config_file.ts";
import type { Command } from "./command.ts";
import { importFiles } from "./import_files.ts";

export const checkConfigCommand: Command = {
  name: "check-config",
  summary: "Validate a configuration",
  operands: { shown: "FILE", least: 1, most: 1 },
  options: [{
    name: "against",
    value: "FILE",
    help: "The configuration of a running gateway: what of the change needs a restart",
  }],
  async run(given) {
    const [file] = given.arguments;
    const config = await loadChecked(file);
    const endpoints = config.clusters.reduce((sum, cluster) => sum + cluster.endpoints.length, 0);
    const models = Object.keys(config.model_mapping_rule).length;
    const counts = [[models, "model"], [config.clusters.length, "cluster"], [endpoints, "endpoint"]] as const;
    console.log(
      `${file} is valid: ${counts.map(([count, of]) => `${count} ${of}${count === 1 ? "" : "s"}`).join(", ")}`,
    );
    for (const note of [...configNotes(config), ...secretNotes(config)]) console.log(`note: ${note}`);
    const against = given.text("against");
    if (against === undefined) return 0;
    const { sections, restart } = diff(await loadChecked(against), config);
    console.log(sections.length === 0 ? "nothing changes" : `changes: ${sections.join(", ")}`);
    if (restart.length > 0) console.log(`needs a restart: ${restart.join(", ")}`);
    else console.log("a running gateway takes it on as it is");
    return 0;
  },
};

/** Environment variables that it names and that are not set here; where it is served they may be. */
function secretNotes({ admin, metadata_center, clusters }: Config): string[] {
  const named: [path: string, variable: string | undefined][] = [
    ["admin.token_env", admin.token_env],
    ["metadata_center.token_env", metadata_center.token_env],
    ...clusters.map((
      { name, api_key_env },
    ): [string, string | undefined] => [`cluster "${name}": api_key_env`, api_key_env]),
  ];
  return named.flatMap(([path, variable]) =>
    variable === undefined || Deno.env.has(variable) ? [] : [`${path}: ${variable} is not set here`]
  );
}

export const importCommand: Command = {
  name: "import",
  summary: "Write a configuration from those of the Go gateway",
  operands: { shown: "FILE ...", least: 1, most: Infinity },
  options: [],
  notes:
    "Reads an Envoy bootstrap or EnvoyFilter of the Go gateway, and clusters.json or ServiceEntry files with its\n" +
    "endpoints. Prints our configuration as YAML, with what has no counterpart in comments before it.",
  async run(given) {
    const { text, problems } = await importFiles(given.arguments);
    console.log(text);
    for (const problem of problems) console.error(problem);
    return problems.length === 0 ? 0 : 1;
  },
};

export const configSchemaCommand: Command = {
  name: "config-schema",
  summary: "Print the JSON Schema of the configuration",
  options: [],
  run() {
    console.log(JSON.stringify(configJsonSchema(), null, 2));
    return 0;
  },
};
