// SPDX-License-Identifier: Apache-2.0
// The version, the same as in deno.json (a test compares them).

export const VERSION = "0.1.0";
