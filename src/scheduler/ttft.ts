// SPDX-License-Identifier: Apache-2.0
// Where the latency models of a model begin that nothing is known of: a fit to 39 measured samples.

/** a to f of `ms = a·input² + b·cached² + c·input·cached + d·input + e·cached + f`, in thousands of tokens. */
export const DEFAULT_THETA = [4.449994511, -8.410005423, -3.189998102, 278.000152256, -50.199801665, 37.198550118];
/** Decode step: ms, and for each request in the batch. */
export const DEFAULT_STEP_THETA = [10.6, 0.42, 0, 0, 0, 0];
/** Requests after which a model's own experience tells accidents apart. */
export const ENOUGH_SAMPLES = 30;
