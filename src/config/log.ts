// SPDX-License-Identifier: Apache-2.0
// What is written down: the gateway's own log, the access log, and the log of texts, with the names and standards of the
// variables that existing deployments set for it.

import { z } from "zod";

/** `megabytes` is the standard size at which a file is moved aside. */
const rotationSchema = (megabytes: number) =>
  z.strictObject({
    megabytes: z.int().min(0).max(1_000_000).default(megabytes)
      .describe("The file is moved aside, with the time in its name, when it is this large; 0 for never"),
    files: z.int().min(0).max(1_000_000).default(100).describe("Files kept aside, 0 for all"),
    days: z.int().min(0).max(36_500).default(7).describe("Days that they are kept, 0 for ever"),
    compress: z.boolean().default(false).describe("Compress them with gzip"),
  }).prefault({});

export const logSchema = z.strictObject({
  enabled: z.boolean().default(true).describe("Write an access log line for every request"),
  format: z.enum(["auto", "json", "text"]).default("auto")
    .describe("json: an object a line; text: a line for people; auto: text on a terminal, else json"),
  sample: z.number().min(0).max(1).default(1)
    .describe("Share of the requests that are logged; those that were not answered are in any case"),
  path: z.string().min(1).default("-").describe(
    "File of the access log, relative to where the gateway is started; - for standard output",
  ),
  level: z.enum(["debug", "info", "warn", "error"]).default("info"),
  lines: z.int().min(1).max(1_000_000).default(10_000).describe("Lines of a worker that wait to be written"),
  rotation: rotationSchema(0),
  llm: z.strictObject({
    enabled: z.boolean().default(false)
      .describe("Write the texts of requests and answers: what users wrote and got is in it"),
    path: z.string().min(1).default("llm.log").describe(
      "File of that log, relative to where the gateway is started; - for standard output",
    ),
    lines: z.int().min(1).max(1_000_000).default(1_000).describe("Lines of a worker that wait to be written"),
    text_bytes: z.int().min(1).max(1_000_000_000).default(1_048_576)
      .describe("Kept of a request, in bytes, and of an answer and its reasoning, in characters each"),
    rotation: rotationSchema(100),
  }).prefault({}),
}).prefault({});

/** The access log of a metadata center. */
export const accessLogSchema = z.strictObject({
  enabled: z.boolean().default(false),
  path: z.string().min(1).default("-").describe(
    "Its file, relative to where the process is started; - for standard output",
  ),
  lines: z.int().min(1).max(1_000_000).default(10_000).describe("Lines that wait to be written"),
  rotation: rotationSchema(0),
}).prefault({});

export type LogConfig = z.infer<typeof logSchema>;
export type RotationConfig = LogConfig["rotation"];

type LogIssue = { path: string; message: string };

const VARIABLES: [name: string, key: keyof RotationConfig][] = [
  ["AIGW_LLM_LOGSIZE", "megabytes"],
  ["AIGW_LLM_LOGBACKUPS", "files"],
  ["AIGW_LLM_MAXAGE", "days"],
  ["AIGW_LLM_COMPRESS", "compress"],
];

/** Applies the variables that are set; returns what is wrong with them. */
export function applyLogEnvironment(
  config: LogConfig,
  environment: { get(name: string): string | undefined },
): LogIssue[] {
  const issues: LogIssue[] = [];
  for (const [name, key] of VARIABLES) {
    const text = environment.get(name);
    if (text === undefined || text === "") continue;
    const value = key === "compress" ? FLAGS[text] : /^\d{1,6}$/.test(text) ? Number(text) : undefined;
    if (value === undefined) issues.push({ path: name, message: `"${text}" is not accepted here` });
    else Object.assign(config.llm.rotation, { [key]: value });
  }
  return issues;
}

/** What Go's strconv takes for a boolean. */
export const FLAGS: Readonly<Record<string, boolean>> = Object.fromEntries([
  ...["1", "t", "T", "TRUE", "true", "True"].map((text) => [text, true] as const),
  ...["0", "f", "F", "FALSE", "false", "False"].map((text) => [text, false] as const),
]);
