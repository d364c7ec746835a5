// SPDX-License-Identifier: Apache-2.0
// The Kubernetes API as far as a watcher needs it: objects of a kind are listed once, then every change of them is told.
// Plain HTTPS with the service account's certificate authority and token, which is read anew for every request as it
// changes with time.

import { concat } from "../../base/bytes.ts";
import { systemClock } from "../../base/clock.ts";
import { pause } from "../../base/pause.ts";
import type { KubernetesConfig } from "../../config/kubernetes.ts";
import { ACCOUNT_FOLDER } from "../pod.ts";

/** Objects of one page of a list. */
const PAGE = 500;
/** How long the server is to hold a watch; then it is taken up where it ended. */
const WATCH_S = 300;
/** How long a watch may be without a word: the server's bookmarks come every minute. */
const SILENCE_MS = 150_000;
/** A watch that ends sooner, without a word, is not begun anew at once; what is too old so soon is no matter of time. */
const SHORT_MS = 1_000;
const MAX_LOST = 3;
const REQUEST_MS = 30_000;
/** Longest line of a watch: an object and its event. */
const MAX_LINE_BYTES = 16_777_216;

export interface KubernetesObject {
  readonly metadata: {
    readonly name: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
  };
}

/** Objects of one kind in one namespace. */
export interface Resource {
  /** Path behind the server's address: /apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL */
  readonly path: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
}

/** What has changed. */
export type Change<T> =
  /** These are all that there are. */
  | { readonly kind: "all"; readonly objects: readonly T[] }
  /** As they are now; those that are gone. */
  | { readonly kind: "some"; readonly changed: readonly T[]; readonly gone: readonly T[] };

interface Event<T> {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  object: T;
}

/** What has been seen is too old to be taken up: everything is listed again. */
class Expired extends Error {}

export class KubernetesApi implements Disposable {
  readonly server: string;
  readonly #token: string | undefined;
  readonly #client: Deno.HttpClient | undefined;

  /** Throws Error when there is no server to ask, or its certificate authority cannot be read. */
  constructor({ api_server, token_file, ca_file }: KubernetesConfig) {
    const [host, port] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"].map((name) => Deno.env.get(name));
    if (api_server === undefined && host === undefined) {
      throw new Error("there is no Kubernetes API server: not in a pod, and kubernetes.api_server is not set");
    }
    this.server = api_server ?? `https://${host!.includes(":") ? `[${host}]` : host}:${port ?? "443"}`;
    const inPod = api_server === undefined;
    this.#token = token_file ?? (inPod ? `${ACCOUNT_FOLDER}/token` : undefined);
    const ca = ca_file ?? (inPod ? `${ACCOUNT_FOLDER}/ca.crt` : undefined);
    this.#client = ca === undefined ? undefined : Deno.createHttpClient({ caCerts: [Deno.readTextFileSync(ca)] });
  }

