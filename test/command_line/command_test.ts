// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { type Command, helpOf, readArguments, UsageError } from "../../src/command_line/command.ts";
import { COMMANDS, overview, runCommand } from "../../src/command_line/commands.ts";

const command: Command = {
  name: "try",
  summary: "",
  operands: { shown: "FILE ...", least: 1, most: 2 },
  options: [
    { name: "color", value: "NAME", help: "A color" },
    { name: "peer", value: "HOST:PORT", many: true, help: "A peer" },
    { name: "loud", help: "Loud" },
  ],
  run: () => 0,
};

Deno.test("arguments are read by a command's description", () => {
  const given = readArguments(command, ["a", "--color", "red", "--peer=x:1", "--peer", "y:2", "--loud", "b"]);
  assertEquals([given.text("color"), given.texts("peer"), given.has("loud")], ["red", ["x:1", "y:2"], true]);
  assertEquals(given.arguments, ["a", "b"]);
  const without = readArguments(command, ["12"]);
  assertEquals([without.text("color"), without.texts("peer"), without.has("loud")], [undefined, [], false]);
  assertEquals(without.arguments, ["12"]);
});

Deno.test("wrong arguments say what is right", () => {
  for (
    const [args, message] of [
      [["a", "--colour", "red"], "did you mean --color?"],
      [["a", "--zebra"], "Unknown option --zebra\n"],
      [["a", "--color"], "--color needs a value"],
      [["a", "--color", "red", "--color", "blue"], "--color is given twice"],
      [[], "takes 1 to 2 argument"],
      [["a", "b", "c"], "not 3"],
    ] as const
  ) {
    const error = assertThrows(() => readArguments(command, [...args]), UsageError);
    assertStringIncludes(error.message, message);
    assertStringIncludes(error.message, "Usage: aigw try FILE ... [options]");
  }
});

Deno.test("every command is listed, has help, and takes no unknown option", async () => {
  for (const one of COMMANDS) {
    assertStringIncludes(overview(), `  ${one.name}`);
    const help = helpOf(one);
    for (const { name } of one.options) assertStringIncludes(help, `--${name}`);
    for (const line of help.split("\n")) assert(line.length <= 130, line);
    assertEquals(new Set(one.options.map(({ name }) => name)).size, one.options.length);
    await assertRejects(() => runCommand([one.name, "--no-such-option-at-all"]), UsageError, "Unknown option");
  }
  await assertRejects(() => runCommand(["check-confg"]), UsageError, 'did you mean "check-config"?');
});

/** What a shell says to a script; undefined where there is no such shell. */
async function shell(name: string, args: string[]): Promise<{ code: number; out: string; err: string } | undefined> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(name, { args }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, out: text(stdout), err: text(stderr) };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function completions(name: string): Promise<string> {
  const lines: string[] = [];
  const { log } = console;
  console.log = (line: string) => lines.push(line);
  try {
    assertEquals(await runCommand(["completion", name]), 0);
  } finally {
    console.log = log;
  }
  return lines.join("\n");
}

Deno.test("completions name every command and option, and shells take them", async () => {
  for (const name of ["bash", "zsh", "fish"]) {
    const script = await completions(name);
    for (const one of COMMANDS) {
      assertStringIncludes(script, one.name);
      for (const option of one.options) assertStringIncludes(script, option.name);
    }
    const checked = await shell(name, ["-n", "-c", script]);
    if (checked === undefined) console.log(`no ${name} here: its completions are not tried`);
    else assertEquals([checked.code, checked.err], [0, ""], name);
  }
  const script = await completions("bash");
  const complete = async (...words: string[]) => {
    const tried = `${script}\nCOMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${
      words.length - 1
    }; _aigw; echo "\${COMPREPLY[@]}"`;
    const said = await shell("bash", ["-c", tried]);
    return said?.out.trim().split(" ");
  };
  const first = await complete("aigw", "se");
  if (first === undefined) return;
  assertEquals(first, ["serve"]);
  assertEquals(await complete("aigw", "serve", "--con"), ["--config"]);
  assertEquals(await complete("aigw", "completion", "f"), ["fish"]);
  assertEquals(await complete("aigw", "serve", "--workers", ""), [""]);
});
