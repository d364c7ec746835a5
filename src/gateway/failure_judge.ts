// SPDX-License-Identifier: Apache-2.0
// Whose doing a 500 is. Engines also answer it to requests that they cannot do (llama.cpp: an image for a model of text),
// and one client that sends such requests must not keep a fleet out. So it counts against an endpoint when a peer has
// answered the same request, or when it says that its engine died; else once for each tenant and shape of request
// since it last answered well.

import { fnv1a } from "../base/fnv1a.ts";
import type { Call } from "./call.ts";

/** Requests that are lost within this time are lost by one death. */
const ONE_DEATH_MS = 5_000;
/** Shapes that are told apart for one endpoint. */
const MAX_SHAPES = 64;
/** What a server says whose engine is gone: vLLM and SGLang. */
const DIED = /EngineDeadError|EngineCore encountered an issue|scheduler (?:has )?died|detokenizer (?:has )?died/i;
const decoder = new TextDecoder();

export class FailureJudge {
  /** By the row of the endpoint. */
  readonly #shapes = new Map<number, Set<number>>();
  readonly #deaths = new Map<number, number>();

  /** Whether nobody like this has had a failure there since it last answered well. */
  isNews(row: number, call: Call): boolean {
    const shape = shapeOf(call);
    let shapes = this.#shapes.get(row);
    if (!shapes) this.#shapes.set(row, shapes = new Set());
    if (shapes.has(shape) || shapes.size >= MAX_SHAPES) return false;
    shapes.add(shape);
    return true;
  }

  /** It said that its engine died; whether the request may have been the cause: it was alone there, and nobody died before it. */
  died(row: number, batch: number, now: number): boolean {
    const before = this.#deaths.get(row) ?? -Infinity;
    this.#deaths.set(row, now);
    return batch <= 1 && now - before > ONE_DEATH_MS;
  }

  /** It answered well. */
  answered(row: number): void {
    if (this.#shapes.size > 0) this.#shapes.delete(row);
  }
}

/** Whether an answer says that the engine behind its server is gone. */
export function saysDead(status: number, whole: Uint8Array | undefined): boolean {
  return status === 500 && whole !== undefined && DIED.test(decoder.decode(whole.subarray(0, 4_096)));
}

// Who asks, and for what kind of thing: not what the prompt says.
function shapeOf({ account, kind, request }: Call): number {
  const body = request?.body ?? {};
  const parts = new Set<string>();
  for (const message of Array.isArray(body.messages) ? body.messages : []) {
    const { content } = (message ?? {}) as { content?: unknown };
    if (!Array.isArray(content)) continue;
    for (const part of content) parts.add(String((part as { type?: unknown } | null)?.type));
  }
  const fields = [account?.tenant.row ?? "", kind, request?.model, Object.keys(body).sort(), [...parts].sort()];
  return fnv1a(JSON.stringify(fields));
}