  async #fetch(path: string, query: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const headers = new Headers({ accept: "application/json" });
    if (this.#token !== undefined) {
      headers.set("authorization", `Bearer ${(await Deno.readTextFile(this.#token)).trim()}`);
    }
    const url = `${this.server}${path}?${new URLSearchParams(query)}`;
    const response = await fetch(url, { headers, signal, client: this.#client } as RequestInit);
    if (response.status === 410) throw new Expired(await response.text());
    if (response.ok) return response;
    const text = await response.text();
    let message = text.slice(0, 300);
    try {
      message = JSON.parse(text).message ?? message;
    } catch {
      // not the server's own words
    }
    throw new Error(`${response.status} of ${path}: ${message}`);
  }

  async #list<T>({ path, labelSelector, fieldSelector }: Resource, signal: AbortSignal) {
    const objects: T[] = [];
    let resourceVersion = "";
    for (let next: string | undefined = ""; next !== undefined;) {
      const within = AbortSignal.any([signal, AbortSignal.timeout(REQUEST_MS)]);
      const query = selectors(labelSelector, fieldSelector);
      const response = await this.#fetch(
        path,
        { ...query, limit: String(PAGE), ...(next && { continue: next }) },
        within,
      );
      const page = await response.json() as {
        items?: T[];
        metadata: { resourceVersion: string; continue?: string };
      };
      objects.push(...page.items ?? []);
      resourceVersion = page.metadata.resourceVersion;
      next = page.metadata.continue || undefined;
    }
    return { objects, resourceVersion };
  }

  /** Tells all objects, then every change, until the signal aborts. Throws Error when the server cannot be asked. */
  async *watch<T extends KubernetesObject>(resource: Resource, signal: AbortSignal): AsyncGenerator<Change<T>> {
    for (let lost = 0; !signal.aborted;) {
      const began = performance.now();
      try {
        const { objects, resourceVersion } = await this.#list<T>(resource, signal);
        yield { kind: "all", objects };
        yield* this.#follow<T>(resource, resourceVersion, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Expired)) throw error;
        lost = performance.now() - began < SHORT_MS ? lost + 1 : 0;
        if (lost > MAX_LOST) throw new Error(`${resource.path}: the server forgets what it lists`);
      }
    }
  }

  async *#follow<T extends KubernetesObject>(
    { path, labelSelector, fieldSelector }: Resource,
    resourceVersion: string,
    signal: AbortSignal,
  ): AsyncGenerator<Change<T>> {
    while (!signal.aborted) {
      const began = performance.now();
      let told = false;
      const silence = new AbortController();
      const within = AbortSignal.any([signal, silence.signal]);
      const query = {
        ...selectors(labelSelector, fieldSelector),
        watch: "1",
        allowWatchBookmarks: "true",
        timeoutSeconds: String(WATCH_S),
        resourceVersion,
      };
      let timer = setTimeout(() => silence.abort(new Error("the watch fell silent")), SILENCE_MS);
      try {
        const response = await this.#fetch(path, query, within);
        for await (const events of lines<Event<T>>(response.body!)) {
          told = true;
          clearTimeout(timer);
          timer = setTimeout(() => silence.abort(new Error("the watch fell silent")), SILENCE_MS);
          const changes = gather(events);
          resourceVersion = changes.resourceVersion ?? resourceVersion;
          if (changes.changed.length + changes.gone.length > 0) yield { kind: "some", ...changes };
        }
      } finally {
        clearTimeout(timer);
      }
      if (!told && performance.now() - began < SHORT_MS) {
        await pause(SHORT_MS, systemClock, signal);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#client?.close();
  }
}

function selectors(labelSelector: string | undefined, fieldSelector: string | undefined): Record<string, string> {
  return { ...(labelSelector && { labelSelector }), ...(fieldSelector && { fieldSelector }) };
}

// What some events come to: of an object that changed twice, the last word.
function gather<T extends KubernetesObject>(events: readonly Event<T>[]) {
  const last = new Map<string, Event<T>>();
  let resourceVersion: string | undefined;
  for (const event of events) {
    if (event.type === "ERROR") {
      const { code, message } = event.object as unknown as { code?: number; message?: string };
      if (code === 410) throw new Expired(message);
      throw new Error(`the watch ended: ${message ?? JSON.stringify(event.object)}`);
    }
    resourceVersion = event.object.metadata.resourceVersion;
    if (event.type !== "BOOKMARK") last.set(event.object.metadata.name, event);
  }
  const all = [...last.values()];
  const of = (deleted: boolean) =>
    all.filter(({ type }) => (type === "DELETED") === deleted).map(({ object }) => object);
  return { resourceVersion, changed: of(false), gone: of(true) };
}

/** Values of JSON, one a line; those that came together are told together. */
async function* lines<T>(body: ReadableStream<Uint8Array>): AsyncGenerator<T[]> {
  const decoder = new TextDecoder();
  let rest: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of body) {
    const end = piece.lastIndexOf(10);
    if (end < 0) {
      rest.push(piece);
      bytes += piece.length;
      if (bytes > MAX_LINE_BYTES) throw new Error(`a line of the watch is longer than ${MAX_LINE_BYTES} bytes`);
      continue;
    }
    const text = decoder.decode(concat([...rest, piece.subarray(0, end)]));
    rest = [piece.slice(end + 1)];
    bytes = rest[0].length;
    yield text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as T);
  }
}
