// SPDX-License-Identifier: Apache-2.0
// Request traces: arrival times, lengths, and which blocks of 512 tokens their prompts share, in the Mooncake and Azure
// formats.

export const BLOCK_TOKENS = 512;

export interface TraceRequest {
  /** Milliseconds from the trace's beginning. */
  at: number;
  inputTokens: number;
  outputTokens: number;
  /** Ids of the prompt's blocks; equal ids at the same place are equal prefixes. */
  blocks: number[];
  tenant: number;
}

export interface Trace {
  name: string;
  requests: TraceRequest[];
}

/** Reads a trace file by its ending: .jsonl is Mooncake's format, .csv Azure's. Throws Error for anything else. */
export async function readTrace(path: string): Promise<Trace> {
  const text = await Deno.readTextFile(path).catch((error: Error) => {
    throw new Error(`${path}: cannot be read: ${error.message}`);
  });
  const name = path.slice(path.lastIndexOf("/") + 1).replace(/\.[a-z]+$/, "");
  if (path.endsWith(".jsonl")) return { name, requests: checked(path, mooncake(path, text)) };
  if (path.endsWith(".csv")) return { name, requests: checked(path, azure(path, text)) };
  throw new Error(`${path}: expected a .jsonl file in Mooncake's format or a .csv file in Azure's`);
}

function checked(path: string, requests: TraceRequest[]): TraceRequest[] {
  if (requests.length === 0) throw new Error(`${path}: there is no request in it`);
  return requests;
}

/** Throws Error with file and line when a value is no number from 0 on. */
function count(path: string, line: number, name: string, value: unknown): number {
  const number = Number(value);
  if (value !== "" && value !== undefined && Number.isFinite(number) && number >= 0) return number;
  throw new Error(`${path}:${line}: expected a number as ${name}, found ${JSON.stringify(value) ?? "nothing"}`);
}

function mooncakeRow(path: string, text: string, line: number) {
  let row: Record<string, unknown>;
  try {
    row = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path}:${line}: ${(error as Error).message}`);
  }
  const number = (name: string) => count(path, line, name, row[name]);
  const ids = row.hash_ids;
  if (!Array.isArray(ids) || !ids.every(Number.isSafeInteger)) {
    throw new Error(`${path}:${line}: expected hash_ids, an array of whole numbers`);
  }
  return {
    timestamp: number("timestamp"),
    input_length: number("input_length"),
    output_length: number("output_length"),
    hash_ids: ids as number[],
  };
}

// Times are ticks of 3 s: the rows of one tick are spread evenly over it.
function mooncake(path: string, text: string): TraceRequest[] {
  const rows = text.trimEnd().split("\n").map((line, i) => mooncakeRow(path, line, i + 1));
  const requests: TraceRequest[] = [];
  for (let i = 0; i < rows.length;) {
    let end = i;
    while (end < rows.length && rows[end].timestamp === rows[i].timestamp) end++;
    const tick = (rows[end]?.timestamp ?? rows[i].timestamp + 3_000) - rows[i].timestamp;
    for (let k = i; k < end; k++) {
      const { timestamp, input_length, output_length, hash_ids } = rows[k];
      requests.push({
        at: timestamp + Math.min(tick, 3_000) * (k - i) / (end - i),
        inputTokens: Math.max(1, input_length),
        outputTokens: Math.max(1, output_length),
        blocks: hash_ids,
        tenant: 0,
      });
    }
    i = end;
  }
  return requests;
}

// Lengths only: no two prompts share anything.
function azure(path: string, text: string): TraceRequest[] {
  const lines = text.trimEnd().split(/\r?\n/).slice(1);
  let next = 1;
  const rows = lines.map((line, i) => {
    const [time, input, output] = line.split(",");
    const at = Date.parse(`${time.replace(" ", "T").slice(0, 23)}Z`);
    const inputTokens = Math.max(1, count(path, i + 2, "ContextTokens", input));
    return {
      at: count(path, i + 2, "TIMESTAMP, a date and time", Number.isNaN(at) ? undefined : at),
      inputTokens,
      outputTokens: Math.max(1, count(path, i + 2, "GeneratedTokens", output)),
      blocks: Array.from({ length: Math.ceil(inputTokens / BLOCK_TOKENS) }, () => next++),
      tenant: 0,
    };
  });
  return rows.map((row) => ({ ...row, at: row.at - rows[0].at }));
}
