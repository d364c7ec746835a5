// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import {
  DEFAULT_PROFILE,
  EngineModel,
  type EngineProfile,
  prefillMs,
  type Sequence,
} from "../../src/mock/engine_model.ts";
import { KvCache } from "../../src/mock/kv_cache.ts";
import { Random, seed } from "../support/seed.ts";

/** Runs a model to its end on a clock of its own; returns first-token and finish times by sequence. */
function run(profile: Partial<EngineProfile>, prompts: { tokens: number; output: number; blocks: number[] }[]) {
  const model = new EngineModel({ ...DEFAULT_PROFILE, ...profile });
  let now = 0;
  const times = prompts.map(() => ({ first: NaN, last: NaN, tokens: 0, cached: NaN }));
  prompts.forEach(({ tokens, output, blocks }, i) => {
    const sequence: Sequence = {
      promptTokens: tokens,
      outputTokens: output,
      blocks,
      onToken(generated) {
        if (generated === 1) {
          times[i].first = now;
          times[i].cached = model.cachedTokens(sequence);
        }
        times[i].last = now;
        times[i].tokens = generated;
      },
    };
    model.submit(sequence);
  });
  for (let duration = model.beginStep(); duration !== undefined; duration = model.beginStep()) {
    now += duration;
    model.endStep();
  }
  return { model, times };
}

Deno.test("a lone request takes its prefill and then a step a token", () => {
  const { times } = run({}, [{ tokens: 4_096, output: 3, blocks: [] }]);
  const step = 6 + 0.35;
  assertEquals(times[0].first.toFixed(6), (2 * step + 512).toFixed(6));
  assertEquals((times[0].last - times[0].first).toFixed(6), (2 * step).toFixed(6));
});

Deno.test("a cached prefix shortens prefill, the last token is always computed", () => {
  const blocks = Array.from({ length: 8 }, (_, i) => i);
  const { times } = run({ maxRunning: 1 }, [{ tokens: 128, output: 1, blocks }, { tokens: 128, output: 1, blocks }]);
  assertEquals(times.map(({ cached }) => cached), [0, 127]);
  assert(times[1].first - times[0].first < times[0].first);
});

Deno.test("prefill is first come first served and the batch is bounded", () => {
  const { times } = run(
    { maxRunning: 2 },
    Array.from({ length: 5 }, () => ({ tokens: 3_000, output: 20, blocks: [] })),
  );
  for (let i = 1; i < 5; i++) assert(times[i].first > times[i - 1].first);
  assert(times[2].first > times[0].last, "the third waits for a place");
});

Deno.test("random lives: all finish, nothing is left in the cache's use", () => {
  const random = new Random(seed);
  let preempted = 0;
  for (let round = 0; round < 60; round++) {
    const growing = random.chance(0.5);
    const prefillChunkTokens = random.chance(0.5) ? 8 + random.below(64) : 2_048;
    const kvBlocks = growing ? 60 : 200;
    const maxRunning = 1 + random.below(8);
    const model = new EngineModel({ ...DEFAULT_PROFILE, kvBlocks, maxRunning, growing, prefillChunkTokens });
    const open = new Set<Sequence>();
    let finished = 0;
    let submitted = 0;
    for (let step = 0; step < 400; step++) {
      if (random.chance(0.3)) {
        const outputTokens = 1 + random.below(30);
        const promptTokens = 1 + random.below(600);
        let told = 0;
        const sequence: Sequence = {
          promptTokens,
          outputTokens,
          blocks: Array.from({ length: Math.floor(promptTokens / 16) }, (_, i) => `${random.below(3)}-${i}`),
          onToken(generated) {
            assertEquals(generated, ++told);
            if (generated === outputTokens) {
              open.delete(sequence);
              finished++;
            }
          },
        };
        model.submit(sequence);
        open.add(sequence);
        submitted++;
      }
      if (open.size > 0 && random.chance(0.1)) {
        const victim = random.pick([...open]);
        model.cancel(victim);
        open.delete(victim);
        submitted--;
      }
      assert(model.cache.inUse <= kvBlocks);
      if (model.beginStep() !== undefined) {
        if (open.size > 0 && random.chance(0.1)) {
          const victim = random.pick([...open]);
          model.cancel(victim);
          open.delete(victim);
          submitted--;
        }
        model.endStep();
      }
    }
    while (model.beginStep() !== undefined) model.endStep();
    assertEquals([model.idle, finished, model.cache.inUse], [true, submitted, 0]);
    preempted += model.preemptionsTotal;
  }
  assert(preempted > 0, "some were preempted");
});

