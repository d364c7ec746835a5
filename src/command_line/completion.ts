// SPDX-License-Identifier: Apache-2.0
// `aigw completion SHELL`: completions of commands, options and files.

import { type Command, type OptionSpec, UsageError } from "./command.ts";

const SHELLS: Readonly<Record<string, (commands: readonly Command[]) => string>> = { bash, zsh, fish };

/** @param commands All of them, asked for when it runs. */
export function completionCommand(commands: () => readonly Command[]): Command {
  const names = Object.keys(SHELLS);
  return {
    name: "completion",
    summary: "Print completions for bash, zsh or fish",
    operands: { shown: names.join("|"), least: 1, most: 1 },
    options: [],
    notes:
      'For this shell: source <(aigw completion bash), or for zsh after "autoload -U compinit; compinit" the same\n' +
      "with zsh; for fish: aigw completion fish | source. They complete the program aigw, not deno task aigw",
    run(given) {
      const [shell] = given.arguments;
      if (!Object.hasOwn(SHELLS, shell)) {
        throw new UsageError(`completion: there are ${names.join(", ")}, not ${shell}`);
      }
      console.log(SHELLS[shell](commands()));
      return 0;
    },
  };
}

const takesFile = ({ value }: Pick<OptionSpec, "value">): boolean => value === "FILE" || value === "FOLDER";
const operandIsFile = ({ operands }: Command): boolean => operands?.shown.startsWith("FILE") ?? false;
const optionsOf = ({ options }: Command): string[] => [...options.map(({ name }) => `--${name}`), "--help"];

function bash(commands: readonly Command[]): string {
  const cases = commands.map((command) => {
    const words = command.name === "completion" ? Object.keys(SHELLS) : optionsOf(command);
    return `    ${command.name}) words="${words.join(" ")}"; files=${operandIsFile(command) ? 1 : 0} ;;`;
  });
  const values = [...new Set(commands.flatMap(({ options }) => options).filter(({ value }) => value !== undefined))];
  const files = values.filter(takesFile).map(({ name }) => `--${name}`);
  const others = values.filter((option) => !takesFile(option)).map(({ name }) => `--${name}`);
  return `_aigw() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} words files=0
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${commands.map(({ name }) => name).join(" ")} --help --version" -- "$word"))
    return
  fi
  case "$before" in
    ${[...new Set(files)].join("|")}) COMPREPLY=($(compgen -f -- "$word")); return ;;
    ${[...new Set(others)].join("|")}) return ;;
  esac
  case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
    *) return ;;
  esac
  if [ "$files" = 1 ] && [ "\${word#-}" = "$word" ]; then COMPREPLY=($(compgen -f -- "$word"));
  else COMPREPLY=($(compgen -W "$words" -- "$word")); fi
}
complete -o filenames -F _aigw aigw`;
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const firstLine = (text: string): string => text.split("\n")[0];

function zsh(commands: readonly Command[]): string {
  const described = (text: string) => firstLine(text).replaceAll(/[[\]:]/g, (sign) => `\\${sign}`);
  const names = commands.map(({ name, summary }) => `    ${quoted(`${name}:${described(summary)}`)}`);
  const cases = commands.map((command) => {
    const options = command.options.map((option) => {
      const value = option.value === undefined ? "" : `:${option.value}:${takesFile(option) ? "_files" : ""}`;
      return quoted(`${option.many ? "*" : ""}--${option.name}[${described(option.help)}]${value}`);
    });
    const operand = command.name === "completion"
      ? [quoted(`1:shell:(${Object.keys(SHELLS).join(" ")})`)]
      : operandIsFile(command)
      ? [quoted("*:file:_files")]
      : [];
    return `    ${command.name}) _arguments ${[...options, quoted("--help[Print its help]"), ...operand].join(" ")} ;;`;
  });
  return `#compdef aigw
_aigw() {
  local -a commands=(
${names.join("\n")}
  )
  if (( CURRENT == 2 )); then _describe command commands; return; fi
  local command=$words[2]
  words=("\${(@)words[2,-1]}"); (( CURRENT-- ))
  case $command in
${cases.join("\n")}
  esac
}
compdef _aigw aigw`;
}

function fish(commands: readonly Command[]): string {
  const lines = ["complete -c aigw -f"];
  for (const command of commands) {
    const { name, summary, options } = command;
    lines.push(`complete -c aigw -n __fish_use_subcommand -a ${name} -d ${quoted(summary)}`);
    const within = `-n '__fish_seen_subcommand_from ${name}'`;
    for (const option of options) {
      const value = option.value === undefined ? "" : takesFile(option) ? " -r -F" : " -x";
      lines.push(`complete -c aigw ${within} -l ${option.name}${value} -d ${quoted(firstLine(option.help))}`);
    }
    if (operandIsFile(command)) lines.push(`complete -c aigw ${within} -F`);
    if (name === "completion") lines.push(`complete -c aigw ${within} -a ${quoted(Object.keys(SHELLS).join(" "))}`);
  }
  return lines.join("\n");
}
