// SPDX-License-Identifier: Apache-2.0
// What an operator can do to a mock engine over HTTP, as to vLLM: pause and resume it, load and unload LoRA adapters. And
// what may happen to one: its core dies, and the server in front of it answers 500 from then on.

import type { EngineDriver } from "./engine_driver.ts";

/** What vLLM answers whose EngineCore is gone. */
export const DEAD = {
  message: "EngineCore encountered an issue. See stack trace (above) for the root cause.",
  type: "InternalServerError",
  param: null,
  code: 500,
};

export class MockControl {
  readonly adapters: Set<string>;
  #paused = false;
  #dead = false;
  readonly #dying = new Set<() => void>();

  constructor(readonly driver: EngineDriver, readonly models: readonly string[], adapters: readonly string[]) {
    this.adapters = new Set(adapters);
  }

  get dead(): boolean {
    return this.#dead;
  }

  /** Names that it answers to; empty for any. */
  get served(): string[] {
    return this.models.length === 0 ? [] : [...this.models, ...this.adapters];
  }

  /** Calls back when its core dies; returns how to call that off. */
  onDeath(callback: () => void): () => void {
    this.#dying.add(callback);
    return () => this.#dying.delete(callback);
  }

  /** Its core dies with all that is in flight. */
  die(): void {
    this.#dead = true;
    this.driver.stop();
    for (const callback of this.#dying) callback();
    this.#dying.clear();
  }

  /** Undefined for paths of others. */
  async answer(request: Request, path: string): Promise<Response | undefined> {
    switch (`${request.method} ${path}`) {
      case "GET /health":
        return new Response("", { status: this.#dead ? 503 : 200 });
      case "GET /v1/models":
        return Response.json({ object: "list", data: this.#list() });
      case "POST /pause":
        this.#paused = true;
        this.driver.pause();
        return Response.json({ status: "paused" });
      case "POST /resume":
        this.#paused = false;
        this.driver.resume();
        return Response.json({ status: "resumed" });
      case "GET /is_paused":
        return Response.json({ is_paused: this.#paused });
      case "POST /die":
        this.die();
        return Response.json({ status: "dead" });
      case "POST /v1/load_lora_adapter":
        this.adapters.add((await request.json()).lora_name);
        return new Response("Success: LoRA adapter added successfully.");
      case "POST /v1/unload_lora_adapter":
        this.adapters.delete((await request.json()).lora_name);
        return new Response("Success: LoRA adapter removed successfully.");
    }
  }

  #list(): unknown[] {
    const model = (id: string, parent: string | null) => ({
      id,
      object: "model",
      created: 0,
      owned_by: "mock",
      parent,
    });
    const [base = "mock"] = this.models;
    return [...this.models.map((id) => model(id, null)), ...[...this.adapters].map((id) => model(id, base))];
  }
}