Deno.test("attention costs with the square of what is behind a chunk, generation with the contexts", () => {
  const profile = { attentionMs: 4, stepPerContextMs: 0.5, stepBaseMs: 10, stepPerRunningMs: 0 };
  const { times } = run(profile, [{ tokens: 4_096, output: 2, blocks: [] }]);
  assertEquals(times[0].first.toFixed(6), (2 * 10 + 512 + 4 * 4.096 ** 2).toFixed(6));
  assertEquals((times[0].last - times[0].first).toFixed(6), (10 + 0.5 * 4.097).toFixed(6));
  assertEquals(prefillMs({ ...DEFAULT_PROFILE, ...profile }, 4_096, 4_096), times[0].first);
  const half = prefillMs({ ...DEFAULT_PROFILE, ...profile }, 4_096, 2_048);
  assertEquals(half.toFixed(6), (10 + 256 + 4 * (4.096 ** 2 - 2.048 ** 2)).toFixed(6), "the second half");
});

Deno.test("several prompts are computed at once where one may not take all of a step", () => {
  const prompts = [8_192, 512, 512].map((tokens) => ({ tokens, output: 1, blocks: [] }));
  const firsts = (longPrefillTokens?: number) =>
    run({ ...(longPrefillTokens && { longPrefillTokens }) }, prompts).times.map(({ first }) => first);
  const [long, short] = firsts(512);
  assert(short < long / 4);
  assert(firsts()[0] < firsts()[1]);
});

Deno.test("growing: generated tokens take from the budget of prefills", () => {
  const prompts = [{ tokens: 10, output: 40, blocks: [] }, { tokens: 320, output: 1, blocks: [] }];
  const steps = (growing: boolean) => {
    const { times } = run({
      growing,
      prefillChunkTokens: 33,
      stepBaseMs: 1,
      stepPerRunningMs: 0,
      prefillTokensPerSecond: 1e9,
    }, prompts);
    return Math.round(times[1].first);
  };
  // 23 of the first step's 33 are left to the second prompt; then 33, or 32 beside the token of the first one.
  assertEquals([steps(false), steps(true)], [10, 11]);
});

Deno.test("growing: the last to come gives up its blocks, waits in front, and goes on where it was", () => {
  const prompt = (at: number) => Array.from({ length: 4 }, (_, i) => at + i);
  const both = [0, 10].map((at) => ({ tokens: 64, output: 64, blocks: prompt(at) }));
  const { model, times } = run({ growing: true, kvBlocks: 12 }, both);
  assertEquals(model.preemptionsTotal, 1);
  assertEquals(times.map(({ tokens }) => tokens), [64, 64]);
  assert(times[0].last < times[1].last);
  const { model: roomy } = run({ growing: true, kvBlocks: 64 }, both);
  assertEquals(roomy.preemptionsTotal, 0);
});

Deno.test("KvCache evicts what was released longest ago, the end of a prefix first", () => {
  const cache = new KvCache(4);
  const first = cache.allocate(["a", "b"], 0)!;
  const second = cache.allocate(["c", "d"], 0)!;
  assertEquals(cache.allocate(["e"], 0), undefined, "all in use");
  cache.release(first);
  cache.release(second);
  cache.release(cache.allocate(["e"], 0)!);
  assertEquals([cache.match(["a", "b"]), cache.match(["c", "d"])], [1, 2]);
});
