// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Discoveries } from "../../src/control/discoveries.ts";
import { type Discovery, endpointKey, type EndpointSpec, type Update } from "../../src/discovery/discovery.ts";
import { KeptLog, settle } from "../support/parts.ts";

const spec = (port: number, labels: Record<string, string> = {}): EndpointSpec => ({
  host: "10.0.0.1",
  port,
  rank: 0,
  labels,
});
const reset = (...ports: number[]): Update => ({
  kind: "reset",
  cluster: "c",
  endpoints: ports.map((port) => spec(port)),
});
const SYNCED: Update = { kind: "synced" };

/** A source that tells what the test hands it, and fails when it is handed an error. */
class Told implements Discovery {
  watched = 0;
  #queue: (Update | Error)[] = [];
  #wake: () => void = () => {};
  constructor(readonly name: string) {}
  tell(...updates: (Update | Error)[]): void {
    this.#queue.push(...updates);
    this.#wake();
  }
  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    this.watched++;
    signal.addEventListener("abort", () => this.#wake());
    while (!signal.aborted) {
      const next = this.#queue.shift();
      if (next instanceof Error) throw next;
      if (next !== undefined) yield next;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }
}

function parts() {
  const clock = new ManualClock();
  const log = new KeptLog();
  const applied = new Map<string, string[]>();
  let times = 0;
  const discoveries = new Discoveries(clock, log, (cluster, endpoints) => {
    applied.set(cluster, endpoints.map(endpointKey).toSorted());
    times++;
  });
  return { clock, log, discoveries, ports: () => applied.get("c"), times: () => times };
}

Deno.test("Discoveries: a cluster's endpoints are those of all its sources, the first one's labels counting", async () => {
  const { discoveries, ports } = parts();
  const [one, two] = [new Told("one"), new Told("two")];
  discoveries.set(new Map([["1", one], ["2", two]]));
  one.tell({ kind: "reset", cluster: "c", endpoints: [spec(1, { from: "one" })] }, SYNCED);
  two.tell({ kind: "reset", cluster: "c", endpoints: [spec(1, { from: "two" }), spec(2)] }, SYNCED);
  await settle();
  assertEquals(ports(), ["10.0.0.1:1", "10.0.0.1:2"]);
  assertEquals(discoveries.endpointsOf("c").map(({ labels }) => labels), [{ from: "one" }, {}]);
  two.tell({ kind: "remove", ids: [{ cluster: "c", host: "10.0.0.1", port: 2, rank: 0 }] });
  one.tell({ kind: "does_not_exist", cluster: "c" });
  await settle();
  assertEquals([ports(), discoveries.endpointsOf("c")[0].labels], [["10.0.0.1:1"], { from: "two" }]);
  await discoveries.stop();
});

Deno.test("Discoveries: a source that fails keeps what it told, is watched again after a growing pause, and is logged once", async () => {
  const { clock, log, discoveries, ports } = parts();
  const source = new Told("s");
  discoveries.set(new Map([["1", source]]));
  source.tell(reset(1), SYNCED);
  await settle();
  let pauseMs = 200;
  for (let i = 0; i < 9; i++) {
    source.tell(new Error("no route"));
    await settle();
    const watched = source.watched;
    clock.advance(pauseMs - 1);
    await settle();
    assertEquals([source.watched, ports()], [watched, ["10.0.0.1:1"]], `${pauseMs} ms`);
    clock.advance(1);
    await settle();
    assertEquals(source.watched, watched + 1);
    pauseMs = Math.min(10_000, 2 * pauseMs);
  }
  assertEquals(log.lines, ["warn a source of endpoints fails; what it told last stays"]);
  source.tell(reset(2));
  await settle();
  assertEquals([ports(), log.lines.at(-1)], [["10.0.0.1:2"], "info a source of endpoints works again"]);
  // One that fails as soon as it has told something is asked no sooner for that.
  source.tell(new Error("again"));
  await settle();
  clock.advance(9_999);
  await settle();
  assertEquals(source.watched, 10);
  clock.advance(1);
  await settle();
  source.tell(reset(2));
  await settle();
  clock.advance(10_000);
  source.tell(new Error("once more"));
  await settle();
  clock.advance(200); // the first pause again
  await settle();
  assertEquals(source.watched, 12);
  await discoveries.stop();
});

Deno.test("Discoveries: heard waits for the first words of all, for a failure, or for its time", async () => {
  const { clock, discoveries } = parts();
  const [one, two, silent] = [new Told("one"), new Told("two"), new Told("silent")];
  discoveries.set(new Map([["1", one], ["2", two]]));
  let heard = false;
  const hearing = discoveries.heard(3_000).then(() => heard = true);
  one.tell(SYNCED);
  await settle();
  assertEquals(heard, false);
  two.tell(new Error("refused"));
  await hearing;
  await discoveries.heard(3_000); // at once
  discoveries.set(new Map([["1", one], ["2", two], ["3", silent]]));
  const waiting = discoveries.heard(3_000);
  await settle();
  clock.advance(3_000);
  await waiting;
  await discoveries.stop();
});

Deno.test("Discoveries: what a source told that has gone stays until the one in its place has spoken, at most 5 s", async () => {
  for (const speaks of [true, false]) {
    const { clock, discoveries, ports } = parts();
    const [old, fresh] = [new Told("old"), new Told("fresh")];
    discoveries.set(new Map([["1", old]]));
    old.tell(reset(1), SYNCED);
    await settle();
    discoveries.set(new Map([["2", fresh]]));
    await settle();
    assertEquals(discoveries.endpointsOf("c").length, 1);
    old.tell(reset(7));
    await settle();
    assertEquals(ports(), ["10.0.0.1:1"], "it is not heard any more");
    if (speaks) fresh.tell(reset(2), SYNCED);
    await settle();
    if (!speaks) clock.advance(4_999);
    assertEquals(ports(), speaks ? ["10.0.0.1:2"] : ["10.0.0.1:1"]);
    clock.advance(1);
    assertEquals(ports(), speaks ? ["10.0.0.1:2"] : []);
    await discoveries.stop();
  }
});

Deno.test("Discoveries: a source that stays is not watched anew; stop ends all, pauses included", async () => {
  const { clock, discoveries, times } = parts();
  const [stays, fails] = [new Told("stays"), new Told("fails")];
  discoveries.set(new Map([["1", stays], ["2", fails]]));
  fails.tell(new Error("no"));
  await settle();
  discoveries.set(new Map([["1", stays], ["2", fails]]));
  await settle();
  assertEquals([stays.watched, fails.watched], [1, 1]);
  await discoveries.stop();
  const before = times();
  stays.tell(reset(1));
  clock.advance(60_000);
  await settle();
  assertEquals([stays.watched, fails.watched, times()], [1, 1, before]);
});

Deno.test("Discoveries: whose labels count follows the order of the newest configuration", async () => {
  const { discoveries } = parts();
  const [one, two] = [new Told("one"), new Told("two")];
  discoveries.set(new Map([["1", one], ["2", two]]));
  one.tell({ kind: "reset", cluster: "c", endpoints: [spec(1, { from: "one" })] }, SYNCED);
  two.tell({ kind: "reset", cluster: "c", endpoints: [spec(1, { from: "two" })] }, SYNCED);
  await settle();
  const labels = () => discoveries.endpointsOf("c").map(({ labels: { from } }) => from);
  assertEquals(labels(), ["one"]);
  discoveries.set(new Map([["2", two], ["1", one]]));
  assertEquals([labels(), one.watched, two.watched], [["two"], 1, 1]);
  discoveries.set(new Map([["3", new Told("three")], ["1", one], ["2", two]]));
  assertEquals(labels(), ["one"]);
  await discoveries.stop();
});
