// SPDX-License-Identifier: Apache-2.0
// What a command is: one description, from which its help, the reading of its arguments, what was probably meant, and
// the completions of shells are made.

import { parseArgs } from "@std/cli/parse-args";
import { closestString } from "@std/text/closest-string";
import { levenshteinDistance } from "@std/text/levenshtein-distance";
import { parseAddress } from "../base/address.ts";

/** Wrong arguments; `message` says what to write instead. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface OptionSpec {
  /** Without its dashes. */
  readonly name: string;
  /** What stands for its value in the help; without one it is a switch. FILE and FOLDER are completed as such. */
  readonly value?: string;
  readonly many?: boolean;
  /** Lines of at most 90 characters. */
  readonly help: string;
}

/** Values by option: a text, several of a `many`, or whether a switch was given. */
export interface Given {
  readonly text: (name: string) => string | undefined;
  readonly texts: (name: string) => string[];
  readonly has: (name: string) => boolean;
  readonly arguments: readonly string[];
}

export interface Command {
  readonly name: string;
  /** One line of the list of commands. */
  readonly summary: string;
  /** What it takes beside options, as its help shows it, and how many: FILE, "FILE ...". */
  readonly operands?: { readonly shown: string; readonly least: number; readonly most: number };
  readonly options: readonly OptionSpec[];
  /** Lines of "Usage:" when they are more than one. */
  readonly usage?: readonly string[];
  /** What its help says behind the options. */
  readonly notes?: string;
  /** Returns the exit status. */
  run(given: Given): number | Promise<number>;
}

const HELP_COLUMN = 26;

/** The help of a command. */
export function helpOf({ name, operands, options, usage, notes }: Command): string {
  const rest = `${operands ? ` ${operands.shown}` : ""}${options.length > 0 ? " [options]" : ""}`;
  const lines = [...(usage ?? [`aigw ${name}${rest}`])].map((line, i) => `${i === 0 ? "Usage:" : "      "} ${line}`);
  if (options.length > 0) {
    lines.push("", "Options:");
    for (const { name, value, many, help } of options) {
      const [first, ...further] = (many ? `${help}. May be repeated` : help).split("\n");
      const left = `  --${name}${value ? ` ${value}` : ""}`;
      lines.push(left.length < HELP_COLUMN ? left.padEnd(HELP_COLUMN) + first : `${left}  ${first}`);
      for (const line of further) lines.push(" ".repeat(HELP_COLUMN) + line);
    }
  }
  if (notes !== undefined) lines.push("", notes);
  return lines.join("\n");
}

/** What was probably meant: the nearest of the names, if it is near. */
export function meant(word: string, names: readonly string[]): string | undefined {
  if (names.length === 0) return undefined;
  const nearest = closestString(word, [...names]) as string;
  const near = nearest.startsWith(word) || levenshteinDistance(word, nearest) <= Math.max(1, word.length / 3);
  return near ? nearest : undefined;
}

/** Reads a command's arguments. Throws UsageError. */
export function readArguments(command: Command, args: readonly string[]): Given {
  const { options, operands } = command;
  const wrong = (message: string): never => {
    throw new UsageError(`${message}\n\n${helpOf(command)}`);
  };
  const valued = options.filter(({ value }) => value !== undefined);
  const parsed = parseArgs([...args], {
    string: [...valued.map(({ name }) => name), "_"],
    boolean: options.filter(({ value }) => value === undefined).map(({ name }) => name),
    collect: valued.filter(({ many }) => many).map(({ name }) => name),
    unknown(option: string, key: string | undefined) {
      if (key === undefined) return true;
      const nearest = meant(key, options.map(({ name }) => name));
      return wrong(`Unknown option ${option}${nearest === undefined ? "" : `; did you mean --${nearest}?`}`);
    },
  }) as Record<string, unknown> & { _: string[] };
  const { least, most } = operands ?? { least: 0, most: 0 };
  const count = parsed._.length;
  if (count < least || count > most) {
    const wanted = least === most ? String(least) : most === Infinity ? `at least ${least}` : `${least} to ${most}`;
    wrong(`${command.name} takes ${wanted} argument${least === 1 ? "" : "s"}, not ${count}`);
  }
  for (const { name, many } of valued) {
    const value = parsed[name];
    if (value === "" || (Array.isArray(value) && value.includes(""))) wrong(`--${name} needs a value`);
    const times = args.filter((arg) => arg === `--${name}` || arg.startsWith(`--${name}=`)).length;
    if (!many && times > 1) wrong(`--${name} is given twice`);
  }
  return {
    text: (name) => parsed[name] as string | undefined,
    texts: (name) => (parsed[name] as string[] | undefined) ?? [],
    has: (name) => parsed[name] === true,
    arguments: parsed._,
  };
}

/** HOST:PORT, or undefined for none. Throws UsageError. */
export function addressIn(given: Given, option: string): string | undefined {
  const text = given.text(option);
  if (text !== undefined && parseAddress(text) === undefined) {
    throw new UsageError(`--${option}: expected HOST:PORT, found "${text}"`);
  }
  return text;
}

/** A whole number, or undefined for none. Throws UsageError. */
export function wholeIn(given: Given, option: string, min: number, max: number): number | undefined {
  const text = given.text(option);
  if (text === undefined) return undefined;
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(`--${option}: expected a whole number from ${min} to ${max}, found "${text}"`);
}

/** A number, or undefined for none. Throws UsageError. */
export function numberIn(given: Given, option: string, above: number, max: number): number | undefined {
  const text = given.text(option);
  if (text === undefined) return undefined;
  const number = Number(text);
  if (number > above && number <= max) return number;
  throw new UsageError(`--${option}: expected a number above ${above} and up to ${max}, found "${text}"`);
}
