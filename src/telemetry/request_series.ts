// SPDX-License-Identifier: Apache-2.0
// Requests by model, path, outcome and tenant together: only combinations that occurred have cells, in a table of each
// worker with as many places as the configuration says. What finds no place is counted by its outcome alone, as "other".

import { INFERENCE_PATHS } from "../openai/api.ts";
import { allCells } from "../tables/metric_cells.ts";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import { type CellLayout, SERIES_CELLS } from "./cells.ts";
import { type Outcome, OUTCOMES } from "./outcome.ts";

/** Paths by their own name; whatever else there is, those of the configuration too, is "other". */
export const PATH_LABELS: readonly string[] = [
  ...INFERENCE_PATHS.keys(),
  "/v1/responses/{id}",
  "/v1/models",
  "/health",
  "other",
];
const OTHER_PATH = PATH_LABELS.length - 1;
const PATH_NUMBERS = new Map(PATH_LABELS.map((path, number) => [path, number]));
const OUTCOME_NUMBERS = new Map(OUTCOMES.map((outcome, number) => [outcome, number]));

/** Number of a request's path. */
export function pathNumber(path: string): number {
  const known = PATH_NUMBERS.get(path);
  if (known !== undefined) return known;
  if (path.startsWith("/v1/responses/")) return PATH_NUMBERS.get("/v1/responses/{id}")!;
  return path.startsWith("/v1/models/") ? PATH_NUMBERS.get("/v1/models")! : OTHER_PATH;
}

/** What a series is of; undefined where it found no place and only its outcome is known. */
export interface SeriesKey {
  readonly model: number | undefined;
  readonly path: string;
  readonly outcome: Outcome;
  readonly tenant: number | undefined;
}

export interface Series extends SeriesKey {
  readonly requests: number;
  readonly seconds: number;
}

/** Places that are looked at for one key. */
const PROBES = 32;
/** A place whose key has gone. */
const GONE = -1;

// Keys are whole numbers from 1 on: those of the outcomes alone come first.
class Keys {
  readonly #models: number;
  readonly #tenants: number;

  constructor({ limits }: CellLayout) {
    this.#models = limits.models + 1;
    this.#tenants = limits.tenants;
  }

  of(model: number, path: number, outcome: number, tenant: number): number {
    const outcomes = OUTCOMES.length;
    return 1 + outcomes + ((path * outcomes + outcome) * this.#models + model) * this.#tenants + tenant;
  }

  read(key: number): { model: number | undefined; path: number; outcome: number; tenant: number | undefined } {
    const outcomes = OUTCOMES.length;
    if (key <= outcomes) return { model: undefined, path: OTHER_PATH, outcome: key - 1, tenant: undefined };
    let rest = key - 1 - outcomes;
    const next = (size: number): number => {
      const value = rest % size;
      rest = Math.floor(rest / size);
      return value;
    };
    const tenant = next(this.#tenants);
    const model = next(this.#models);
    const outcome = next(outcomes);
    return { model, path: rest, outcome, tenant };
  }
}

/** Counts the requests of one worker. */
export class RequestSeries {
  readonly #keys: Keys;
  readonly #places: number;
  /** First cells of the outcomes alone, and of the table. */
  readonly #outcomes: number;
  readonly #base: number;

  constructor(readonly cells: Float64Array, layout: CellLayout) {
    this.#keys = new Keys(layout);
    this.#outcomes = layout.series;
    this.#base = layout.series + OUTCOMES.length * SERIES_CELLS;
    this.#places = layout.limits.metric_series;
  }

  /** A request ended. */
  add(model: number, path: number, outcome: Outcome, tenant: number, seconds: number): void {
    const number = OUTCOME_NUMBERS.get(outcome)!;
    const at = this.#place(this.#keys.of(model, path, number, tenant)) ?? this.#alone(number);
    this.cells[at + 1]++;
    this.cells[at + 2] += seconds;
  }

  /** Requests whose model or tenant has gone: their outcome is what is left of them. */
  addGone(outcome: Outcome, requests: number, seconds: number): void {
    const at = this.#alone(OUTCOME_NUMBERS.get(outcome)!);
    this.cells[at + 1] += requests;
    this.cells[at + 2] += seconds;
  }

  #alone(outcome: number): number {
    const at = this.#outcomes + outcome * SERIES_CELLS;
    this.cells[at] = 1 + outcome;
    return at;
  }

  // The place of a key, which it is given if it has none; undefined when there is none near.
  #place(key: number): number | undefined {
    const { cells } = this;
    let free: number | undefined;
    let place = hash(key) % this.#places;
    for (let i = 0; i < Math.min(PROBES, this.#places); i++) {
      const at = this.#base + place * SERIES_CELLS;
      const known = cells[at];
      if (known === key) return at;
      if (known === GONE) free ??= at;
      else if (known === 0) {
        free ??= at;
        break;
      }
      if (++place === this.#places) place = 0;
    }
    if (free !== undefined) cells[free] = key;
    return free;
  }
}

function hash(key: number): number {
  const [low, high] = [key % 0x1_0000_0000, Math.floor(key / 0x1_0000_0000)];
  let mixed = Math.imul(low ^ (low >>> 16), 0x85eb_ca6b) ^ Math.imul(high + 1, 0xc2b2_ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0x9e37_79b1);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** The series of all workers, added up. */
export function readSeries(kernel: AttachedKernel, layout: CellLayout): Series[] {
  const keys = new Keys(layout);
  const sums = new Map<number, { requests: number; seconds: number }>();
  for (const cells of allCells(kernel)) {
    for (let at = layout.series; at < layout.count; at += SERIES_CELLS) {
      if (cells[at] <= 0 || cells[at + 1] === 0) continue;
      const sum = sums.get(cells[at]) ?? { requests: 0, seconds: 0 };
      sum.requests += cells[at + 1];
      sum.seconds += cells[at + 2];
      sums.set(cells[at], sum);
    }
  }
  return [...sums].sort(([a], [b]) => a - b).map(([key, sum]) => {
    const { model, path, outcome, tenant } = keys.read(key);
    return { model, path: PATH_LABELS[path], outcome: OUTCOMES[outcome], tenant, ...sum };
  });
}

/**
 * Forgets of whom the series of a model or a tenant were whose row becomes another's, when no worker counts there any more;
 * `kept` counts them by their outcomes from then on.
 */
export function clearSeries(
  kernel: AttachedKernel,
  layout: CellLayout,
  of: "model" | "tenant",
  row: number,
  kept: Pick<RequestSeries, "addGone">,
): void {
  const keys = new Keys(layout);
  for (const cells of allCells(kernel)) {
    for (let at = layout.series; at < layout.count; at += SERIES_CELLS) {
      if (cells[at] <= 0) continue;
      const key = keys.read(cells[at]);
      if (key[of] !== row) continue;
      kept.addGone(OUTCOMES[key.outcome], cells[at + 1], cells[at + 2]);
      cells[at + 1] = cells[at + 2] = 0;
      cells[at] = GONE;
    }
  }
}
