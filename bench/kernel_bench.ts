// SPDX-License-Identifier: Apache-2.0
// What a decision costs, piece by piece and whole, the kernel beside its TypeScript twin. The yardstick for the whole
// decision is JSON.parse of the same body.

import { BodyScanner } from "../src/scheduler/body_scan.ts";
import { promptText } from "../src/openai/prompt_text.ts";
import { decodeRequest } from "../src/openai/request.ts";
import { DecisionMaker } from "../src/scheduler/decision.ts";
import { pickBest, prefixHashes, scoreInferenceLb, TwinIndex, TwinRandom } from "../test/kernel/twin.ts";
import { ask, freshKernel, readHashes, writePrompt } from "../test/support/kernel.ts";
import { agentBody, ENDPOINTS, loadedFleet, PLACEMENT, PROMPT_KIB, requestBody } from "./fixtures.ts";

const OPTIONS = { digest: () => "", payloadCharacters: 4_194_304 };
const prompts = new Map(PROMPT_KIB.map((kib) => {
  const body = requestBody(kib);
  const bytes = new TextEncoder().encode(body);
  return [kib, { body, bytes, text: promptText(decodeRequest("chat", bytes), OPTIONS) }];
}));

for (const kib of PROMPT_KIB) {
  const { text } = prompts.get(kib)!;
  const { kernel, rows } = loadedFleet(64);
  const k = kernel.exports;
  const bytes = new TextEncoder().encode(text);
  const length = writePrompt(kernel, text);
  const count = k.hashPrompt(length, 512);
  const hashes = readHashes(kernel, count);

  Deno.bench(`hash ${kib} KiB`, { group: `hash ${kib} KiB`, baseline: true }, () => {
    k.hashPrompt(length, 512);
  });
  Deno.bench(`hash ${kib} KiB, twin`, { group: `hash ${kib} KiB` }, () => {
    prefixHashes(bytes, 512);
  });

  const twin = new TwinIndex([], () => 4_096);
  for (const row of rows.slice(0, 4)) {
    k.hashPrompt(length, 512);
    k.indexInsertScratch(count, 1, row);
    twin.insert(hashes, 1, row);
  }
  Deno.bench(`index lookup ${kib} KiB, hit`, { group: `lookup ${kib} KiB`, baseline: true }, () => {
    k.indexLookup(count, 1);
  });
  Deno.bench(`index lookup ${kib} KiB, twin`, { group: `lookup ${kib} KiB` }, () => {
    twin.lookUp(hashes, 1);
  });
  Deno.bench(`index insert ${kib} KiB`, { group: `insert ${kib} KiB`, baseline: true }, () => {
    k.indexInsertScratch(count, 1, rows[5]);
  });
  Deno.bench(`index insert ${kib} KiB, twin`, { group: `insert ${kib} KiB` }, () => {
    twin.insert(hashes, 1, rows[5]);
  });
}

for (const endpoints of ENDPOINTS) {
  const { kernel, twins } = loadedFleet(endpoints);
  const k = kernel.exports;
  const best = Math.max(1, Math.floor(endpoints * 0.05));
  ask(kernel, {}).lookUpNothing();
  Deno.bench(`score ${endpoints}`, { group: `score ${endpoints}`, baseline: true }, () => {
    k.gather(1, k.ENDPOINT_UNCACHED);
    k.scoreInferenceLb();
  });
  Deno.bench(`score ${endpoints}, twin`, { group: `score ${endpoints}` }, () => {
    scoreInferenceLb(twins, 1, 0, [2, 1, 3]);
  });
  Deno.bench(`pick ${endpoints}`, { group: `pick ${endpoints}`, baseline: true }, () => {
    k.pickBest(best);
  });
  const scores = scoreInferenceLb(twins, 1, 0, [2, 1, 3]);
  const random = new TwinRandom(1);
  Deno.bench(`pick ${endpoints}, twin`, { group: `pick ${endpoints}` }, () => {
    pickBest(scores, best, random);
  });
}

for (const kib of PROMPT_KIB) {
  const { body, bytes, text } = prompts.get(kib)!;
  Deno.bench(`JSON.parse of the body, ${kib} KiB`, { group: `decision ${kib} KiB`, baseline: true }, () => {
    JSON.parse(body);
  });
  for (const endpoints of ENDPOINTS) {
    const { kernel, rows } = loadedFleet(endpoints);
    const decisions = new DecisionMaker(kernel);
    decisions.caches.remember(decisions.begin(text, PLACEMENT), 1, rows[3]);
    Deno.bench(`whole decision, ${endpoints} endpoints, ${kib} KiB`, { group: `decision ${kib} KiB` }, () => {
      decisions.begin(text, PLACEMENT);
      decisions.choose(PLACEMENT, bytes.length, 0, 0);
    });
  }
  Deno.bench(`decode and prompt text, ${kib} KiB`, { group: `decision ${kib} KiB` }, () => {
    promptText(decodeRequest("chat", bytes), OPTIONS);
  });
}

// From a body to the hashes of its prompt: read in the kernel, or decoded, parsed, printed canonically and encoded.
for (const kib of [0.2, 2, 16, 200, 1_024, "an agent's"]) {
  const bytes = new TextEncoder().encode(typeof kib === "string" ? agentBody(60) : requestBody(kib));
  const kernel = freshKernel({ promptChunks: 4_096 });
  const k = kernel.exports;
  const scanner = new BodyScanner(kernel);
  const scratch = new Uint8Array(kernel.buffer, k.textOffset(), 4_096 * k.CHUNK_BYTES);
  const encoder = new TextEncoder();
  const group = typeof kib === "string" ? `scan ${kib} ${Math.round(bytes.length / 1_024)} KiB` : `scan ${kib} KiB`;
  Deno.bench(`parse, print, hash: ${group}`, { group, baseline: true }, () => {
    const { written } = encoder.encodeInto(promptText(decodeRequest("chat", bytes), OPTIONS), scratch);
    k.hashPrompt(written, 512);
  });
  Deno.bench(`scan, hash: ${group}`, { group }, () => {
    k.hashPrompt(scanner.scan(bytes)!.promptBytes, 512);
  });
}
