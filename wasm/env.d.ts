// SPDX-License-Identifier: Apache-2.0
// What the kernel imports, so that TypeScript can type its exports straight from the binary.
export const memory: WebAssembly.Memory;
