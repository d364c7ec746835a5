// SPDX-License-Identifier: Apache-2.0
// Logs that several threads write to, and that are moved aside when they are large.

import { assert, assertEquals } from "@std/assert";
import { asideOf, LineFile } from "../../src/telemetry/line_file.ts";

const KEPT = { megabytes: 1, files: 0, days: 0, compress: false };

async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const filesIn = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

async function textOf(path: string): Promise<string> {
  const file = await Deno.open(path);
  const plain = path.endsWith(".gz") ? file.readable.pipeThrough(new DecompressionStream("gzip")) : file.readable;
  return await new Response(plain).text();
}

Deno.test("LineFile: no line is lost or torn when two write to one file and either moves it aside", () =>
  inFolder(async (folder) => {
    const path = `${folder}/a.log`;
    const writers = [0, 1].map(() => new LineFile({ path, lines: 10_000, rotation: KEPT }));
    let written = 0;
    for (let round = 0; round < 60; round++) {
      for (const writer of writers) {
        for (let i = 0; i < 50; i++) writer.write(`${written++} ${"x".repeat(1_000)}`);
        writer.flush();
      }
      // Names have the millisecond in them.
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    for (const writer of writers) {
      writer.close();
      await writer.tidied;
    }
    const files = filesIn(folder);
    assert(files.length >= 5, `6 MB are several files: ${files}`);
    const numbers = new Set<number>();
    for (const file of files) {
      for (const line of (await textOf(`${folder}/${file}`)).trimEnd().split("\n")) {
        const [number, rest] = line.split(" ");
        assertEquals(rest.length, 1_000, "a whole line");
        numbers.add(Number(number));
      }
    }
    assertEquals([numbers.size, writers[0].dropped, writers[1].dropped], [written, 0, 0]);
  }));

Deno.test("LineFile: what is moved aside is compressed, and goes when there is too much of it or it is too old", () =>
  inFolder(async (folder) => {
    const path = `${folder}/b.log`;
    for (const day of [1, 2, 20]) {
      await Deno.writeTextFile(asideOf(path, new Date(Date.now() - day * 86_400_000)), `${day}`);
    }
    await Deno.writeTextFile(`${folder}/b-of-somebody-else.log`, "kept");
    const file = new LineFile({ path, lines: 10, rotation: { megabytes: 1, files: 2, days: 7, compress: true } });
    file.write("y".repeat(1_100_000));
    file.flush();
    file.write("behind");
    file.flush();
    await file.tidied;
    file.close();
    const files = filesIn(folder);
    assertEquals(files.length, 4, `the log, two aside, and the stranger: ${files}`);
    assert(files.includes("b-of-somebody-else.log"));
    const aside = files.filter((name) => name.endsWith(".log.gz"));
    assertEquals(aside.length, 2);
    assertEquals(await textOf(`${folder}/${aside[0]}`), "1", "the younger of those that were there");
    assertEquals(await textOf(`${folder}/${aside[1]}`), `${"y".repeat(1_100_000)}\n`);
    assertEquals(await textOf(path), "behind\n");
  }));

Deno.test("LineFile: a file that another program moved away is begun anew; one that cannot be written costs its lines", () =>
  inFolder((folder) => {
    const path = `${folder}/c.log`;
    const told: string[] = [];
    const file = new LineFile({ path, lines: 10, failed: ({ message }) => told.push(message) });
    file.write("1");
    file.flush();
    Deno.renameSync(path, `${folder}/c.old`);
    file.write("2");
    file.flush();
    assertEquals([Deno.readTextFileSync(`${folder}/c.old`), Deno.readTextFileSync(path)], ["1\n", "2\n"]);
    Deno.removeSync(path);
    Deno.mkdirSync(path);
    for (const line of ["3", "4"]) {
      file.write(line);
      file.flush();
    }
    assertEquals([file.dropped, told.length], [2, 1], "said once");
    Deno.removeSync(path);
    file.write("5");
    file.flush();
    file.close();
    assertEquals([file.dropped, Deno.readTextFileSync(path)], [2, "5\n"]);
    return Promise.resolve();
  }));

Deno.test("LineFile: a slow reader of standard output holds nobody up, gets whole lines in pieces that a pipe takes as one", async () => {
  const taken: Uint8Array[] = [];
  let release = Promise.withResolvers<void>();
  const output = {
    async write(bytes: Uint8Array) {
      await release.promise;
      const part = bytes.slice(0, 3_000); // it may take less than it is given
      taken.push(part);
      return part.length;
    },
  };
  const file = new LineFile({ path: "-", lines: 100, output });
  const lines = Array.from({ length: 150 }, (_, i) => `${i} ${"y".repeat(i === 3 ? 9_000 : 90)}`);
  file.write(lines[0]);
  file.flush();
  for (const line of lines.slice(1)) file.write(line);
  file.flush(); // while the first is on its way
  assertEquals([file.dropped, taken.length], [49, 0]);
  release.resolve();
  release = Promise.withResolvers();
  release.resolve();
  await file.close();
  const text = new TextDecoder().decode(taken.reduce((all, one) => new Uint8Array([...all, ...one]), new Uint8Array()));
  assertEquals(text, `${lines.slice(0, 101).join("\n")}\n`);
});

Deno.test("LineFile: what standard output does not take is counted, and told once", async () => {
  const told: string[] = [];
  const output = { write: () => Promise.reject(new Error("broken pipe")) };
  const file = new LineFile({ path: "-", lines: 100, output, failed: ({ message }) => told.push(message) });
  for (let round = 0; round < 3; round++) {
    file.write("a");
    file.write("b");
    await file.close();
  }
  assertEquals([file.dropped, told], [6, ["broken pipe"]]);
});

Deno.test("LineFile: what several compress at once is whole, and no part of it is left", () =>
  inFolder(async (folder) => {
    const path = `${folder}/c.log`;
    const text = `${"z".repeat(3_000_000)}\n`;
    await Deno.writeTextFile(asideOf(path, new Date(Date.now() - 60_000)), text);
    const failures: string[] = [];
    const failed = ({ message }: Error) => failures.push(message);
    const rotation = { megabytes: 1, files: 9, days: 0, compress: true };
    const writers = [0, 1, 2].map(() => new LineFile({ path, lines: 10, rotation, failed }));
    for (const writer of writers) {
      writer.write("y".repeat(1_100_000));
      writer.flush();
      await new Promise((resolve) => setTimeout(resolve, 2)); // names have the millisecond in them
    }
    writers[0].write("behind");
    writers[0].flush();
    for (const writer of writers) {
      await writer.tidied;
      writer.close();
    }
    assertEquals(failures, []);
    const files = filesIn(folder);
    assertEquals(files.filter((name) => name.endsWith(".part")), []);
    assertEquals(await textOf(`${folder}/${files.filter((name) => name.endsWith(".gz"))[0]}`), text);
  }));
