// SPDX-License-Identifier: Apache-2.0
// Releases a request from another thread; flags[0] is 1 when it begins, and 2 when it has.

import { attachKernel, type SharedKernel } from "../../wasm/kernel.ts";

interface Release {
  shared: SharedKernel;
  flags: Int32Array;
  row: number;
  generation: number;
}

self.onmessage = ({ data: { shared, flags, row, generation } }: MessageEvent<Release>) => {
  const { exports: k } = attachKernel(shared, 2, 1);
  Atomics.store(flags, 0, 1);
  k.requestRelease(row, generation);
  Atomics.store(flags, 0, 2);
  Atomics.notify(flags, 0);
};
