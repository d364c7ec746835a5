// SPDX-License-Identifier: Apache-2.0
// Predicted time to first token of a prompt on an idle engine, by the default model:
//
//   ms = a·input² + b·cached² + c·input·cached + d·input + e·cached + f     (input, cached in thousands of tokens)
//
// The coefficients are the least-squares fit to 39 measured samples, the ones that a new model starts from.

const [A, B, C, D, E, F] = [4.449994511, -8.410005423, -3.189998102, 278.000152256, -50.199801665, 37.198550118];
const LEAST_MS = 100;
/** For a prompt of unknown length. */
const UNKNOWN_MS = 500;

/** Milliseconds to the first token; at least 100, and 500 when the length is unknown. */
export function predictTtftMs(inputTokens: number | undefined, cachedTokens = 0): number {
  if (inputTokens === undefined) return UNKNOWN_MS;
  const input = inputTokens / 1_000;
  const cached = cachedTokens / 1_000;
  const ms = A * input * input + B * cached * cached + C * input * cached + D * input + E * cached + F;
  return Math.max(LEAST_MS, ms);
}
