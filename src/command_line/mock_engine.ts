// SPDX-License-Identifier: Apache-2.0
// `aigw mock-engine`: an engine that behaves like vLLM, without a model.

import { formatAddress, parseAddress } from "../base/address.ts";
import { z } from "zod";
import { type Fault, faultSchema } from "../mock/faults.ts";
import { type MockEngineOptions, startMockEngine } from "../mock/server.ts";
import { readFiles } from "../tokens/load_tokenizer.ts";
import { listenOrSay } from "../server/listeners.ts";
import { addressIn, type Command, numberIn, UsageError, wholeIn } from "./command.ts";
import { terminationSignal } from "./signals.ts";

export const mockEngineCommand: Command = {
  name: "mock-engine",
  summary: "Run an engine that behaves like vLLM, without a model",
  options: [
    { name: "listen", value: "HOST:PORT", help: "Address (default 127.0.0.1:10001)" },
    { name: "model", value: "NAME", many: true, help: "Model that it serves; any when not given" },
    { name: "speed", value: "FACTOR", help: "Times faster than the profile (default 1)" },
    { name: "instant", help: "Answer at once, without the engine model" },
    {
      name: "output-tokens",
      value: "N",
      help: "Tokens of an answer whose request sets no maximum (default 16)",
    },
    {
      name: "tokenizer",
      value: "FILE",
      help: "Count by this tokenizer.json, and tell what the cache holds, as vLLM does",
    },
    {
      name: "fault",
      value: "JSON",
      help: 'A fault for its requests, for example {"kind":"status","status":503,"first":3}',
    },
  ],
  async run(given) {
    const speed = numberIn(given, "speed", 0, 10_000) ?? 1;
    const fault = readFault(given.text("fault"));
    const listen = parseAddress(addressIn(given, "listen") ?? "127.0.0.1:10001")!;
    const models = given.texts("model");
    const outputTokens = wholeIn(given, "output-tokens", 1, 1_000_000);
    const kvEvents = readTokenizer(given.text("tokenizer"));
    const engine = listenOrSay(listen, "--listen", () =>
      startMockEngine({
        address: listen,
        models: models.length > 0 ? models : undefined,
        speed,
        instant: given.has("instant"),
        outputTokens,
        kvEvents,
        fault,
      }));
    console.log(`Mock engine on http://${formatAddress(engine.address)}`);
    await terminationSignal();
    await engine.stop();
    return 0;
  },
};

function readTokenizer(file: string | undefined): MockEngineOptions["kvEvents"] {
  if (file === undefined) return undefined;
  try {
    return { files: readFiles({ file, configFile: undefined, templateFile: undefined }) };
  } catch (error) {
    throw new UsageError(`--tokenizer: ${(error as Error).message}`);
  }
}

function readFault(text: string | undefined): Fault | undefined {
  if (text === undefined) return undefined;
  try {
    return faultSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new UsageError(`--fault: ${error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message}`);
  }
}
