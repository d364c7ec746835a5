// SPDX-License-Identifier: Apache-2.0
// `aigw bench` and `aigw replay`: load for whatever speaks the OpenAI API, and what came of it.

import { Random } from "../base/random.ts";
import { firstModel, measure, type Target } from "../load/client.ts";
import { type Job, sendAll } from "../load/generator.ts";
import { freshText, traceText } from "../load/prompts.ts";
import { reportOf, tableOf } from "../load/report.ts";
import { readTrace } from "../load/trace.ts";
import { type Command, type Given, numberIn, type OptionSpec, UsageError, wholeIn } from "./command.ts";

const COMMON: readonly OptionSpec[] = [
  { name: "model", value: "NAME", help: "The model; the first of /v1/models when not given" },
  { name: "api-key-env", value: "NAME", help: "Environment variable with the key that the server wants" },
  { name: "ignore-eos", help: "Have engines that know ignore_eos generate all of the tokens" },
  { name: "json", value: "FILE", help: "Write the figures there too" },
];

export const benchCommand: Command = {
  name: "bench",
  summary: "Send chats to an OpenAI API and tell how fast it answers",
  operands: { shown: "URL", least: 1, most: 1 },
  options: [
    { name: "requests", value: "N", help: "How many (default 100)" },
    { name: "concurrency", value: "N", help: "So many at once (default 8); with --rate at most (default 1024)" },
    { name: "rate", value: "R", help: "So many a second, at random times, whether those before are answered or not" },
    { name: "prompt-tokens", value: "N", help: "About so many tokens of each prompt (default 512)" },
    { name: "shared-tokens", value: "N", help: "About so many more, the same before every prompt (default 0)" },
    { name: "max-tokens", value: "N", help: "Longest answer (default 64)" },
    { name: "seed", value: "N", help: "Other prompts and times (default: of the day)" },
    ...COMMON,
  ],
  notes: "URL as http://127.0.0.1:10000. Ctrl-C ends it with the figures so far, once those under way are\n" +
    "answered; the second one ends it at once.",
  run: bench,
};

export const replayCommand: Command = {
  name: "replay",
  summary: "Send a trace's requests at its times to an OpenAI API",
  operands: { shown: "TRACE URL", least: 2, most: 2 },
  options: [
    { name: "speed", value: "FACTOR", help: "Times faster than the trace (default 1)" },
    { name: "requests", value: "N", help: "Only the first of them" },
    { name: "concurrency", value: "N", help: "So many at once at most (default 1024)" },
    ...COMMON,
  ],
  notes:
    "TRACE is a .jsonl file in Mooncake's format, whose hash_ids are the shared beginnings of prompts, or a .csv\n" +
    "file in Azure's. Prompts are text of about as many tokens, equal where the trace says so.",
  run: replay,
};

const MAX_REQUESTS = 10_000_000;

async function targetOf(given: Given, url: string): Promise<Target> {
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new UsageError(`"${url}" is no URL of an API`);
  const variable = given.text("api-key-env");
  const apiKey = variable === undefined ? undefined : Deno.env.get(variable);
  if (variable !== undefined && apiKey === undefined) throw new UsageError(`--api-key-env: ${variable} is not set`);
  return { url, apiKey, model: given.text("model") ?? await firstModel({ url, apiKey }) };
}

