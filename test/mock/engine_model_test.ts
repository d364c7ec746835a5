// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { DEFAULT_PROFILE, EngineModel, type EngineProfile, type Sequence } from "../../src/mock/engine_model.ts";
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
  for (let round = 0; round < 30; round++) {
    const model = new EngineModel({ ...DEFAULT_PROFILE, kvBlocks: 200, maxRunning: 1 + random.below(8) });
    const open = new Set<Sequence>();
    let finished = 0;
    let submitted = 0;
    for (let step = 0; step < 400; step++) {
      if (random.chance(0.3)) {
        const outputTokens = 1 + random.below(30);
        const sequence: Sequence = {
          promptTokens: 1 + random.below(600),
          outputTokens,
          blocks: Array.from({ length: random.below(38) }, (_, i) => `${random.below(3)}-${i}`),
          onToken(generated) {
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
      assert(model.cache.inUse <= 200);
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
  }
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
