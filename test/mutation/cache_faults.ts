// SPDX-License-Identifier: Apache-2.0
// Faults in what is known of engines' caches.

import type { Fault } from "./fault.ts";

export const CACHE_FAULTS: readonly Fault[] = [
  {
    name: "a block that an engine has twice is gone with the first",
    file: "src/cache_events/engine_blocks.ts",
    was: "if (place < 0 || !records.release(place)) continue;",
    is: "if (place < 0) continue;",
    tests: ["test/cache_events/engine_blocks_test.ts"],
  },
  {
    name: "blocks of another cache of the model are removed",
    file: "src/cache_events/engine_blocks.ts",
    was: "if (records === undefined || !this.#groups.has(group)) return;",
    is: "if (records === undefined || group < 0) return;",
    tests: ["test/cache_events/engine_blocks_test.ts"],
  },
  {
    name: "an engine that began anew is taken for the one before",
    file: "src/cache_events/source.ts",
    was: "else if (sequence === this.#last && equal(payload, this.#lastPayload!)) same = true;",
    is: "else if (sequence === this.#last) same = true;",
    tests: ["test/cache_events/source_test.ts"],
  },
  {
    name: "events that are lost for good are not missed",
    file: "src/cache_events/source.ts",
    was: "    this.listener.gap(sequence - this.#last - 1);\n    this.#forget(false);\n",
    is: "",
    tests: ["test/cache_events/source_test.ts"],
  },
  {
    name: "a prompt's last token counts as held",
    file: "assembly/prefix/blocks.ts",
    was: "min(keys * KEY_TOKENS, question().tokens - 1)",
    is: "min(keys * KEY_TOKENS, question().tokens)",
    tests: ["test/scheduler/known_blocks_test.ts"],
  },
  {
    name: "what requests compute counts for nothing",
    file: "assembly/prefix/blocks.ts",
    was: "computing ? computedAt(keyAt(i)) : 0",
    is: "computing && i == u32.MAX_VALUE ? computedAt(keyAt(i)) : 0",
    tests: ["test/scheduler/known_blocks_test.ts"],
  },
  {
    name: "of engines that tell what they hold more is presumed",
    file: "assembly/prefix/index.ts",
    was: "if (question().blocks == 0 || load<u32>(cell(ENDPOINT_BLOCK_TOKENS, row)) == 0) return alive(holder);",
    is: "if (question().blocks == 0 || row < u32.MAX_VALUE) return alive(holder);",
    tests: ["test/scheduler/known_blocks_test.ts"],
  },
  {
    name: "tokens that are there at once are not looked up",
    file: "src/scheduler/shared_queue.ts",
    was: "      this.decisions.resume(prompt, placement, []); // others have been up meanwhile\n",
    is: "",
    tests: ["test/scheduler/known_blocks_test.ts"],
  },
  {
    name: "an engine with other tokens is believed",
    file: "src/control/token_check.ts",
    was: "    if (!same) {",
    is: "    if (!same && theirs.length < 0) {",
    tests: ["test/integration/kv_events_test.ts"],
  },
];