async function bench(given: Given): Promise<number> {
  const requests = wholeIn(given, "requests", 1, MAX_REQUESTS) ?? 100;
  const rate = numberIn(given, "rate", 0, 1_000_000);
  const concurrency = wholeIn(given, "concurrency", 1, 100_000) ?? (rate === undefined ? 8 : 1_024);
  const promptTokens = wholeIn(given, "prompt-tokens", 1, 10_000_000) ?? 512;
  const sharedTokens = wholeIn(given, "shared-tokens", 0, 10_000_000) ?? 0;
  const maxTokens = wholeIn(given, "max-tokens", 1, 10_000_000) ?? 64;
  const seed = wholeIn(given, "seed", 0, 2 ** 31) ?? Math.floor(Date.now() / 1_000);
  const target = await targetOf(given, given.arguments[0]);
  const random = new Random(seed);
  const shared = sharedTokens === 0 ? "" : `${freshText(random, sharedTokens)}\n`;
  const ignoreEos = given.has("ignore-eos");
  function* jobs(): Generator<Job> {
    let at = 0;
    for (let i = 0; i < requests; i++) {
      if (rate !== undefined) at += -Math.log(1 - random.next()) * 1_000 / rate;
      const prompt = shared + freshText(random, promptTokens);
      yield { at: rate === undefined ? undefined : at, run: () => measure(target, { prompt, maxTokens, ignoreEos }) };
    }
  }
  console.log(`${requests} chats to ${target.url}, model ${target.model}, seed ${seed}`);
  return await send(given, jobs(), requests, concurrency);
}

async function replay(given: Given): Promise<number> {
  const [path, url] = given.arguments;
  const speed = numberIn(given, "speed", 0, 1_000_000) ?? 1;
  const concurrency = wholeIn(given, "concurrency", 1, 100_000) ?? 1_024;
  const limit = wholeIn(given, "requests", 1, MAX_REQUESTS) ?? Infinity;
  const trace = await readTrace(path).catch((error: Error) => {
    throw new UsageError(error.message);
  });
  const target = await targetOf(given, url);
  const requests = trace.requests.slice(0, limit);
  const ignoreEos = given.has("ignore-eos");
  function* jobs(): Generator<Job> {
    for (const request of requests) {
      const prompt = traceText(request);
      const load = { prompt, maxTokens: request.outputTokens, ignoreEos };
      yield { at: request.at / speed, run: () => measure(target, load) };
    }
  }
  console.log(`${requests.length} requests of ${trace.name} to ${target.url}, model ${target.model}`);
  return await send(given, jobs(), requests.length, concurrency);
}

async function send(given: Given, jobs: Iterable<Job>, requests: number, concurrency: number): Promise<number> {
  const stop = new AbortController();
  const onSignal = () => {
    // The second one does not wait for what is under way.
    if (stop.signal.aborted) Deno.exit(130);
    stop.abort();
  };
  Deno.addSignalListener("SIGINT", onSignal);
  const bar = new ProgressBar(requests);
  const { measured, seconds, latestMs } = await sendAll(jobs, concurrency, bar.show, stop.signal);
  bar.end();
  Deno.removeSignalListener("SIGINT", onSignal);
  const report = reportOf(measured, seconds);
  console.log(tableOf(report));
  if (latestMs > 100) {
    console.log(`\nRequests were sent up to ${Math.round(latestMs)} ms late: ${concurrency} at once were not enough`);
  }
  const file = given.text("json");
  if (file !== undefined) await Deno.writeTextFile(file, `${JSON.stringify(report, null, 2)}\n`);
  return report.answered === report.requests ? 0 : 1;
}

/** On a terminal's standard error, a few times a second. */
class ProgressBar {
  readonly #terminal = Deno.stderr.isTerminal();
  #shownAt = -Infinity;

  constructor(readonly total: number) {}

  readonly show = (ended: number, failed: number): void => {
    const now = performance.now();
    if (!this.#terminal || (now - this.#shownAt < 100 && ended < this.total)) return;
    this.#shownAt = now;
    const width = 30;
    const filled = Math.floor(width * ended / this.total);
    const bar = `${"#".repeat(filled)}${"-".repeat(width - filled)}`;
    const text = `\r[${bar}] ${ended}/${this.total}${failed > 0 ? `, ${failed} failed` : ""} `;
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  };

  end(): void {
    if (this.#terminal) Deno.stderr.writeSync(new TextEncoder().encode("\r\x1b[K"));
  }
}
