// SPDX-License-Identifier: Apache-2.0
// `deno task build:docs`: the references that are made of the program: docs/configuration.md of the schema, docs/metrics.md
// of the list of metrics, docs/command_line.md of the commands. A test holds them fresh.

import { ALIASES, FAMILIES } from "../../src/admin/metric_families.ts";
import { helpOf } from "../../src/command_line/command.ts";
import { COMMANDS, overview } from "../../src/command_line/commands.ts";
import { configJsonSchema } from "../../src/config/load.ts";
import type { Family } from "../../src/telemetry/prometheus.ts";

interface Node {
  type?: string | string[];
  description?: string;
  default?: unknown;
  properties?: Record<string, Node>;
  additionalProperties?: Node | boolean;
  items?: Node;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Node[];
  minimum?: number;
  maximum?: number;
  required?: string[];
}

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

/** What may stand there. */
function typeOf(node: Node): string {
  if (node.const !== undefined) return JSON.stringify(node.const);
  if (node.enum) return node.enum.map((value) => JSON.stringify(value)).join(", ");
  if (node.anyOf) return node.anyOf.map(typeOf).join(", or ");
  if (node.type === "array") return node.items?.properties ? "list" : `list of ${typeOf(node.items ?? {})}`;
  if (node.type === "object") return node.properties ? "section" : "map";
  const range = node.minimum === undefined && node.maximum === undefined || Math.abs(node.minimum ?? 0) > 2 ** 40
    ? ""
    : ` ${node.minimum ?? ""}–${node.maximum ?? ""}`;
  return `${node.type ?? "any"}${range}`;
}

function defaultOf({ default: value }: Node): string {
  if (value === undefined) return "";
  const text = JSON.stringify(value);
  return text.length > 60 || text === "{}" ? "" : `\`${text}\``;
}

/** Rows of a node's keys, those of sections within it behind them. */
function rowsOf(node: Node, path: string): string[] {
  const rows: string[] = [];
  for (const [key, child] of Object.entries(node.properties ?? {})) {
    const name = path === "" ? key : `${path}.${key}`;
    const required = node.required?.includes(key) && child.default === undefined ? " (needed)" : "";
    rows.push(
      `| \`${name}\` | ${cell(typeOf(child))}${required} | ${cell(defaultOf(child))} | ${
        cell(child.description ?? "")
      } |`,
    );
    rows.push(...rowsOf(insideOf(child), child.type === "array" ? `${name}[]` : isMap(child) ? `${name}.NAME` : name));
  }
  return rows;
}

const isMap = ({ type, properties }: Node) => type === "object" && properties === undefined;

function insideOf(node: Node): Node {
  if (node.type === "array") return node.items ?? {};
  if (isMap(node) && typeof node.additionalProperties === "object") return node.additionalProperties;
  return node.anyOf?.find(({ properties }) => properties !== undefined) ?? node;
}

const HEAD = ["| key | value | default | |", "| --- | --- | --- | --- |"];

function configuration(): string {
  const schema = configJsonSchema() as Node;
  const lines = [
    "# Configuration",
    "",
    "YAML or JSON. Every key, with what may stand there and what holds without it; an unknown key is an error that names",
    "the nearest one. `aigw check-config FILE` validates a file, `aigw config-schema` prints the JSON Schema for editors.",
    "This page is made of the schema by `deno task build:docs`.",
    "",
    "## Top level",
    "",
    ...HEAD,
  ];
  const sections = Object.entries(schema.properties ?? {});
  const plain = sections.filter(([, node]) => rowsOf(insideOf(node), "").length === 0);
  for (const [key, node] of plain) {
    lines.push(`| \`${key}\` | ${cell(typeOf(node))} | ${cell(defaultOf(node))} | ${cell(node.description ?? "")} |`);
  }
  for (const [key, node] of sections) {
    if (plain.some(([name]) => name === key)) continue;
    const shape = node.type === "array" ? "A list." : isMap(node) ? "By name." : "";
    lines.push("", `## ${key}`, "");
    const said = [node.description && `${node.description}.`, shape].filter(Boolean).join(" ");
    if (said !== "") lines.push(said, "");
    lines.push(...HEAD, ...rowsOf(insideOf(node), ""));
  }
  return `${lines.join("\n")}\n`;
}

function familyRows(families: readonly Family[]): string[] {
  return [
    "| metric | kind | labels | |",
    "| --- | --- | --- | --- |",
    ...families.map(({ name, type, labels, help }) =>
      `| \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(", ")} | ${cell(help)} |`
    ),
  ];
}

function metrics(): string {
  return `${
    [
      "# Metrics",
      "",
      "`/metrics` of the admin, in Prometheus' text format, or in OpenMetrics for who asks for that. A series that would tell",
      "nothing is left out. Names of models and tenants are those of the configuration; what strangers name is counted as an",
      "empty model or as `other`. With `OTEL_DENO=true` the same metrics are exported by OTLP, counters without `_total`,",
      "histograms as their count and sum. This page is made of the program by `deno task build:docs`.",
      "",
      ...familyRows(Object.values(FAMILIES)),
      "",
      "## By other names",
      "",
      "`admin.metric_names: [go]` (implied by `compat: go`) adds the names of the Go gateway:",
      "",
      ...familyRows(Object.values(ALIASES.go)),
      "",
      "`admin.metric_names: [inference_extension]` adds those of endpoint pickers of the Gateway API's inference extension:",
      "",
      ...familyRows(Object.values(ALIASES.inference_extension)),
    ].join("\n")
  }\n`;
}

function commandLine(): string {
  const lines = [
    "# Command line",
    "",
    "As a program `aigw`, from source `deno task aigw`.",
    "",
    "```",
    overview(),
    "```",
  ];
  for (const command of COMMANDS) lines.push("", `## ${command.name}`, "", "```", helpOf(command), "```");
  lines.push(
    "",
    "Exit status: 0 done, 1 failed, 2 wrong usage. This page is made of the program by `deno task build:docs`.",
  );
  return `${lines.join("\n")}\n`;
}

/** By file name. */
export const PAGES: Readonly<Record<string, () => string>> = {
  "configuration.md": configuration,
  "metrics.md": metrics,
  "command_line.md": commandLine,
};

const FOLDER = new URL("../../docs/", import.meta.url);

/** A page as `deno fmt` leaves it. */
export async function formatted(text: string): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext=md", "--line-width=120", "-"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stdout);
}

if (import.meta.main) {
  for (const [name, make] of Object.entries(PAGES)) {
    await Deno.writeTextFile(new URL(name, FOLDER), await formatted(make()));
    console.log(`docs/${name}`);
  }
}
