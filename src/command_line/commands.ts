// SPDX-License-Identifier: Apache-2.0
// Every command, and what the command line says when none is named.

import { VERSION } from "../base/version.ts";
import { type Command, helpOf, meant, readArguments, UsageError } from "./command.ts";
import { completionCommand } from "./completion.ts";
import { checkConfigCommand, configSchemaCommand, importCommand } from "./configuration.ts";
import { healthCommand } from "./health.ts";
import { benchCommand, replayCommand } from "./load.ts";
import { metadataCenterCommand } from "./metadata_center.ts";
import { mockEngineCommand } from "./mock_engine.ts";
import { demoCommand, serveCommand } from "./serve.ts";

const versionCommand: Command = {
  name: "version",
  summary: "Print the version",
  options: [],
  run() {
    console.log(VERSION);
    return 0;
  },
};

export const COMMANDS: readonly Command[] = [
  serveCommand,
  demoCommand,
  metadataCenterCommand,
  mockEngineCommand,
  healthCommand,
  benchCommand,
  replayCommand,
  checkConfigCommand,
  importCommand,
  configSchemaCommand,
  completionCommand(() => COMMANDS),
  versionCommand,
];

/** What `aigw --help` prints. */
export function overview(): string {
  const shown = COMMANDS.map(({ name, summary, operands }) => {
    return `  ${`${name}${operands ? ` ${operands.shown}` : ""}`.padEnd(26)}${summary}`;
  });
  return [
    `aigw ${VERSION}: an inference scheduler for LLM fleets`,
    "",
    "Usage: aigw COMMAND [options]",
    "",
    "Commands:",
    ...shown,
    "",
    "aigw COMMAND --help tells more.",
  ].join("\n");
}

/** Runs the command line; returns the exit status. Throws UsageError for wrong arguments. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args[0] === "--version" ? ["version"] : args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    console.log(overview());
    return name === undefined ? 2 : 0;
  }
  const command = COMMANDS.find((one) => one.name === name);
  if (command === undefined) {
    const nearest = meant(name, COMMANDS.map((one) => one.name));
    const hint = nearest === undefined ? `\n\n${overview()}` : `; did you mean "${nearest}"?`;
    throw new UsageError(`There is no command "${name}"${hint}`);
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(helpOf(command));
    return 0;
  }
  return await command.run(readArguments(command, rest));
}
