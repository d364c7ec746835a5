// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Config } from "../../src/config/schema.ts";
import type { ControlPlane } from "../../src/control/control_plane.ts";
import { Reloader } from "../../src/control/reloader.ts";
import { RegistryFull } from "../../src/tables/registry.ts";
import { KeptLog, settle } from "../support/parts.ts";

const config = (retries: number) => parseConfig({ retries });

/** A reloader whose source is read when the test lets it. */
function parts() {
  const clock = new ManualClock(1_000);
  const log = new KeptLog();
  const reads: PromiseWithResolvers<Config>[] = [];
  const put: number[] = [];
  const control = {
    config: config(0),
    snapshot: { version: 1, access: new Map() },
    apply(wanted: Config) {
      this.config = wanted;
      put.push(wanted.retries);
    },
  };
  const reloader = new Reloader({
    source: {
      name: "test.yaml",
      load() {
        reads.push(Promise.withResolvers<Config>());
        return reads.at(-1)!.promise;
      },
      files: () => [],
    },
    control: control as unknown as ControlPlane,
    clock,
    log,
    prepare: () => Promise.resolve(() => {}),
  });
  return { clock, log, reads, put, control, reloader };
}

Deno.test("Reloader: applied, unchanged, refused; what was in force stays when it is refused", async () => {
  const { clock, log, reads, put, reloader } = parts();
  const reload = async (outcome: Config | Error) => {
    const reloading = reloader.reload("asked for");
    if (outcome instanceof Error) reads.at(-1)!.reject(outcome);
    else reads.at(-1)!.resolve(outcome);
    return (await reloading).result;
  };
  assertEquals(await reload(config(2)), "applied");
  clock.advance(10);
  assertEquals(await reload(config(2)), "unchanged");
  clock.advance(10);
  for (let i = 0; i < 3; i++) assertEquals(await reload(new Error("line 3: what?")), "refused");
  assertEquals(put, [2]);
  const { last_error, last_success, in_force_since, counts } = reloader.view();
  assertEquals([last_error, last_success, in_force_since], ["line 3: what?", 1_010, 1_000]);
  assertEquals(counts, { applied: 1, unchanged: 1, refused: 3 });
  assertEquals(log.lines.filter((line) => line.startsWith("error")).length, 1, "the same error is logged once");
  assertEquals(await reload(config(2)), "unchanged");
  assertEquals(reloader.view().last_error, null);
});

Deno.test("Reloader: who asks while one is read gets what is read after, and so do all who ask meanwhile", async () => {
  const { reads, put, reloader } = parts();
  const first = reloader.reload("a file changed");
  const [second, third] = [reloader.reload("asked for"), reloader.reload("asked for")];
  await settle();
  assertEquals(reads.length, 1);
  reads[0].resolve(config(1));
  assertEquals((await first).result, "applied");
  await settle();
  assertEquals(reads.length, 2);
  const fourth = reloader.reload("asked for");
  reads[1].resolve(config(2));
  assertEquals([(await second).result, (await third).result], ["applied", "applied"]);
  await settle();
  assertEquals(reads.length, 3, "the second was under way when the fourth was asked for");
  reads[2].resolve(config(2));
  assertEquals([(await fourth).result, put], ["unchanged", [1, 2]]);
  const fifth = reloader.reload("asked for");
  assertEquals(reads.length, 4);
  reads[3].reject(new Error("no"));
  assertEquals((await fifth).result, "refused");
});

Deno.test("Reloader: what was being read when the gateway stops is not put into force", async () => {
  const { clock, reads, put, reloader } = parts();
  await reloader.start();
  const reloading = reloader.reload("a file changed");
  await settle();
  reloader.stop();
  reads[0].resolve(config(3));
  assertEquals([(await reloading).result, put], ["refused", []]);
  clock.advance(60_000);
  await settle();
  assertEquals(reads.length, 1, "and no file is looked at any more");
});

Deno.test("Reloader: what only a new process can take on is named, the rest comes into force", async () => {
  const { reads, control, reloader } = parts();
  const reloading = reloader.reload("asked for");
  reads[0].resolve(parseConfig({ retries: 3, listen: "127.0.0.1:9" }));
  const { result, changes } = await reloading;
  assertEquals([result, changes?.restart, reloader.view().restart_needed_for], ["applied", ["listen"], ["listen"]]);
  assertEquals([control.config.retries, control.config.listen], [3, "0.0.0.0:10000"]);
});

Deno.test("Reloader: a valid change that finds no rows is tried again until it does, without a change of the files", async () => {
  const { clock, reads, put, control, reloader } = parts();
  const { apply } = control;
  control.apply = () => {
    throw new RegistryFull("no row is free for the model x");
  };
  await reloader.start();
  const interval = control.config.reload.interval_ms;
  const first = reloader.reload("a file changed");
  reads[0].resolve(config(2));
  assertEquals((await first).result, "refused");
  for (let i = 1; i <= 3; i++) {
    clock.advance(interval);
    await settle();
    assertEquals(reads.length, 1 + i);
    assertEquals(reloader.view().last_error, "no row is free for the model x");
    if (i === 3) control.apply = apply;
    reads[i].resolve(config(2));
    await settle();
  }
  assertEquals([put, reloader.view().last_error, reloader.view().counts.applied], [[2], null, 1]);
  for (let i = 0; i < 3; i++) {
    clock.advance(interval);
    await settle();
  }
  assertEquals(reads.length, 4);
  reloader.stop();
});
